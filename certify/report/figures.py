"""Figures of an evaluation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from certify.curves import AccuracyCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve_figure(curves: Sequence[AccuracyCurve], clean_accuracy: float | None = None) -> "Figure":
    """One panel per norm with every curve."""
    raise NotImplementedError
