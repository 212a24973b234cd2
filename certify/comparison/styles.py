"""Looks of curves: a colour and a marker per model, a dash per kind of promise, told apart in grey too."""

from collections.abc import Sequence
from typing import Any

from certify.comparison.contenders import PROMISES
from certify.report import palette
from certify.report.figures import PAPER
from certify.report.palette import COLORS

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*")
DASHES: dict[str, Any] = dict(zip(PROMISES, palette.DASHES, strict=True))


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each model, in their order; after a dozen, markers are hollow."""
    styles: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(names):
        color, hollow = COLORS[i % len(COLORS)], i // len(COLORS) % 2 == 1
        styles[name] = {
            "color": color,
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 5,
            "markeredgecolor": color,
            "markerfacecolor": PAPER if hollow else color,
            "markevery": (0.02 + 0.013 * (i % len(MARKERS)), 0.18),  # in shares of the axes
        }
    return styles
