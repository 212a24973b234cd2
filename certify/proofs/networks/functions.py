"""Functions between affine operations: their values, and lines or bounds around them, with all rounding errors.

The slope comes first: for any slope k, the line with the largest value of ``f(x) - k x`` on an interval as its
intercept is above the function. So every slope that a proof names is sound, and intercepts are derived here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from certify.proofs.networks.maps import Array, Index

UNIT, LEAST = 2.0**-53, 2.0**-1000  # roundoff of float64; more than what underflow loses
SPECIAL = 32 * UNIT  # relative error of exp and tanh of numpy, which are documented to few units
ROOT = 1e-6  # relative error of the places where slopes are met: some 1e-8 by the formulas below
BISECTIONS = 40


class Lines(NamedTuple):
    """``lower_slope x + lower <= f(x) <= upper_slope x + upper``, each (N, F)."""

    lower_slope: Array
    lower: Array
    upper_slope: Array
    upper: Array


class Function(ABC):
    """A function of one variable that is applied entry by entry."""

    @abstractmethod
    def values(self, x: Array) -> tuple[Array, Array]:
        """Values, and bounds on their rounding errors."""

    @abstractmethod
    def default_slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Slopes of the lines below and above on intervals, where a proof names none."""

    @abstractmethod
    def turning_points(self, low: Array, high: Array, slope: Array) -> list[tuple[Array, Array]]:
        """Points within intervals besides their ends where ``f(x) - slope x`` may be extreme, and what it may miss."""

    def bends(self, low: Array, high: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
        """Whether better intervals may give better lines."""
        return low < high

    def interval(self, low: Array, high: Array) -> tuple[Array, Array]:
        """The range of an increasing function."""
        (below, error), (above, other) = self.values(low), self.values(high)
        return below - 2 * error, above + 2 * other

    def lines(self, low: Array, high: Array, slopes: tuple[Array, Array]) -> Lines:
        """Lines with given slopes that hold on the intervals."""
        least = self._extreme(low, high, slopes[0], -1.0)
        largest = self._extreme(low, high, slopes[1], 1.0)
        return Lines(slopes[0], least, slopes[1], largest)

    def _extreme(self, low: Array, high: Array, slope: Array, sign: float) -> Array:
        """The largest (or least) value of ``f(x) - slope x`` on intervals, outward."""
        found = np.full_like(low, -np.inf)
        ends = [(low, np.zeros_like(low)), (high, np.zeros_like(low))]
        for point, missed in ends + self.turning_points(low, high, slope):
            value, error = self.values(point)
            line = slope * point
            error = 2 * (error + missed + 4 * UNIT * (np.abs(value) + np.abs(line))) + LEAST
            found = np.maximum(found, sign * (value - line) + error)
        return sign * found


@dataclass(frozen=True)
class Relu(Function):
    """ReLU and leaky ReLU.

    Attributes:
        negative_slope: below 0, in [0, 1].
    """

    negative_slope: float = 0.0

    def values(self, x: Array) -> tuple[Array, Array]:
        """Exact above 0, and below it where the slope is 0."""
        found = np.where(x > 0, x, self.negative_slope * x)
        exact = (x >= 0) | (self.negative_slope in (0.0, 1.0))
        return found, np.where(exact, 0.0, UNIT * np.abs(found) + LEAST)

    def bends(self, low: Array, high: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
        """Entries whose sign is not known."""
        return (low < 0) & (high > 0)

    def default_slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Below, 1 where the interval is positive for the most part; above, the secant."""
        return self.with_lower(low, high, np.where(high > -low, 1.0, self.negative_slope))

    def with_lower(self, low: Array, high: Array, slope: Array) -> tuple[Array, Array]:
        """Slopes with those below given where the sign is not known; that of the function elsewhere."""
        bends = self.bends(low, high)
        own = np.where(low >= 0, 1.0, self.negative_slope)
        width = np.where(bends, high - low, 1.0)
        secant = (high - self.negative_slope * low) / width
        return np.where(bends, slope, own), np.where(bends, secant, own)

    def turning_points(self, low: Array, high: Array, slope: Array) -> list[tuple[Array, Array]]:
        """The kink."""
        return [(np.clip(0.0, low, high), np.zeros_like(low))]


class Smooth(Function):
    """An increasing function that is convex below 0 and concave above, with values mirrored at 0."""

    curvature: float  # at least all magnitudes of the second derivative

    @abstractmethod
    def derivative(self, x: Array) -> Array:
        """The derivative, about."""

    @abstractmethod
    def place(self, slope: Array) -> Array:
        """The place above 0 with a derivative in (0, largest)."""

    def default_slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Tangents at the middle or through the opposite end, or secants, whichever are the closest of these."""
        return self._lower_slope(low, high), self._lower_slope(-high, -low)

    def _lower_slope(self, low: Array, high: Array) -> Array:
        middle = low / 2 + high / 2
        at_middle = self.derivative(middle)
        width = high - low
        wide = width > 1e-9
        secant = (self.values(high)[0] - self.values(low)[0]) / np.where(wide, width, 1.0)
        secant = np.where(wide, secant, at_middle)
        left, right = low.copy(), np.clip(0.0, low, high)
        above = self.values(high)[0]
        for _ in range(BISECTIONS):  # the tangent at a point below 0 that meets the upper end
            point = left / 2 + right / 2
            under = self.values(point)[0] + self.derivative(point) * (high - point) <= above
            left, right = np.where(under, point, left), np.where(under, right, point)
        touching = np.where(left > middle, at_middle, self.derivative(left))
        mixed = np.where(self.derivative(low) >= secant, secant, touching)
        return np.where(low >= 0, secant, np.where(high <= 0, at_middle, mixed))

    def turning_points(self, low: Array, high: Array, slope: Array) -> list[tuple[Array, Array]]:
        """Both places with the slope as derivative; none where no place has it."""
        largest = self.derivative(np.zeros(1))[0]
        place = self.place(np.clip(slope, 1e-300, largest))
        doubt = ROOT * (1 + place)
        found = []
        for at in (-place, place):
            inside = ~((at + doubt < low) | (at - doubt > high))
            found.append((np.clip(at, low, high), np.where(inside, self.curvature * doubt**2, 0.0)))
        return found


class Sigmoid(Smooth):
    """The logistic function."""

    curvature = 0.1

    def values(self, x: Array) -> tuple[Array, Array]:
        """By the exponential of a number that is not positive, which cannot overflow."""
        small = np.exp(-np.abs(x))
        found = np.where(x >= 0, 1.0, small) / (1 + small)
        return found, SPECIAL * found + LEAST

    def derivative(self, x: Array) -> Array:
        """``s (1 - s)``."""
        small = np.exp(-np.abs(x))
        return np.asarray(small / (1 + small) ** 2)

    def place(self, slope: Array) -> Array:
        """From ``s (1 - s) = slope``."""
        upper = (1 + np.sqrt(np.maximum(1 - 4 * slope, 0.0))) / 2
        return np.asarray(2 * np.log(upper) - np.log(slope))


class Tanh(Smooth):
    """The hyperbolic tangent."""

    curvature = 0.8

    def values(self, x: Array) -> tuple[Array, Array]:
        """By numpy."""
        found = np.tanh(x)
        return found, SPECIAL * np.abs(found) + LEAST

    def derivative(self, x: Array) -> Array:
        """``1 / cosh(x)^2``."""
        small = np.exp(-2 * np.abs(x))
        return np.asarray(4 * small / (1 + small) ** 2)

    def place(self, slope: Array) -> Array:
        """From ``1 - t^2 = slope``."""
        return np.asarray(np.log1p(np.sqrt(np.maximum(1 - slope, 0.0))) - np.log(slope) / 2)


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest of several inputs for each value, as in max pooling.

    Attributes:
        windows: (G, T), places of the inputs of each value; -1 for none.
        size: number F of inputs.
    """

    windows: Index
    size: int

    def values(self, x: Array) -> Array:
        """The largest inputs (N, G)."""
        found: Array = np.where(self.windows >= 0, x[:, self.windows], -np.inf).max(2)
        return found

    def chosen(self, low: Array, high: Array) -> tuple[Index, Array]:
        """For each value (N, G), the input with the highest lower end, and the least number that is above all inputs.

        The number is infinite where the input is the largest for certain, so that it is a line above as well.
        """
        lower = np.where(self.windows >= 0, low[:, self.windows], -np.inf)
        upper = np.where(self.windows >= 0, high[:, self.windows], -np.inf)
        best = lower.argmax(2)[..., None]
        above = upper.max(2)
        np.put_along_axis(upper, best, -np.inf, 2)
        certain = np.take_along_axis(lower, best, 2)[..., 0] >= upper.max(2)
        places = np.broadcast_to(self.windows, lower.shape)
        return np.take_along_axis(places, best, 2)[..., 0], np.where(certain, np.inf, above)
