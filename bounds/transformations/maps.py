"""Affine maps of the plane whose parameters lie in intervals: matrices and derivatives, each known up to a radius.

A map takes the place of an output pixel to the place where the image is sampled, both in pixels from the centre of the
image, x to the right and y downward.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

UNITS = 64 * torch.finfo(torch.float64).eps  # what few rounded operations and functions take from numbers of size 1


class Maps(NamedTuple):
    """Matrices (.., 3, 3) of affine maps, or their derivatives: every entry within ``radius`` of ``center``."""

    center: Tensor
    radius: Tensor

    def after(self, other: "Maps") -> "Maps":
        """The matrices of this map applied to the results of another one."""
        size = self.center.abs() @ (other.center.abs() + other.radius) + self.radius @ other.center.abs()
        spread = self.center.abs() @ other.radius + self.radius @ (other.center.abs() + other.radius)
        return Maps(self.center @ other.center, spread + UNITS * (size + spread))

    def plus(self, other: "Maps") -> "Maps":
        """The sum of two matrices."""
        center, radius = self.center + other.center, self.radius + other.radius
        return Maps(center, radius + UNITS * (center.abs() + radius))


class Motion(NamedTuple):
    """An affine map and its derivatives with respect to some parameters, over boxes of these."""

    value: Maps
    slopes: tuple[Maps, ...]

    def after(self, other: "Motion") -> "Motion":
        """This map applied to the results of another one, which has parameters of its own, after these."""
        slopes = (*(slope.after(other.value) for slope in self.slopes), *(self.value.after(s) for s in other.slopes))
        return Motion(self.value.after(other.value), slopes)


def _interval(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and radius, rounded outward by what the functions of this module may be off."""
    center = lower + (upper - lower) / 2
    return center, (upper - lower) / 2 + UNITS * (1 + lower.abs() + upper.abs())


def _matrices(entries: Sequence[Sequence[tuple[Tensor, Tensor] | float]], like: Tensor) -> Maps:
    """Matrices from their two upper rows, of entries that are known or numbers; the third row is (0, 0, last)."""
    center, radius = (torch.zeros(*like.shape, 3, 3, dtype=like.dtype, device=like.device) for _ in range(2))
    for i, row in enumerate(entries):
        for j, entry in enumerate(row):
            center[..., i, j], spread = entry if isinstance(entry, tuple) else (entry, None)
            if spread is not None:
                radius[..., i, j] = spread
    return Maps(center, radius)


def _cosine(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine over intervals of degrees."""
    one, other = (torch.deg2rad(end).cos() for end in (low, high))
    lower, upper = torch.minimum(one, other), torch.maximum(one, other)
    for sign, shift in ((1.0, 0.0), (-1.0, 180.0)):  # extremes lie where the angle is a multiple of 360, moved by half
        turns = ((low - shift) / 360 - 1e-12).ceil() <= ((high - shift) / 360 + 1e-12).floor()
        upper = torch.where(turns & (sign > 0), 1.0, upper)
        lower = torch.where(turns & (sign < 0), -1.0, lower)
    center, radius = _interval(lower, upper)
    return center, radius + UNITS * (low.abs() + high.abs())  # of the angle in radians


def _negative(entry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return -entry[0], entry[1]


def _times(entry: tuple[Tensor, Tensor], factor: float) -> tuple[Tensor, Tensor]:
    return entry[0] * factor, entry[1] * abs(factor) + UNITS * (entry[0].abs() * abs(factor))


LAST_ROW = (0.0, 0.0, 1.0)


def rotation(low: Tensor, high: Tensor) -> Motion:
    """Rotations by degrees, counter-clockwise as one looks at the image."""
    cosine, sine = _cosine(low, high), _cosine(low - 90, high - 90)
    value = _matrices([[cosine, _negative(sine), 0.0], [sine, cosine, 0.0], LAST_ROW], low)
    cosine, sine = (_times(part, math.pi / 180) for part in (cosine, sine))
    return Motion(value, (_matrices([[_negative(sine), _negative(cosine)], [cosine, _negative(sine)]], low),))


def scale(low: Tensor, high: Tensor) -> Motion:
    """Enlargement by a factor: the place in the image is that of the output divided by it."""
    factor, slope = _interval(1 / high, 1 / low), _interval(-1 / low.square(), -1 / high.square())
    value = _matrices([[factor, 0.0, 0.0], [0.0, factor, 0.0], LAST_ROW], low)
    return Motion(value, (_matrices([[slope, 0.0], [0.0, slope]], low),))


def shear(low: Tensor, high: Tensor) -> Motion:
    """Shear: rows move to the right by the factor times their distance below the centre."""
    value = _matrices([[1.0, _interval(-high, -low), 0.0], [0.0, 1.0, 0.0], LAST_ROW], low)
    return Motion(value, (_matrices([[0.0, -1.0]], low),))


def translation(low: Tensor, high: Tensor, axis: int) -> Motion:
    """Translation by pixels, to the right (axis 0) or downward (axis 1)."""
    rows: list[list[tuple[Tensor, Tensor] | float]] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], list(LAST_ROW)]
    rows[axis][2] = _interval(-high, -low)
    slope = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    slope[axis][2] = -1.0
    return Motion(_matrices(rows, low), (_matrices(slope, low),))
