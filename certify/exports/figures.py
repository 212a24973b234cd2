"""Figures at the width of a column, with their fonts inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.5  # inches, the column of a page of two columns; most journals lie within 3.25 and 3.5
SMALLEST = 6.5  # points: the smallest type that is read in print


def save_figure(figure: "Figure", path: Path, width: float = COLUMN) -> None:
    """Write a figure, scaled to ``width`` inches, as the ending of ``path`` says.

    Type becomes smaller with the figure, but not than 6.5 points. Fonts are part of the file: TrueType in PDF, outlines
    in SVG, so that it looks alike everywhere. Equal figures give equal files. ``figure`` comes back as it was.
    """
    from matplotlib import rc_context
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    before = figure.get_size_inches().copy()
    factor = width / before[0]
    texts = {text: text.get_fontsize() for text in figure.findobj(Text) if isinstance(text, Text)}
    found = [line for line in figure.findobj(Line2D) if isinstance(line, Line2D)]
    lines = {line: (line.get_linewidth(), line.get_markersize()) for line in found}
    try:
        figure.set_size_inches(*(factor * before))
        for text, size in texts.items():
            text.set_fontsize(max(factor * size, min(size, SMALLEST)))
        for line, (thickness, marker) in lines.items():
            line.set(linewidth=factor * thickness, markersize=factor * marker)
        dates: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "certify"}):
            figure.savefig(path, metadata=dates.get(path.suffix[1:]), dpi=200)
    finally:
        figure.set_size_inches(*before)
        for text, size in texts.items():
            text.set_fontsize(size)
        for line, (thickness, marker) in lines.items():
            line.set(linewidth=thickness, markersize=marker)
