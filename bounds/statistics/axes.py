"""Axes on which records draw, where a caller gives none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def current(ax: "Axes | None") -> "Axes":
    """The axes, or the current ones of pyplot if None."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.gca()
    return ax
