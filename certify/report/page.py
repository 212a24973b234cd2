"""The page: one self-contained HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bounds import NoiseRatioTest
from certify.curves import AccuracyCurve
from certify.report.columns import COLUMNS, Column, Line, printed
from certify.report.embedding import environment
from certify.report.figures import panel_figures, svg
from certify.report.galleries import Pair, galleries
from certify.report.input_tables import InputTables
from certify.report.noise_figure import noise_figure
from certify.report.palette import COLORS, DASHES, PALETTE
from certify.report.results import Classes, Results, results_of
from certify.report.sentences import doubts, masking_sentence, no_curves, promises, what_was_done
from certify.report.series import PROMISED, Series, accuracy_tables, charts, interval_ends
from certify.report.studies import Study, shown_studies
from certify.report.words import norm_name, panel_name
from certify.sets.curves import SetCurves
from certify.sets.stated import StatedSet

if TYPE_CHECKING:
    import pandas as pd

    from certify.attacks.studies.gradient_masking import GradientMaskingReport

HEADS = ("norm", "method", "subject", "promise")  # columns of the table of methods that hold text


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """Content of the page.

    Attributes:
        manifest: versions, device, seed, configuration and hashes.
        curves: certified and attacked accuracy curves.
        clean_accuracy: accuracy of the model on the clean inputs.
        summary: one row per norm and method.
        rows: one row per input, norm and method.
        contradictions: sentences; empty if certificates and witnesses agree.
        outside: sentences about estimates below what is proved or above what was found.
        comparisons: number of certificates that a witness could have refuted.
        unfinished: units of work done and in all, if the run is not complete.
        pairs: for each attacked input its record, the norm, the clean and the adversarial input (*D).
        noise: how random noise compares with adversarial perturbations, if that was tested.
        masking: whether gradients lead attacks astray, if that was tested.
        lines: results by norm and method, for the table of methods.
        columns: of that table.
        groups: accuracy by group of inputs, a row of words per norm, method and group; empty without groups.
        group_sentences: which group is the worst, and whether groups differ.
        classes: names of the classes; empty if they have none.
        left_out: sentences about what was not computed, and why.
        studies: other records by their titles, each a section of the page.
        sets: sets of perturbations with curves against their size, in sections of each kind before these.
        inputs: what the view of a single input shows, as plain data for its script; None without it.
    """

    manifest: Mapping[str, Any]
    curves: Sequence[AccuracyCurve]
    clean_accuracy: float
    summary: "pd.DataFrame"
    rows: "pd.DataFrame"
    contradictions: Sequence[str]
    outside: Sequence[str]
    comparisons: int
    unfinished: tuple[int, int] | None
    lines: Sequence[Line]
    pairs: Sequence[Pair]
    noise: NoiseRatioTest | None
    masking: "GradientMaskingReport | None" = None
    columns: Sequence[Column] = COLUMNS
    groups: Sequence[Mapping[str, object]] = ()
    group_sentences: Sequence[str] = ()
    classes: Sequence[str] = ()
    left_out: Sequence[str] = ()
    studies: Mapping[str, Study] | None = None
    sets: Sequence[tuple[StatedSet, SetCurves]] = ()
    inputs: Mapping[str, Any] | None = None


def render(page: Page) -> str:
    """The page as HTML: it needs no other file, works without scripts too, and opens from anywhere."""
    series = _series(page)
    looks = [
        {"color": COLORS[one.color % len(COLORS)], "linestyle": DASHES[PROMISED.index(one.promised)]} for one in series
    ]
    figures = panel_figures([one.curve for one in series], page.clean_accuracy, looks)
    clean = {panel_name("base"): page.clean_accuracy}
    model, tables = model_of(page)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            model=model,
            tables=accuracy_tables(series),
            figures=[svg(figure, PALETTE) for figure in figures.values()],
            no_curves="" if figures else no_curves(page.summary),
            noise=[] if page.noise is None else str(page.noise).splitlines(),
            studies=shown_studies(page.studies),
            sets=list(_sections(page.sets)),
            noise_figure="" if page.noise is None else svg(noise_figure(page.noise)),
            data=data_of(series, [("", tables)], charts(series, clean)),
            inputs=None if page.inputs is None else {"models": [page.inputs]},
        )
    )


def data_of(
    series: Sequence[Series],
    models: Sequence[tuple[str, InputTables]],
    drawn: Sequence[Mapping[str, Any]],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Data of the page for its scripts: curves, and the inputs of each model by its name."""
    return {
        "confidence": confidence,
        "intervals": interval_ends(series, confidence),
        "charts": drawn,
        "models": [{"name": name, **tables.data()} for name, tables in models],
    }


