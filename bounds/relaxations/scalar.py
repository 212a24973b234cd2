r"""Lines below and above a scalar function on an interval.

The slope comes first. For any slope :math:`k`, the line :math:`k x + t` with
:math:`t = \max_{l \le x \le u} f(x) - k x` lies above :math:`f` and touches it.
So slopes may be chosen freely, and every choice is sound.

Rounding is part of the lines: they hold in real arithmetic for the very numbers that are returned.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.numerics import underflow, unit_roundoff
from bounds.relaxations.base import NodeFunction, Planes
from bounds.sets.balls import Interval

Map = Callable[[Tensor], Tensor]

# Relative error of special functions in units of rounding, as in bounds.numerics.SPECIAL_FUNCTION_ERROR.
SPECIAL = 16.0
UPPER, LOWER = 1, -1
_INFINITY = float("inf")


class LinePair(NamedTuple):
    """``lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept`` on an interval, entry by entry."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class Candidate(NamedTuple):
    """A point where ``f(x) - k x`` may be largest (or smallest)."""

    point: Tensor
    value: Tensor  # of f there, from the side that counts
    derivative: Tensor
    slack: Tensor  # how much the true extremum may lie beyond
    applies: Tensor


def always(lower: Tensor, upper: Tensor) -> Tensor:
    """The domain of a function that is defined everywhere."""
    return lower <= upper


