"""Numbers between two ends, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

SLACK = 2.0**-40  # by which ends are moved outward: thousands of rounding errors of float64, which are relative


class Range(NamedTuple):
    """Numbers between two tensors; sums and products are rounded, and ``wider`` covers that."""

    low: Tensor
    high: Tensor

    def plus(self, other: "Range") -> "Range":
        """Sums."""
        return Range(self.low + other.low, self.high + other.high)

    def times(self, other: "Range") -> "Range":
        """Products."""
        return hull([one * two for one in self for two in other])

    def negative(self) -> "Range":
        """The numbers with another sign."""
        return Range(-self.high, -self.low)

    def inverse(self) -> "Range":
        """One over numbers above 0."""
        return Range(1 / self.high, 1 / self.low)

    def wider(self, size: Tensor | float, relative: float = SLACK) -> "Range":
        """The numbers, and those around them as far as a share of ``size``, which bounds what they are made of."""
        reach = relative * (torch.maximum(self.low.abs(), self.high.abs()) + size)
        return Range(self.low - reach, self.high + reach)

    def clipped(self, low: Tensor | None, high: Tensor | None) -> "Range":
        """The numbers moved between two others, of which both or one may be missing."""
        return self if low is high is None else Range(self.low.clamp(low, high), self.high.clamp(low, high))


def hull(parts: list[Tensor]) -> Range:
    """The least and the largest of several numbers, entry by entry."""
    every = torch.stack(torch.broadcast_tensors(*parts))
    return Range(every.amin(0), every.amax(0))


def cosine(degrees: Range) -> Range:
    """The cosine of angles: least or largest at the ends, or at a multiple of 180 between them."""
    found = hull([torch.deg2rad(end).cos() for end in degrees])
    half = Range((degrees.low / 180 - SLACK).ceil(), (degrees.high / 180 + SLACK).floor())
    several = half.high > half.low
    top = several | ((half.high == half.low) & (half.low % 2 == 0))
    bottom = several | ((half.high == half.low) & (half.low % 2 == 1))
    found = Range(torch.where(bottom, -1.0, found.low), torch.where(top, 1.0, found.high))
    return found.wider(1 + torch.maximum(degrees.low.abs(), degrees.high.abs()))