def model_of(page: Page, name: str = "") -> tuple[dict[str, Any], InputTables]:
    """Everything about one model but its curves, for a template; and its table of inputs."""
    results, classes = results_of(page.lines, page.rows), Classes(tuple(page.classes))
    tables = InputTables(results, page.rows, classes)
    return {
        "name": name,
        "count": len(tables.indices),
        "clean_accuracy": page.clean_accuracy,
        "created": str(page.manifest.get("created", "")).replace("T", " ").replace("+00:00", " UTC"),
        "version": page.manifest.get("versions", {}).get("certify-bounds", ""),
        "lead": what_was_done(results, len(tables.indices)),
        "promises": promises(results),
        "contradictions": page.contradictions,
        "outside": page.outside,
        "comparisons": page.comparisons,
        "unfinished": page.unfinished,
        "left_out": page.left_out,
        "doubts": doubts(page.summary),
        "masking": "" if page.masking is None else masking_sentence(page.masking),
        "methods": list(_methods(page, results)),
        "columns": [column for column in printed(page.columns, page.lines, "page") if column.name not in HEADS],
        "galleries": list(galleries(page.pairs, page.manifest.get("configuration", {}), classes)),
        "tables": tables.shown(),
        "settings": _settings(page.manifest),
        "groups": page.groups,
        "group_sentences": page.group_sentences,
    }, tables


def _sections(sets: Sequence[tuple[StatedSet, SetCurves]]) -> Iterator[dict[str, Any]]:
    """A section for each kind of sets, with the curves of all of them."""
    for kind in dict.fromkeys(over.KEY for over, _ in sets):
        here = [(over, curves) for over, curves in sets if kind == over.KEY]
        studies = shown_studies({norm_name(over): curves for over, curves in here})
        yield {"key": kind, "title": here[0][0].TITLE, "note": here[0][0].NOTE, "studies": studies}


def _series(page: Page) -> list[Series]:
    """The curves by classifier, lower bounds first; a method has one colour in all norms."""
    eight_bit = any(line.eight_bit for line in page.lines)
    made = [
        Series(name=curve.method, panel=panel_name(curve.subject), curve=curve, eight_bit=eight_bit)
        for curve in page.curves
    ]
    made = sorted(made, key=lambda one: (one.curve.subject != "base", PROMISED.index(one.promised), one.name))
    colors = {key: i for i, key in enumerate(dict.fromkeys((one.panel, one.promised, one.name) for one in made))}
    return [replace(one, color=colors[one.panel, one.promised, one.name]) for one in made]


def _methods(page: Page, results: Sequence[Results]) -> Iterator[dict[str, Any]]:
    """The lines as text, in the order of their kinds: certificates and witnesses in columns of their own."""
    for each in results:
        line = each.line
        text: dict[str, Any] = {column.name: column.text(line) for column in page.columns}
        blind = sum(row.get("blind") is True for row in line.rows)
        reasons = each.rows.reason.dropna().unique() if "reason" in each.rows else ()
        yield text | {"kind": each.kind, "doubt": f"{blind} blind" * bool(blind), "reason": "; ".join(reasons)}


def _settings(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The manifest as titled groups of names and values; a mapping inside a mapping is a group of its own."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    waiting: list[tuple[str, Mapping[str, Any]]] = [("run", manifest)]
    while waiting:
        title, mapping = waiting.pop(0)
        inner = {key: value for key, value in mapping.items() if isinstance(value, Mapping)}
        waiting += inner.items()
        plain = [(str(key).replace("_", " "), _text(value)) for key, value in mapping.items() if key not in inner]
        groups += [(title, plain)] if plain else []
    return groups


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)
