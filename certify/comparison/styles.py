"""Looks of curves: a colour and a marker per model, a dash per kind of promise, told apart in grey too."""

from collections.abc import Sequence
from typing import Any

from certify.comparison.contenders import PROMISES
from certify.report.figures import PAPER

# No two of the twelve share a lightness: the first six lie 8 apart on the scale of CIE L* or more, all of them 4, which
# is told apart in grey print. All have a contrast of 3 at least on white.
COLORS = (
    "#122e81",
    "#ea7006",
    "#036a59",
    "#d7448e",
    "#242424",
    "#921515",
    "#1d74ca",
    "#4b0b60",
    "#6a9515",
    "#0d4a1c",
    "#7b4ccb",
    "#685005",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*")
DASHES: dict[str, Any] = dict(zip(PROMISES, ("-", (0, (7, 2, 1.5, 2)), (0, (3, 2))), strict=True))


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
