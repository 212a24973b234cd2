"""Studies on a page: records of other measurements, each with its sentences, its figure and its table."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bounds.errors import InvalidInput
from certify.report.figures import FAINT, INK, INKS, svg
from certify.report.palette import PALETTE
from certify.report.words import NOTHING, rounded_down, rounded_up

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROWS = 200  # of a table that are shown, at most
# A paper of their own: what a plot draws white on a dark cell stays white.
PAPER = "#fdfdfe"
COLORS = {color: name for color, name in PALETTE.items() if color not in INKS} | {
    INK: "--figure-ink",
    FAINT: "--figure-faint",
    PAPER: "--figure-paper",
}
BELOW, ABOVE = ("lower", "certified", "low"), ("upper", "found", "attacked", "high")  # words of names of columns


@runtime_checkable
class Study(Protocol):
    """A record that a page can show, such as those of :mod:`certify.surveys`, :mod:`bounds.geometry`, ``track``.

    It may have ``sentences()`` too, a list of what was found in words; else the page shows figure and table alone.
    """

    def to_dataframe(self) -> "pd.DataFrame":
        """The figures."""

    def plot(self) -> Any:  # noqa: ANN401  # axes or a figure
        """A figure, or axes where it takes an argument ``ax``."""


def shown_studies(studies: "Mapping[str, Study] | None") -> list[dict[str, Any]]:
    """Sections of a page, for its template.

    Args:
        studies: records by their titles, in the order of the page; None for none.

    Raises:
        InvalidInput: what is no mapping, or a record without ``to_dataframe()`` or ``plot()``.
    """
    if studies is None:
        return []
    if not isinstance(studies, Mapping):
        raise InvalidInput(f"studies must be a mapping from titles to records, got {type(studies).__name__}")
    for title, study in studies.items():
        if not isinstance(study, Study) or isinstance(study, type):
            kind = type(study).__name__
            raise InvalidInput(f"studies[{title!r}] must be a record with to_dataframe() and plot(), got {kind}")
    return [_shown(str(title), study) for title, study in studies.items()]


def _shown(title: str, study: Study) -> dict[str, Any]:
    sentences = [_sentence(each) for each in getattr(study, "sentences", list)()]
    table = study.to_dataframe()
    if table.index.name is not None:
        table = table.reset_index()
    numbers = [str(name) for name in table.columns if table[name].dtype.kind in "iuf"]
    figure = study_figure(study)
    figure.set_label(" ".join([f"{title}.", *sentences]))
    return {
        "title": title,
        "sentences": sentences,
        "figure": svg(figure, COLORS),
        "rows": [
            {str(name): _cell(str(name), value) for name, value in row.items()}
            for row in table.head(ROWS).to_dict("records")
        ],
        "numbers": numbers,
        "left_out": len(table[ROWS:]),
    }


def study_figure(study: Study) -> "Figure":
    """The plot of a study as a figure of its own, known to no figure manager, in the inks of the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    style: Any = dict.fromkeys(inks, INK) | dict.fromkeys(papers, PAPER)
    style |= {"legend.edgecolor": FAINT, "grid.color": FAINT, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        if "ax" not in inspect.signature(study.plot).parameters:
            drawn = study.plot()
            return drawn if isinstance(drawn, Figure) else drawn.figure
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        study.plot(ax=ax)  # type: ignore[call-arg]  # it has the parameter
        if ax.get_legend() is None and ax.get_legend_handles_labels()[1]:
            figure.legend(loc="outside lower left", frameon=False, ncols=2)
        return figure


def _sentence(text: str) -> str:
    """A clause as a sentence."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def _cell(name: str, value: object) -> str:
    """A value in words: lower bounds are rounded down and upper ones up, by the name of the column."""
    if isinstance(value, float):
        words = name.lower().replace("_", " ").split()
        if any(word in BELOW for word in words):
            return rounded_down(value)
        if any(word in ABOVE for word in words):
            return rounded_up(value)
        return NOTHING if value != value else f"{value:.4g}".replace("inf", "∞")  # NaN
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
