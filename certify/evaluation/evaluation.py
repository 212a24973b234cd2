"""All methods on the same inputs: per input and norm, what is proved next to what was broken."""

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bounds import NoiseRatioTest, checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidConfiguration
from certify.curves import AccuracyCurve
from certify.distribution.engines import Engine
from certify.distribution.shards import Shard
from certify.evaluation.arguments import orders_of, problem_of, stated_on_grid
from certify.evaluation.benches import Found, engine_of, run_elsewhere
from certify.evaluation.callbacks import Callback, FinishedUnit
from certify.evaluation.comparisons import Contradiction, Outside, comparable, contradictions, outside
from certify.evaluation.groups import (
    GROUP,
    GroupAccuracies,
    Groups,
    digest_of_groups,
    group_accuracies,
    members_of,
    stated_groups,
    with_groups,
)
from certify.evaluation.labelled import Inputs, inputs_and_labels
from certify.evaluation.manifest import manifest_of
from certify.evaluation.run_directory import RunDirectory, reported
from certify.evaluation.sheets import curve_figures, sheets_of
from certify.evaluation.stored import require_whole
from certify.evaluation.tables import are_images, curves_of, dataframe, lines_of, rows_of, summary_of
from certify.evaluation.units import Unit, in_order, run_unit, units_done, units_of
from certify.exports.figures import COLUMN
from certify.exports.files import DRAWN, formats_of, write_export
from certify.methods import BY_NAME, Method, Problem, methods_of
from certify.models import probed_once
from certify.report import Page, norm_name, render
from certify.report.columns import COLUMNS, Column, Line, printed

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
        tensors: by unit, the clean and adversarial inputs that attacks stored.
    """

    manifest: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """The evaluation stored in a run directory, finished or not.

        Raises:
            InvalidConfiguration: there is no run, or a part of it is damaged.
        """
        run = RunDirectory.read(path)
        records, tensors = _stored(run)
        return cls(run.manifest, in_order(records, run.manifest["configuration"]), tensors)

    def save(self, path: Path | str) -> None:
        """Store everything in a run directory; units that are there already are left alone."""
        run = RunDirectory.open(path, self.manifest)
        present = run.records()
        for record in self.records:
            if record["unit"] not in present:
                run.append(record, self.tensors.get(record["unit"]))

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
        return contradictions(self.rows())

    def outside(self) -> list[Outside]:
        """Estimates that lie outside what is proved and what was found, of the same input, norm and classifier."""
        return outside(self.rows())

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

    def missed_requirements(self) -> list[str]:
        """The thresholds of the run's configuration that its results miss, a sentence each."""
        curves = {(curve.method, curve.norm): curve for curve in self.curves()}
        missed = []
        for wanted in self.manifest["source"].get("require", []):
            norm = float(wanted["norm"])
            name = f"{wanted['method']} in {norm_name(norm)} at radius {wanted['radius']:g}"
            curve = curves.get((wanted["method"], norm))
            if curve is None:
                missed.append(f"{name} has no result, at least {wanted['at_least']:g} is required")
            elif (share := float(curve.at(wanted["radius"]))) < wanted["at_least"]:
                missed.append(f"{name} reaches {share:g}, at least {wanted['at_least']:g} is required")
        return missed

    def to_html(
        self,
        path: Path | str,
        *,
        noise: NoiseRatioTest | None = None,
        masking: "GradientMaskingReport | None" = None,
        columns: Sequence[Column] = COLUMNS,
    ) -> None:
        """Write the page: one self-contained HTML file.

        Args:
            path: of the file; its folder is made if it is not there.
            noise: what :func:`bounds.noise_ratio_test` found for the model, to have a section of the page.
            masking: what :func:`certify.attacks.gradient_masking` found, to stand below the table of methods.
            columns: of the table of methods.

        Raises:
            InvalidConfiguration: the file cannot be written.
        """
        path, page = Path(path), render(self._page(noise, masking, columns))
        with reported(f"page {path} cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")

    def _page(
        self,
        noise: NoiseRatioTest | None,
        masking: "GradientMaskingReport | None" = None,
        columns: Sequence[Column] = COLUMNS,
    ) -> Page:
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
        )


