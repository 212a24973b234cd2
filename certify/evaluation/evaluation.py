"""All methods on the same inputs: per input and norm, what is proved next to what was broken."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bounds import NoiseRatioTest
from bounds.errors import InvalidConfiguration
from bounds.sets.orders import NamedSet, order_of
from certify.curves import AccuracyCurve
from certify.evaluation.left_out import left_out
from certify.evaluation.storage.durable import write_whole
from certify.evaluation.storage.run_directory import RunDirectory, reported
from certify.evaluation.storage.stored import require_whole
from certify.evaluation.summaries.comparisons import Contradiction, Outside, comparable, contradictions, outside
from certify.evaluation.summaries.cross_sections import (
    read_planes,
    write_planes,
)
from certify.evaluation.summaries.details import details_of
from certify.evaluation.summaries.groups import (
    GROUP,
    GroupAccuracies,
    Groups,
    group_accuracies,
    members_of,
)
from certify.evaluation.summaries.sets import set_curves
from certify.evaluation.summaries.sheets import curve_figures, sheets_of
from certify.evaluation.summaries.tables import are_images, curves_of, dataframe, lines_of, rows_of, summary_of
from certify.evaluation.units import in_order, units_done
from certify.evaluation.work import HELD
from certify.exports.figures import COLUMN
from certify.exports.files import DRAWN, formats_of, write_export
from certify.methods import BY_NAME
from certify.report import Page, Study, norm_name, render
from certify.report.columns import COLUMNS, Column, Line, printed
from certify.report.inputs.planes import Plane
from certify.requirements import JudgedRequirement, judged_requirements
from certify.semantic.curves import TransformationCurves
from certify.sets.curves import SetCurves
from certify.sets.stated import StatedSet

if TYPE_CHECKING:
    import pandas as pd

    from certify.attacks.studies.gradient_masking import GradientMaskingReport


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
        records, tensors = stored_results(run)
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

    def set_curves(self) -> "dict[StatedSet, SetCurves]":
        """Certified, attacked and random accuracy against the size of each set of perturbations, by its name."""
        return set_curves(self.manifest, self.records, self.tensors)

    def transformation_curves(self) -> "dict[NamedSet, TransformationCurves]":
        """Curves of :meth:`set_curves` that are against the size of transformations."""
        return {over: each for over, each in self.set_curves().items() if isinstance(each, TransformationCurves)}

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
        radius: float | Mapping[Any, float] | None = None,
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
                    (row, order_of(record["norm"]), clean, adversarial)
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
            sets=list(self.set_curves().items()),
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


def stored_results(run: RunDirectory) -> tuple[list[dict[str, Any]], dict[str, dict[str, Tensor]]]:
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