@dataclass(frozen=True, eq=False, kw_only=True)
class ScalarFunction(NodeFunction):
    """A real function of one variable that is applied entry by entry.

    An empty interval and one with NaN have NaN lines. There is no line (slope 0, intercept infinite) where the interval
    leaves the domain, the arithmetic overflows or a slope is not finite. On an unbounded interval the slopes are 0. At
    jumps inside an interval the lines hold for both one-sided values.

    Attributes:
        value: the function.
        relative_error: of a computed value, in units of rounding; 0 for functions without rounding.
        absolute_error: of a computed value and its derivative, in units of rounding, where terms cancel.
        range: the values of the function all lie in it.
        domain: of both ends, where the function is defined on an interval.
        pace: smaller than elsewhere, since slopes begin close to the best ones.
    """

    value: Map
    relative_error: float = SPECIAL
    absolute_error: float = 0.0
    range: tuple[float, float] = (-_INFINITY, _INFINITY)
    domain: Callable[[Tensor, Tensor], Tensor] = always
    pace: float = 0.4

    @abstractmethod
    def candidates(self, inside: Interval, slope: Tensor, side: int) -> Iterator[Candidate]:
        """Points among which is the maximiser (side 1) or minimiser (side -1) of ``f(x) - slope x``."""

    @abstractmethod
    def slope(self, inside: Interval, side: int) -> Tensor:
        """The slope of the upper (side 1) or lower (side -1) line that serves best without further knowledge."""

    @abstractmethod
    def slopes(self, inside: Interval) -> Interval:
        """About the least and the largest slope within an interval."""

    def range_of(self, *parents: Interval) -> Interval:
        """The image of an interval."""
        return self.interval(*parents)

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Slopes: below, above."""
        inside, _ = self._inside(*parents)
        return self.slope(inside, LOWER), self.slope(inside, UPPER)

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """Slopes of the function within the interval."""
        inside, _ = self._inside(*parents)
        return (self.slopes(inside),) * 2

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """Lines with given slopes."""
        (interval,), (lower_slope, upper_slope) = parents, parameters
        return _as_planes(self.lines_at(interval, lower_slope, upper_slope))

    def default_planes(self, *parents: Interval) -> Planes:
        """The default lines."""
        return _as_planes(self.lines(*parents))

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Entries where the two lines differ by more than rounding."""
        (interval,) = parents
        lines = self.lines(interval)
        x = (interval.lower + interval.upper) / 2
        gap = (lines.upper_slope - lines.lower_slope) * x + lines.upper_intercept - lines.lower_intercept
        size = lines.upper_intercept.abs() + lines.upper_slope.abs() * x.abs()
        return ((gap > 1e-9 * size + 1e-12) | gap.isnan(),)

    def interval(self, interval: Interval) -> Interval:
        """The image of an interval, rounded outward; infinite where the function is not defined or overflows."""
        zero = torch.zeros_like(interval.lower)
        _, lower, _, upper = self.lines_at(interval, zero, zero)
        return Interval(lower, upper)

    def lines(self, interval: Interval) -> LinePair:
        """Lines with the slopes that serve best without further knowledge.

        Gradients reach the interval. Slopes count as constants where they come of an iteration: of lines that are
        tangent to the function through one of its ends.
        """
        inside, _ = self._inside(interval)
        return self.lines_at(interval, self.slope(inside, LOWER), self.slope(inside, UPPER))

    def lines_at(self, interval: Interval, lower_slope: Tensor, upper_slope: Tensor) -> LinePair:
        """The tightest lines with given slopes; gradients reach the slopes and the interval."""
        lower = self._line(interval, lower_slope, LOWER)
        return LinePair(*lower, *self._line(interval, upper_slope, UPPER))

    def _inside(self, interval: Interval) -> tuple[Interval, Tensor]:
        """The interval with finite ends, another one where the function is not defined, and where it is."""
        lower, upper = interval.lower, interval.upper
        valid = self.domain(lower, upper) & (lower <= upper)
        largest, one = torch.finfo(lower.dtype).max, torch.ones_like(lower)
        ends = (torch.where(valid, end, one).clamp(-largest, largest) for end in (lower, upper))
        return Interval(*ends), valid

    def _line(self, interval: Interval, slope: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Slope and intercept of the line on one side."""
        inside, valid = self._inside(interval)
        slope = torch.where(interval.lower.isinf() | interval.upper.isinf(), torch.zeros_like(slope), slope)
        intercept = self.intercept(inside, slope, side)
        known = valid & (intercept.abs() < torch.finfo(intercept.dtype).max) & slope.isfinite()
        nothing = torch.full_like(intercept, side * _INFINITY)
        finite = torch.where(known, intercept, torch.zeros_like(intercept))
        intercept, slope = torch.where(known, intercept, nothing), torch.where(known, slope, torch.zeros_like(slope))
        within = intercept.clamp(max=self.range[1]) if side == UPPER else intercept.clamp(min=self.range[0])
        cut = valid & (slope == 0) & (within != intercept)
        intercept = torch.where(cut, within.detach() + (finite - finite.detach()), intercept)  # the gradient remains
        undefined = ~(interval.lower <= interval.upper)
        nan = torch.full_like(intercept, torch.nan)
        return torch.where(undefined, nan, slope), torch.where(undefined, nan, intercept)

    def intercept(self, inside: Interval, slope: Tensor, side: int) -> Tensor:
        """The extremum of ``f(x) - slope x``, moved outward by its rounding error."""
        with torch.no_grad():
            best = self._extremum(inside, slope, side)
        # By the envelope theorem the extremum moves with the slope and with the end it lies at, and with nothing else.
        point = torch.where(best.point == inside.lower, inside.lower, best.point)
        point = torch.where(best.point == inside.upper, inside.upper, point)
        # The largest number stands for infinity, where the function may go on beyond what it is there.
        slack = torch.where(best.point.abs() == torch.finfo(slope.dtype).max, _INFINITY, best.slack)
        return moving(best.value, (point, best.derivative)) - slope * point + side * slack

    def _extremum(self, inside: Interval, slope: Tensor, side: int) -> Candidate:
        """The candidate that reaches farthest; its slack includes the rounding of the intercept."""
        candidates = (self._measured(part, slope, side) for part in self.candidates(inside, slope, side))
        return reduce(_farther, candidates)[1]

    def _measured(self, candidate: Candidate, slope: Tensor, side: int) -> tuple[Tensor, Candidate]:
        """The reach of a candidate outward with all its errors, and the candidate with these as its slack."""
        slack = self._outward(candidate, slope)
        reach = side * (candidate.value - slope * candidate.point) + slack
        # NaN comes of overflow: it is taken for the worst, not for the least.
        reach = torch.where(candidate.applies, reach.nan_to_num(nan=_INFINITY, posinf=_INFINITY), -_INFINITY)
        return reach, candidate._replace(slack=torch.where(reach == _INFINITY, reach, slack))

    def _outward(self, candidate: Candidate, slope: Tensor) -> Tensor:
        """A bound on slack and rounding errors of ``value - slope * point + slack``, as it is computed."""
        product = slope * candidate.point
        difference = candidate.value - product
        exact = (slope == 0) | (slope.abs() == 1)  # factors that do not round
        simple = (candidate.value == 0) | (product == 0) | (difference == 0)  # differences that do not round
        error = torch.where(exact, 0.0, product.abs()) + torch.where(simple, 0.0, difference.abs())
        error = error + self.relative_error * candidate.value.abs() + self.absolute_error
        rounded = (error > 0) | (candidate.slack > 0) | (self.relative_error > 0)  # else the sum below is exact too
        unit = unit_roundoff(slope.dtype)
        total = candidate.slack + unit * (error + 2 * difference.abs()) + underflow(slope.dtype)
        return torch.where(rounded, total * (1 + 16 * unit), torch.zeros_like(total))


def _as_planes(lines: LinePair) -> Planes:
    return Planes((lines.lower_slope,), lines.lower_intercept, (lines.upper_slope,), lines.upper_intercept)


def _farther(one: tuple[Tensor, Candidate], other: tuple[Tensor, Candidate]) -> tuple[Tensor, Candidate]:
    better = other[0] > one[0]
    chosen = Candidate(*(torch.where(better, new, old) for new, old in zip(other[1], one[1], strict=True)))
    return torch.where(better, other[0], one[0]), chosen


def moving(value: Tensor, *rates: tuple[Tensor, Tensor]) -> Tensor:
    """``value``, with given derivatives with respect to tensors; infinite ones count as 0."""
    for x, rate in rates:
        value = value + torch.where(rate.isfinite(), rate, torch.zeros_like(rate)) * (x - x.detach())
    return value


def middle(interval: Interval) -> Tensor:
    """The centre of an interval."""
    return interval.lower / 2 + interval.upper / 2


def bracketed(passed: Map, lower: Tensor, upper: Tensor, steps: int = 48) -> Interval:
    """Around the point from which on ``passed`` holds, between two points; next to one of them if it lies outside."""
    for _ in range(steps):
        point = lower / 2 + upper / 2
        beyond = passed(point)
        lower, upper = torch.where(beyond, lower, point), torch.where(beyond, point, upper)
    return Interval(lower, upper)


def rooted(excess: Map, lower: Tensor, upper: Tensor, halvings: int = 6, steps: int = 10) -> Tensor:
    """Next to the point where a continuous function becomes positive, between two points; one of them if it never does.

    Halving leaves an interval in which the function is nearly straight; the Illinois rule then goes on from its values,
    and gains digits with every step.

    References:
        Dowell, Jarratt (1971), A modified regula falsi method for computing the root of an equation, BIT 11, 168-174.
    """
    around = bracketed(lambda x: excess(x) > 0, lower, upper, halvings)
    left, right = around.lower, around.upper
    low, high = excess(left), excess(right)
    last, point = torch.zeros_like(low), middle(around)
    for _ in range(steps):
        point = left - low * ((right - left) / (high - low))
        point = torch.where((point >= left) & (point <= right), point, left / 2 + right / 2)  # also for NaN
        value = excess(point)
        beyond = value > 0
        side = torch.where(beyond, 1.0, -1.0)
        kept = torch.where(side == last, 0.5, 1.0)  # an end that stays twice counts half
        left, low = torch.where(beyond, left, point), torch.where(beyond, low * kept, value)
        right, high = torch.where(beyond, point, right), torch.where(beyond, value, high * kept)
        last = side
    return point


def best_slope(function: ScalarFunction, inside: Interval, slopes: Iterable[Tensor], side: int) -> Tensor:
    """The slope whose line has the smallest area under it, that is the least height at the middle; mirrored below."""
    first, *others = slopes
    center = middle(inside)

    @torch.no_grad()
    def height(slope: Tensor) -> Tensor:
        return side * (function.intercept(inside, slope, side) + slope * center)

    best, record = first, height(first)
    for slope in others:
        least = height(slope)
        best = torch.where(least < record, slope, best)
        record = torch.minimum(least, record)
    return best