def _norm_and_method(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["norm"], row["method"]


@isolated
def evaluate(
    model: nn.Module,
    x: Inputs,
    labels: Tensor | None = None,
    *,
    norms: Sequence[float] | float = (2, math.inf),
    methods: Sequence[Method | type[Method] | str] | Method | type[Method] | str = "standard",
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
    shard: Shard | str | None = None,
    engine: Engine | str | None = None,
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
        methods: settings from :mod:`certify.methods`, or names of methods for their defaults, several or one;
            ``"standard"`` for smoothing, interval bounds and the minimum-norm attack.
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
        shard: ``"i/n"`` for one of n parts of the units, such as ``"2/8"``, with all inputs given to each;
            :func:`certify.merge` puts the parts together.
        engine: where units run: an engine of :mod:`certify.distribution`, or ``"processes"`` or ``"ray"`` for its
            defaults. None for this process. It changes no result; units are stored as they are done.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        ManifestMismatch: ``output`` holds another run.
        InvalidConfiguration: ``output`` cannot be written.
    """
    x, labels = inputs_and_labels(model, x, labels, batch_size)
    checks.inputs(x, low, high)
    checks.at_least("number of inputs", len(x), 1)
    checks.at_most("seed", checks.at_least("seed", seed, 0), 2**63 - 1)
    checks.at_most("first_index", checks.at_least("first_index", first_index, 0), 2**62)
    checks.at_least("batch_size", batch_size, 1)
    chosen, orders = methods_of(methods), orders_of(norms)
    units, members = units_of(chosen, orders, len(x), first_index), stated_groups(groups, labels, len(x))
    part = Shard.of(shard)
    mine = part.part(units)
    with probed_once():
        problem, logits = problem_of(
            model, x, labels, (low, high), seed, batch_size, first_index, stated_on_grid(on_grid, x)
        )
        manifest = manifest_of(problem, logits, chosen, orders, len(units), source) | digest_of_groups(members)
        manifest |= {} if part.whole else {"shard": str(part)}
        run = None if output is None else RunDirectory.open(output, manifest)
        stored, tensors = ([], {}) if run is None else _stored(run)
        records = {record["unit"]: record for record in stored}
        # A row without finite logits has no class.
        base = logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1).tolist()
        found = _computed(mine, records, problem, base, orders, manifest, engine_of(engine))
        with closing(found):  # which ends the workers, also while a traceback is around
            for done, (unit, result) in enumerate(found, start=1):
                name = unit.name
                if result is not None:
                    record, tensors[name] = result
                    records[name] = with_groups(record, members, first_index)
                    if run is not None:
                        run.append(records[name], tensors[name])
                if progress is not None:
                    progress(name, done, len(mine))
                if callback is not None:
                    callback(FinishedUnit.of(records[name], done, len(mine), result is None))
    return Evaluation(manifest if run is None else run.manifest, [records[unit.name] for unit in mine], tensors)


def _computed(
    units: Sequence[Unit],
    known: Collection[str],
    problem: Problem,
    base: Sequence[int],
    norms: Sequence[float],
    manifest: Mapping[str, Any],
    engine: Engine | None,
) -> Generator[tuple[Unit, Found | None], None, None]:
    """All units, each as soon as it is done; without a result, if its name is known."""
    if engine is None:
        for unit in units:
            yield unit, None if unit.name in known else run_unit(unit, problem, base, norms)
        return
    left = [unit for unit in units if unit.name not in known]
    yield from ((unit, None) for unit in units if unit.name in known)
    stated = {key: manifest[key] for key in ("versions", "device", "weights_sha256")}
    yield from run_elsewhere(left, problem, base, norms, stated, engine)


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
    tensors = {record["unit"]: run.tensors(record["unit"]) for record in records}
    for record in records:
        stored = tensors[record["unit"]]
        count = len(record["rows"])
        if "adversarial" in stored and any(len(stored.get(name, ())) != count for name in ("clean", "adversarial")):
            raise InvalidConfiguration(
                f"{run.path}: unit {record['unit']!r} has {count} rows in records.jsonl, but tensors of another number "
                "of inputs: restore the files"
            )
    return records, tensors
