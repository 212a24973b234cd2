"""The page of a comparison: several models in the same figures and tables, and each by itself below them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from certify.comparison.figures import Names
from certify.comparison.sheets import BOLD
from certify.report.embedding import environment
from certify.report.figures import svg
from certify.report.page import data_of, model_of
from certify.report.palette import PALETTE
from certify.report.results import results_of
from certify.report.sentences import promises
from certify.report.series import Series, accuracy_tables, charts
from certify.report.studies import Study, shown_studies
from certify.report.words import listed, norm_name

if TYPE_CHECKING:
    from certify.comparison.comparison import Comparison
    from certify.exports.sheets import Sheet
    from certify.report import Page


def render_comparison(
    comparison: "Comparison", pages: Mapping[str, "Page"], tests: "Sheet", studies: Mapping[str, Study] | None = None
) -> str:
    """The page as HTML: it needs no other file, works without scripts too, and opens from anywhere.

    Args:
        comparison: of models.
        pages: content of the page of each model, by its name.
        tests: paired differences.
        studies: other records by their titles.
    """
    series = _series(comparison, pages)
    made = {name: model_of(page, name) for name, page in pages.items()}
    results = [each for page in pages.values() for each in results_of(page.lines, page.rows)]
    figures = {name: svg(figure, PALETTE) for name, figure in comparison.figures().items()}
    found = [f"{name}: {sentence}" for name, page in pages.items() for sentence in page.contradictions]
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            names=list(comparison.names),
            norms=listed([norm_name(norm) for norm in comparison.norms]),
            count=comparison.inputs,
            promises=promises(results),
            contradictions=found,
            comparisons=sum(page.comparisons for page in pages.values()),
            tables=accuracy_tables(series, comparison.confidence),
            bold=BOLD,
            tests=_rows(comparison, tests),
            caption=tests.caption,
            curves=[text for name, text in figures.items() if name.startswith("curves_")],
            trade_offs=[text for name, text in figures.items() if name.startswith("trade_off_")],
            models=[(name, model) for name, (model, _) in made.items()],
            data=data_of(
                series,
                [(name, tables) for name, (_, tables) in made.items()],
                charts(series),
                comparison.confidence,
            ),
            studies=shown_studies(studies),
            inputs=_inputs(list(pages.values())),
        )
    )


def _rows(comparison: "Comparison", tests: "Sheet") -> list[dict[str, str]]:
    """Paired differences in words: models by their names in the figures, and what the tests tell apart in bold."""
    from markupsafe import Markup

    if tests.text is None:
        return []
    short: dict[tuple[str, str], str] = {}
    for norm in comparison.norms:
        here = [one for one in comparison.contenders if one.panel.norm == norm]
        short |= {(norm_name(norm), one.name): Names(here).name(one) for one in here}
    rows = []
    for row, p in zip(tests.text.to_dict("records"), tests.data.p_holm, strict=True):
        words = {str(name): str(value) for name, value in row.items()}
        words |= {place: short[words["norm"], words[place]] for place in ("first", "second")}
        if p <= 1 - comparison.confidence:
            words["p (Holm)"] = Markup("<strong>{}</strong>").format(words["p (Holm)"])
        rows.append(words)
    return rows


def _inputs(pages: Sequence["Page"]) -> dict[str, Any] | None:
    """Data of the view of a single input, an entry per model; None where there are none."""
    if all(page.inputs is None for page in pages):
        return None
    return {"models": [page.inputs for page in pages]}


def _series(comparison: "Comparison", pages: Mapping[str, "Page"]) -> list[Series]:
    """The curves: a colour per model, or per setting of it where models differ in these."""
    eight_bit = bool(pages) and all(line.eight_bit for page in pages.values() for line in page.lines)
    best: dict[tuple[object, ...], dict[float, bool]] = {}
    for row in comparison.best().to_dict("records"):
        key = tuple(row[name] for name in ("norm", "classifiers", "promise", "model"))
        best.setdefault(key, {})[row["radius"]] = row["best"]
    made = []
    for norm in comparison.norms:
        here = [one for one in comparison.contenders if one.panel.norm == norm]
        names = Names(here)
        colors = {name: i for i, name in enumerate(names.styles)}
        made += [
            Series(
                name=names.name(one),
                panel=names.panel(one.panel),
                curve=one.curve,
                color=colors[names.name(one)],
                eight_bit=eight_bit,
                best=best[norm, one.panel.classifiers, one.promise, one.name],
            )
            for one in here
        ]
    return made
