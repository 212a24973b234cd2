"""Colours and dashes of curves that are told apart in grey print too: on the page, and where models are compared."""

from typing import Any

from certify.report.figures import INKS

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
# Proved, with probability, upper bound.
DASHES: tuple[Any, ...] = ("-", (0, (7, 2, 1.5, 2)), (0, (3, 2)))
# The page has a palette for the dark too, which figures on it follow.
PALETTE = INKS | {color: f"--curve-{i}" for i, color in enumerate(COLORS)}
