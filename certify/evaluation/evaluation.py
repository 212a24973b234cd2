"""All methods on the same inputs: per input and norm, what is proved next to what was broken."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bounds import NoiseRatioTest, checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidConfiguration, InvalidInput
from certify.curves import AccuracyCurve
from certify.distribution.engines import Engine
from certify.distribution.shards import Shard
from certify.durations import seconds_of
from certify.evaluation.arguments import asked_evaluation
from certify.evaluation.benches import engine_of, run_elsewhere
from certify.evaluation.budget.costs import CostEstimate
from certify.evaluation.budget.known import known_batches, known_sizes
from certify.evaluation.budget.meter import Clock
from certify.evaluation.budget.probe import LEAST_BUDGET, PROBE_SHARE, Asking, probe_costs
from certify.evaluation.budget.row_memory import rows_of_passes
from certify.evaluation.budget.schedule import Timing
from certify.evaluation.callbacks import Callback
from certify.evaluation.labelled import Inputs
from certify.evaluation.left_out import left_out
from certify.evaluation.storage.durable import write_whole
from certify.evaluation.storage.run_directory import RunDirectory, reported
from certify.evaluation.storage.stored import require_whole
from certify.evaluation.summaries.comparisons import Contradiction, Outside, comparable, contradictions, outside
from certify.evaluation.summaries.cross_sections import (
    bytes_of_planes,
    inputs_with_planes,
    planes_of,
    read_planes,
    write_planes,
)
from certify.evaluation.summaries.details import details_of
from certify.evaluation.summaries.groups import (
    GROUP,
    GroupAccuracies,
    Groups,
    digest_of_groups,
    group_accuracies,
    members_of,
    stated_groups,
)
from certify.evaluation.summaries.sheets import curve_figures, sheets_of
from certify.evaluation.summaries.tables import are_images, curves_of, dataframe, lines_of, rows_of, summary_of
from certify.evaluation.units import in_order, units_done
from certify.evaluation.work import HELD, Plan, Work
from certify.exports.figures import COLUMN
from certify.exports.files import DRAWN, formats_of, write_export
from certify.methods import BY_NAME, STANDARD, Problem
from certify.models import probed_once
from certify.report import Page, Study, norm_name, render
from certify.report.columns import COLUMNS, Column, Line, printed
from certify.report.inputs.planes import CROSS_SECTIONS, Plane
from certify.requirements import JudgedRequirement, judged_requirements
from certify.sizes import bytes_of

if TYPE_CHECKING:
    import pandas as pd

    from certify.attacks.studies.gradient_masking import GradientMaskingReport

Progress = Callable[[str, int, int], None]  # name of the unit just finished, units done, units in all


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one evaluation, as they stand on disk.

    Attributes:
        manifest: versions, device, seed, configuration, hashes of weights and data.
        records: one mapping per finished unit, with its rows.
        tensors: by unit, the clean and adversarial inputs that attacks stored, with their logits. Those of a run
            directory with more than 64 MiB of them are read from there as they are looked at.
        planes: cross sections through some inputs.
    """

    manifest: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    planes: Sequence[Plane] = ()

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """The evaluation stored in a run directory, finished or not.

        Raises:
            InvalidConfiguration: there is no run, or a part of it is damaged.
        """
        run = RunDirectory.read(path)
        records, tensors = _stored(run)
        return cls(run.manifest, in_order(records, run.manifest["configuration"]), tensors, read_planes(run.path))

    def save(self, path: Path | str) -> None:
        """Store everything in a run directory; units that are there already are left alone."""
        run = RunDirectory.open(path, self.manifest)
        present = run.records()
        for record in self.records:
            if record["unit"] not in present:
                run.append(record, self.tensors.get(record["unit"]))
        if self.planes:
            write_planes(run.path, self.planes)

    def __repr__(self) -> str:
        """The inputs, methods and units, in one line: records may be megabytes."""
        rows = self.rows()
        methods = [f"{method} in {norm_name(norm)}" for norm, method in dict.fromkeys(map(_norm_and_method, rows))]
        done, units = self._progress()
        count = len({row["index"] for row in rows})
        inputs, results = f"{count} input" + "s" * (count != 1), ", ".join(methods) or "no results yet"
        return f"Evaluation({inputs}, {done} of {units} units: {results})"

    def _repr_html_(self) -> str:
        """One line and the table of methods, for notebooks."""
        from html import escape

        lines = self.lines()
        shown = summary_of(lines, printed(COLUMNS, lines, "table"))
        return f"<p>{escape(repr(self))}</p>{shown.to_html(index=False, na_rep='', float_format='{:.4g}'.format)}"

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per input, norm and method, in plain numbers; see :meth:`to_dataframe`."""
        return rows_of(self.records)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, norm and method.

        ``certified_radius``, ``estimated_distance`` and ``attack_distance`` never share a row: each kind of result
        leaves the others empty (NaN). ``certified_radius`` is about the label, whatever the method: 0 where the
        classifier names another class or none. ``attack_distance`` is infinite where nothing was found.

        ``predicted`` is the class that the method's subject names for the clean input, empty where it abstains
        (``prediction`` then has the class with the most votes); ``correct`` says whether it is the label. So
        ``table.correct & (table.certified_radius >= r)`` are the rows that a certified curve counts at r.
        """
        return dataframe(self.rows())

    def curves(self) -> list[AccuracyCurve]:
        """Certified and attacked accuracy against the radius, one curve per method and norm that has results."""
        return curves_of(self.rows())

    def clean_accuracy(self) -> float:
        """Share of inputs that the model itself classifies correctly; NaN without any record."""
        right = {row["index"]: row["base_prediction"] == row["label"] for row in self.rows()}
        return float(sum(right.values()) / len(right)) if right else math.nan

    def lines(self) -> list[Line]:
        """Results by norm and method: what the columns of :meth:`summary` are made from."""
        return lines_of(self.rows(), are_images(self.manifest))

    def summary(self, columns: Sequence[Column] = COLUMNS) -> "pd.DataFrame":
        """One row per norm and method: what it promises, how often it succeeded, the cost.

        ``correct`` counts the rows whose class, or whose top class where the subject abstains, is the label, and
        ``median`` is that of their radii or distances. ``blind`` counts the searches that saw no gradient but 0.
        ``columns`` may hold some of one's own besides :data:`certify.report.COLUMNS`.
        """
        return summary_of(self.lines(), columns)

    def check(self) -> list[Contradiction]:
        """Certificates refuted by a witness of the same subject, found in whatever norm; empty if all agree."""
        return contradictions(self.rows(), are_images(self.manifest))

    def outside(self) -> list[Outside]:
        """Estimates that lie outside what is proved and what was found, of the same input, norm and classifier."""
        return outside(self.rows(), are_images(self.manifest))

    def by_group(
        self,
        groups: Groups | None = None,
        *,
        radius: float | Mapping[float, float] | None = None,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> GroupAccuracies:
        """Certified and attacked accuracy of groups of inputs, with a test that all are equally robust.

        The intervals of all groups of one method and norm hold at once (exact, Sidak). The test is Pearson's chi-square
        test, by permutations where groups are small; its p-values are corrected for all methods and norms (Holm).

        Args:
            groups: whole numbers or texts, one per input in the order of the inputs; or the name of a column of
                :meth:`to_dataframe`, such as ``"label"``. None for the groups that :func:`certify.evaluate` was
                given, or else the class labels.
            radius: at which inputs are counted, for all norms or by norm. None for a round one at which the certified
                accuracy of all inputs is near to half of its value at 0; groups have no say in it.
            confidence: of the intervals, and of the sentence that says whether groups differ.
            seed: of the permutations.

        Raises:
            InvalidInput: no such column, or another number of groups than of inputs.
        """
        rows = self.rows()
        by, members = members_of(rows, groups)
        return group_accuracies(rows, by, members, radius, confidence, seed)

    def export(
        self,
        path: Path | str,
        formats: str | Sequence[str] = ("csv", "latex", "markdown", "pdf"),
        *,
        width: float = COLUMN,
    ) -> list[Path]:
        """Write tables and curves into a folder, and return the files.

        Args:
            path: the folder; files of the same names are replaced.
            formats: some of csv, parquet, latex, markdown, json, pdf, svg and png, as a list or with commas. LaTeX and
                Markdown have the tables for readers, the others all rows and curves.
            width: of figures, in inches; fonts are part of the files.

        Raises:
            InvalidInput: an unknown format, or one whose package is missing.
            InvalidConfiguration: a file cannot be written.
        """
        chosen = formats_of(formats)
        figures = curve_figures(self.curves(), self.clean_accuracy()) if {*DRAWN} & {*chosen} else {}
        sheets = sheets_of(self.rows(), self.lines(), self.stated_groups())
        return write_export(path, chosen, sheets, figures, about={"manifest": self.manifest}, width=width)

    def stated_groups(self) -> GroupAccuracies | None:
        """Accuracy by the groups that :func:`certify.evaluate` was given; None without groups, or without curves."""
        stated = any(row.get(GROUP) is not None for row in self.rows())
        return self.by_group() if stated and self.curves() else None

    def comparisons(self) -> int:
        """Number of certificates for which a witness of the same input and subject is known."""
        return len(comparable(self.rows()))

    def unfinished(self) -> tuple[int, int] | None:
        """Units of work done and in all, or None if the run is complete; units that it does not know do not count."""
        done, units = self._progress()
        return None if done >= units else (done, units)

    def _progress(self) -> tuple[int, int]:
        configuration, names = self.manifest.get("configuration", {}), {record["unit"] for record in self.records}
        plan, first = configuration.get("plan"), configuration.get("first_index", 0)
        if plan is None:  # made by hand
            return len(names), configuration.get("units", len(names))
        return units_done(names, plan, configuration.get("inputs", 0), first)

    def left_out(self) -> list[str]:
        """Work that was left out, and why, a sentence for each method and norm; empty if everything was."""
        return left_out(self.records, self.manifest)

    def requirements(self) -> list[JudgedRequirement]:
        """The thresholds of the run's configuration, each with the numbers that decide whether it is met."""
        return judged_requirements(self.manifest, self.curves(), are_images(self.manifest))

    def missed_requirements(self) -> list[str]:
        """The thresholds of the run's configuration that its results miss, a sentence each."""
        return [str(requirement) for requirement in self.requirements() if not requirement.met]

    def to_html(
        self,
        path: Path | str,
        *,
        noise: NoiseRatioTest | None = None,
        masking: "GradientMaskingReport | None" = None,
        columns: Sequence[Column] = COLUMNS,
        classes: Sequence[str] | None = None,
        tokens: Sequence[Sequence[str]] = (),
        studies: Mapping[str, Study] | None = None,
    ) -> None:
        """Write the page: one self-contained HTML file.

        Args:
            path: of the file; its folder is made if it is not there.
            noise: what :func:`bounds.noise_ratio_test` found for the model, to have a section of the page.
            masking: what :func:`certify.attacks.gradient_masking` found, to stand below the table of methods.
            columns: of the table of methods.
            classes: names of the classes in the order of their labels; None for those that :func:`certify.evaluate`
                was given.
            tokens: of inputs that are texts, a list for each input in their order: the first dimension of an input.
            studies: records of other measurements by their titles, each a section of the page, with what it found in
                words, its plot and its table: any record with ``to_dataframe()`` and ``plot()``.

        Raises:
            InvalidInput: a study without these.
            InvalidConfiguration: the file cannot be written.
        """
        write_page(path, render(self.page(noise, masking, columns, classes, tokens, studies)))

    def page(
        self,
        noise: NoiseRatioTest | None = None,
        masking: "GradientMaskingReport | None" = None,
        columns: Sequence[Column] = COLUMNS,
        classes: Sequence[str] | None = None,
        tokens: Sequence[Sequence[str]] = (),
        studies: Mapping[str, Study] | None = None,
    ) -> Page:
        """Content of the page, see :meth:`to_html`."""
        lines, pairs = self.lines(), []
        groups = self.stated_groups()
        for record in self.records:
            stored = self.tensors.get(record["unit"]) or {}
            if "adversarial" in stored:
                pairs += [
                    (row, float(record["norm"]), clean, adversarial)
                    for row, clean, adversarial in zip(
                        record["rows"], stored["clean"], stored["adversarial"], strict=True
                    )
                ]
        return Page(
            manifest=self.manifest,
            curves=self.curves(),
            clean_accuracy=self.clean_accuracy(),
            summary=summary_of(lines, COLUMNS),
            rows=self.to_dataframe(),
            left_out=self.left_out(),
            contradictions=[str(contradiction) for contradiction in self.check()],
            outside=[str(estimate) for estimate in self.outside()],
            comparisons=self.comparisons(),
            unfinished=self.unfinished(),
            pairs=pairs,
            noise=noise,
            masking=masking,
            lines=lines,
            columns=columns,
            groups=[] if groups is None else groups.word_rows(),
            group_sentences=[] if groups is None else groups.sentences(),
            classes=self.manifest.get("classes", ()) if classes is None else classes,
            studies=studies,
            inputs=details_of(
                self.manifest, self.records, self.tensors, lines=lines, planes=self.planes, tokens=tokens
            ).payload(),
        )


def write_page(path: Path | str, page: str) -> None:
    """Write a page, and the folder for it."""
    path = Path(path)
    with reported(f"page {path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page.encode("utf-8"))


def _norm_and_method(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["norm"], row["method"]


@isolated
def evaluate(
    model: nn.Module,
    x: Inputs,
    labels: Tensor | None = None,
    *,
    norms: Sequence[float] | float = (2, math.inf),
    methods: Asking = STANDARD,
    low: Limit = 0.0,
    high: Limit = 1.0,
    seed: int = 0,
    batch_size: int = 1000,
    first_index: int = 0,
    on_grid: bool | None = None,
    output: Path | str | None = None,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    groups: Groups | None = None,
    callback: Callback | None = None,
    classes: Sequence[str] = (),
    budget: str | float | None = None,
    costs: CostEstimate | None = None,
    clock: Clock = time.perf_counter,
    features: Sequence[str] = (),
    cross_sections: int = CROSS_SECTIONS,
    shard: Shard | str | None = None,
    engine: Engine | str | None = None,
    memory: str | int | None = None,
) -> Evaluation:
    """Run every method on the same inputs, in every norm it serves.

    Certificates of the model itself and of the smoothed classifier, estimates if :class:`certify.methods.Clever` is
    asked for, and re-checked adversarial examples of the model, each in its own rows. A method that cannot treat the
    model gives rows of status ``"unsupported"``; the others go on.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row.
        x: (N, *D), floating, finite, inside the box; or a ``Dataset`` or ``DataLoader`` of torch, see
            :func:`certify.collect`.
        labels: (N,) correct classes. None for those of a data set or loader, and for the predictions of the model
            where ``x`` is a tensor: then all results are about these, and nothing counts as misclassified.
        norms: orders of norms, at least 1, or one of them; 0 counts changed entries.
        methods: settings from :mod:`certify.methods`, or names of methods for their defaults, several or one; by
            default smoothing, interval bounds and the minimum-norm attack. Or one of the presets ``"quick"``,
            ``"standard"`` and ``"thorough"``, which hold methods of every kind, alone or with settings that replace
            those of the same name. Of a preset, what cannot be done for the model or a norm is left out.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        seed: run seed of all random draws.
        batch_size: rows of a forward pass, at most.
        first_index: place of the first input in its data set, where ``x`` is a part of one. The noise of an input
            is that of its place, so that parts together give the votes of the whole. Searches share draws within
            units of work, at most 100 inputs: parts that are cut at multiples of 100 give the whole run, row by row.
        on_grid: whether all inputs of the whole data set are 8-bit, which decides how noise is drawn. None asks
            the inputs at hand, so say it where they are a part.
        output: run directory. Every finished unit of work is stored at once; if the directory holds a part of
            the same run, only the rest is computed.
        source: where model and data came from, for the manifest.
        progress: called after every unit.
        groups: the group of each input, whole numbers or texts (N,), or ``"label"`` for the classes. Groups determine
            no result; they stand in the rows, for :meth:`Evaluation.by_group`, page and exports.
        callback: called with every finished unit, also with those that ``output`` held already, once it is stored; see
            :class:`certify.FinishedUnit`. An exception ends the evaluation; with ``output`` it can be continued.
        classes: names of the classes in the order of their labels, for the page; empty if they have none.
        budget: time for everything from this call on, such as ``"30m"`` or ``"1h30m"``, or in seconds. Cheap methods
            come first, inputs whose certificate meets a witness are not run again, and what does not fit has rows of
            status ``"left out"``. With ``output``, a later call goes on with these.
        costs: as :func:`certify.estimate_cost` measured them for the same arguments. None measures them where a budget
            or a preset needs them. Units of work then take 30 seconds at most, unless a single input takes longer.
        clock: seconds since any moment, by which time and budget are counted.
        features: names of the entries of an input in their order, likewise.
        cross_sections: number of inputs through which the page shows a plane with the classes of the model, at most;
            each takes 1681 rows of forward passes, at the end, and an adversarial example. It changes no result.
        shard: ``"i/n"`` for one of n parts of the units, such as ``"2/8"``, with all inputs given to each;
            :func:`certify.merge` puts the parts together.
        engine: where units run: an engine of :mod:`certify.distribution`, or ``"processes"`` or ``"ray"`` for its
            defaults. None for this process. It changes no result; units are stored as they are done.
        memory: what the work may take besides the model, the inputs given as a tensor, and what the process held
            before, such as ``"4GB"``, or in bytes. Batches and units are cut to fit, by what a row is counted to take:
            ``batch_size`` is then a most. Each worker of an engine has as much. None for no limit.

    Raises:
        InvalidInput: a bad argument; a memory into which a method does not fit with a single input.
        InvalidModel: see :func:`certify.models.probe`.
        ManifestMismatch: ``output`` holds another run.
        InvalidConfiguration: ``output`` cannot be written.
    """
    checks.at_least("cross_sections", cross_sections, 0)
    started, most = clock(), math.inf if budget is None else seconds_of("budget", budget)
    part, elsewhere = Shard.of(shard), engine_of(engine)
    if budget is not None and not (part.whole and elsewhere is None):
        raise InvalidInput(f"budget must be left out with a shard or an engine, got {budget!r}: one process keeps it")
    with probed_once():
        allowed = None if memory is None else bytes_of("memory", memory)
        asked = (model, x, labels, norms, methods, (low, high), seed, batch_size, first_index, on_grid)
        task = asked_evaluation(*asked, allowed, known_batches(output, allowed))
        members = stated_groups(groups, task.problem.y, len(task.problem.x))
        if not part.whole:
            costs = None  # which might give the units of another shard another size
        elif costs is None and (budget is not None or task.choice.preset) and most >= LEAST_BUDGET:
            costs = probe_costs(task, clock, PROBE_SHARE * most, output)
        told = ({} if budget is None else {"budget": budget}) | dict(source or {})
        plan = Plan.of(task, costs, known_sizes(output), most)
        manifest = plan.manifest(told) | digest_of_groups(members) | ({} if part.whole else {"shard": str(part)})
        named = {"classes": classes, "features": features}
        manifest |= {key: [str(name) for name in names] for key, names in named.items() if names}
        plan = replace(plan, units=part.part(plan.units))
        run = None if output is None else RunDirectory.open(output, manifest)
        stored, tensors = ([], {}) if run is None else _stored(run)
        work = Work(plan, Timing(clock, started, most), costs, {record["unit"]: record for record in stored}, tensors)
        stated = {key: manifest[key] for key in ("versions", "device", "weights_sha256")}
        compute = None if elsewhere is None else partial(run_elsewhere, task=task, stated=stated, engine=elsewhere)
        with closing(work.finished(members, run, compute)) as finished:  # which ends the workers, whatever happens
            for unit in finished:
                if progress is not None:
                    progress(unit.name, unit.done, unit.units)
                if callback is not None:
                    callback(unit)
        records = [work.records[unit.name] for unit in plan.units if unit.name in work.records]
        evaluation = Evaluation(manifest if run is None else run.manifest, records, tensors)
        count = cross_sections if part.whole else 0
        return replace(evaluation, planes=_planes(evaluation, task.problem, task.norms, count, run))


def _planes(
    evaluation: Evaluation, problem: Problem, norms: Sequence[float], count: int, run: RunDirectory | None
) -> list[Plane]:
    """Cross sections through so many inputs, those that the run holds already or new ones."""
    indices = inputs_with_planes(evaluation.records, evaluation.tensors, count)
    planes = [] if run is None else read_planes(run.path)
    if [plane.index for plane in planes] != indices:
        rows = rows_of_passes(problem.model, problem.x, problem.batch_size, problem.memory, bytes_of_planes(problem))
        planes = planes_of(replace(problem, batch_size=rows), evaluation.records, evaluation.tensors, norms, indices)
        if run is not None:
            write_planes(run.path, planes)
    return planes


def _stored(run: RunDirectory) -> tuple[list[dict[str, Any]], dict[str, dict[str, Tensor]]]:
    """Records and tensors of a run, each with what the other needs."""
    records = list(run.records().values())
    settings = run.manifest["configuration"].get("methods", {})
    alphas = {
        name: table["alpha"]
        for name, table in settings.items()
        if "alpha" in table and table.get("class", name) in tuple(BY_NAME)
    }
    require_whole(records, run.path / "records.jsonl", alphas)
    large = sum(run.size(record["unit"]) for record in records) > HELD  # then they stay on the disk
    tensors = {record["unit"]: run.tensors(record["unit"], mapped=large) for record in records}
    for record in records:
        stored = tensors[record["unit"]]
        count = len(record["rows"])
        if "adversarial" in stored and any(len(stored.get(name, ())) != count for name in ("clean", "adversarial")):
            raise InvalidConfiguration(
                f"{run.path}: unit {record['unit']!r} has {count} rows in records.jsonl, but tensors of another number "
                "of inputs: restore the files"
            )
    return records, tensors
