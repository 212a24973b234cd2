r"""Lines below and above a scalar function on an interval.

The slope comes first. For any slope :math:`k`, the line :math:`k x + t` with
:math:`t = \max_{l \le x \le u} f(x) - k x` lies above :math:`f` and touches it.
So slopes may be chosen freely, and every choice is sound.

The maximum is looked for on pieces where :math:`f` is convex (it lies at an end) or concave. On a concave piece
:math:`[a, b]`, any point :math:`x` with :math:`f'(x) > k` bounds it by
:math:`f(x) - k x + (f'(x) - k)(b - x)`, and mirrored; an inexact root of :math:`f' = k` thus costs tightness only.

Rounding is part of the lines: they hold in real arithmetic for the very numbers that are returned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.balls import Interval
from bounds.coefficients import Rows
from bounds.numerics import unit_roundoff

Map = Callable[[Tensor], Tensor]
Root = Callable[[Tensor, Tensor, Tensor], Tensor]  # of a slope and both ends of an interval

# Relative error of special functions in units of rounding, as in bounds.numerics.SPECIAL_FUNCTION_ERROR.
SPECIAL = 16.0
UPPER, LOWER = 1, -1
_INFINITY = float("inf")


class Lines(NamedTuple):
    """``lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept`` on an interval, entry by entry."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class Planes(NamedTuple):
    """Affine functions of all parents of a node below and above it, entry by entry.

    Attributes:
        lower_slopes: for each parent, of its shape or one that it is expanded to.
        lower_intercept: shaped like the node; None for 0 everywhere.
        upper_slopes: likewise; the same tensors as below where both have the same slopes.
        upper_intercept: shaped like the node.
    """

    lower_slopes: tuple[Tensor, ...]
    lower_intercept: Tensor | None
    upper_slopes: tuple[Tensor, ...]
    upper_intercept: Tensor

    def at(self, rows: Rows) -> "Planes":
        """The planes where coefficients stand."""
        low = tuple(rows.at(slope) for slope in self.lower_slopes)
        same = all(a is b for a, b in zip(self.lower_slopes, self.upper_slopes, strict=True))
        high = low if same else tuple(rows.at(slope) for slope in self.upper_slopes)
        constant = None if self.lower_intercept is None else rows.at(self.lower_intercept)
        return Planes(low, constant, high, rows.at(self.upper_intercept))


class NodeFunction(ABC):
    """What linear bounds need of a node that is not affine: a range, and planes with free numbers in them.

    The planes are sound for every choice of the free numbers; the choice is a matter of tightness.

    Attributes:
        pace: how far an ascent should move the free numbers at a time, 1 for the usual share of their limits.
    """

    pace: float = 1.0

    @abstractmethod
    def range_of(self, *parents: Interval) -> Interval:
        """The image of the parents' intervals, rounded outward."""

    @abstractmethod
    def free(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Free numbers of planes that serve best without further knowledge."""

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """For each of the free numbers, between which values it is of use."""
        return ()

    @abstractmethod
    def planes(self, free: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """Planes with given free numbers, which gradients reach."""

    def usual(self, *parents: Interval) -> Planes:
        """Planes with the free numbers that serve best without further knowledge."""
        return self.planes(self.free(*parents), *parents)

    def prepared(self, *parents: Interval) -> "Callable[[tuple[Tensor, ...]], Planes]":
        """Planes as a function of the free numbers alone, for intervals that stay as they are."""
        return lambda free: self.planes(free, *parents)

    @abstractmethod
    def open(self, *parents: Interval) -> tuple[Tensor, ...]:
        """For each parent, where better bounds on it would help."""

    def parallel(self, *parents: Interval) -> Planes:
        """Planes with the same slopes below and above, if there are such ones of use."""
        return self.usual(*parents)

    def aligned(self, coefficients: Tensor) -> Tensor:
        """Coefficients (N, R, *shape) of the node, to be multiplied with slopes."""
        return coefficients

    def combined(self, products: Tensor) -> Tensor:
        """Values of the node, from products (.., *shape) of one parent with its slopes."""
        return products

    def reduced(self, products: Tensor, shape: torch.Size) -> Tensor:
        """Coefficients of a parent with values of a given shape (N, *shape), from products with its slopes."""
        return products


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

    def free(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Slopes: below, above."""
        inside, _ = self._inside(*parents)
        return self.slope(inside, LOWER), self.slope(inside, UPPER)

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """Slopes of the function within the interval."""
        inside, _ = self._inside(*parents)
        return (self.slopes(inside),) * 2

    def planes(self, free: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """Lines with given slopes."""
        (interval,), (lower_slope, upper_slope) = parents, free
        return _as_planes(self.lines_at(interval, lower_slope, upper_slope))

    def open(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Where the two lines differ by more than rounding."""
        (interval,) = parents
        lines = self.lines(interval)
        x = (interval.lower + interval.upper) / 2
        gap = (lines.upper_slope - lines.lower_slope) * x + lines.upper_intercept - lines.lower_intercept
        size = lines.upper_intercept.abs() + lines.upper_slope.abs() * x.abs()
        return ((gap > 1e-9 * size + 1e-12) | gap.isnan(),)

    def parallel(self, *parents: Interval) -> Planes:
        """Both lines with the slope of the secant between the ends of the interval."""
        (interval,) = parents
        inside, _ = self._inside(interval)
        ends = [self.value(end) for end in (inside.lower, inside.upper)]
        slope = ((ends[1] - ends[0]) / (inside.upper - inside.lower)).nan_to_num(0.0, 0.0, 0.0)
        lines = self.lines_at(interval, slope, slope)
        # Where one of the lines is not known it has another slope than was asked for.
        known = lines.lower_slope == lines.upper_slope
        upper_intercept = torch.where(known, lines.upper_intercept, _INFINITY)
        return _as_planes(lines._replace(upper_slope=lines.lower_slope, upper_intercept=upper_intercept))

    def interval(self, interval: Interval) -> Interval:
        """The image of an interval, rounded outward; infinite where the function is not defined or overflows."""
        zero = torch.zeros_like(interval.lower)
        _, lower, _, upper = self.lines_at(interval, zero, zero)
        return Interval(lower, upper)

    def lines(self, interval: Interval) -> Lines:
        """Lines with the slopes that serve best without further knowledge.

        Gradients reach the interval. Slopes count as constants where they come of an iteration: of lines that are
        tangent to the function through one of its ends.
        """
        inside, _ = self._inside(interval)
        return self.lines_at(interval, self.slope(inside, LOWER), self.slope(inside, UPPER))

    def lines_at(self, interval: Interval, lower_slope: Tensor, upper_slope: Tensor) -> Lines:
        """The tightest lines with given slopes; gradients reach the slopes and the interval."""
        lower = self._line(interval, lower_slope, LOWER)
        return Lines(*lower, *self._line(interval, upper_slope, UPPER))

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
        """How far a candidate may reach outward with all its errors, and the candidate with these as its slack."""
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
        total = candidate.slack + unit * (error + 2 * difference.abs()) + torch.finfo(slope.dtype).tiny
        return torch.where(rounded, total * (1 + 16 * unit), torch.zeros_like(total))


def _as_planes(lines: Lines) -> Planes:
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


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a function without a change of curvature or a kink inside, with one-sided values at its ends.

    Attributes:
        value: the function on the piece.
        derivative: likewise.
        curvature: 1 for convex, -1 for concave, 0 for linear.
        root: of a slope and the ends of an interval in the piece, where the derivative equals the slope: how well
            decides on tightness only, and beyond the interval anything beyond will do. Unused on a linear piece.
        start: left end.
        end: right end.
    """

    value: Map
    derivative: Map
    curvature: int
    root: Root | None = None
    start: float = -_INFINITY
    end: float = _INFINITY


@dataclass(frozen=True, eq=False, kw_only=True)
class PiecewiseFunction(ScalarFunction):
    """A function made of pieces, from left to right.

    Attributes:
        pieces: with every point of the domain in one of them.
        curvature: of the whole function, 1 for convex and -1 for concave, a number or a tensor; 0 for neither.
    """

    pieces: tuple[Piece, ...]
    curvature: int | Tensor = 0

    def candidates(self, inside: Interval, slope: Tensor, side: int) -> Iterator[Candidate]:
        """Ends of the pieces, and the stationary point of a piece that bends the right way."""
        nothing = torch.zeros_like(slope)
        for piece in self.pieces:
            lower, upper = inside.lower.clamp(min=piece.start), inside.upper.clamp(max=piece.end)
            if piece.root is not None and piece.curvature * side < 0:
                point = piece.root(slope, lower, upper)
                point = torch.where(point.isnan(), lower, point).clamp(lower, upper)
                # A root beyond the interval is no matter of rounding: there the end itself is meant.
                point = torch.where(side * (piece.derivative(upper) - slope) >= 0, upper, point)
                point = torch.where(side * (piece.derivative(lower) - slope) <= 0, lower, point)
                derivative = piece.derivative(point)
                ascent = side * (derivative - slope)
                doubt = self._doubt(derivative, slope)
                right, left = (ascent + doubt).clamp(min=0), (doubt - ascent).clamp(min=0)
                slack = torch.maximum(
                    torch.where(point == upper, nothing, right * (upper - point)),
                    torch.where(point == lower, nothing, left * (point - lower)),
                )
                yield Candidate(point, piece.value(point), derivative, slack, lower <= upper)
            else:
                for point in (lower, upper):
                    yield Candidate(point, piece.value(point), piece.derivative(point), nothing, lower <= upper)

    @torch.no_grad()
    def slopes(self, inside: Interval) -> Interval:
        """Those at the ends and at the inflection points, on both sides of a kink."""
        found = []
        for piece in self.pieces:
            lower, upper = inside.lower.clamp(min=piece.start), inside.upper.clamp(max=piece.end)
            for point in (lower, upper):
                found.append(torch.where(lower <= upper, piece.derivative(point), torch.nan))
        slopes = torch.stack(found)
        low = torch.where(slopes.isfinite(), slopes, _INFINITY).amin(0)
        high = torch.where(slopes.isfinite(), slopes, -_INFINITY).amax(0)
        known = low <= high
        return Interval(torch.where(known, low, 0.0), torch.where(known, high, 0.0))

    def _doubt(self, derivative: Tensor, slope: Tensor) -> Tensor:
        """A bound on the rounding error of ``derivative - slope``."""
        error = 2 * self.relative_error * derivative.abs() + slope.abs() + self.absolute_error
        return unit_roundoff(slope.dtype) * error + torch.finfo(slope.dtype).tiny

    def slope(self, inside: Interval, side: int) -> Tensor:
        """The slope of the line with the least area, of those through an end, through two, or tangent at the middle."""
        tangent = self._derivative(middle(inside))
        secant = self._secant(inside, tangent)
        if isinstance(self.curvature, Tensor) or self.curvature != 0:
            bends = torch.as_tensor(self.curvature, device=tangent.device)
            return torch.where(bends * side > 0, secant, tangent)
        slopes = [secant, tangent, *self._through_ends(inside, side, tangent)]
        return best_slope(self, inside, slopes, side)

    def _derivative(self, x: Tensor) -> Tensor:
        """The derivative, from the left at kinks; 0 where it is infinite."""
        result = torch.zeros_like(x)
        moderate = x.abs() < torch.finfo(x.dtype).max ** 0.125  # beyond, powers overflow on the way back
        for piece in self.pieces:
            with torch.no_grad():
                slope = piece.derivative(x)
                within = (x > piece.start) & (x <= piece.end) & slope.isfinite()
            bent = piece.derivative(torch.where(within & moderate, x, torch.full_like(x, _point_of(piece))))
            result = torch.where(within, torch.where(moderate, bent, slope), result)
        return result

    def _secant(self, inside: Interval, tangent: Tensor) -> Tensor:
        """The slope between both ends; of the tangent where these lie so close that rounding rules."""
        lower, upper = inside.lower, inside.upper
        with torch.no_grad():
            width = upper - lower
            secant = (self.value(upper) - self.value(lower)) / width
            clear = width > 2 * unit_roundoff(width.dtype) ** 0.5 * (lower.abs() + upper.abs())
            right, left = ((self._derivative(end) - secant) / width for end in (upper, lower))
        return torch.where(clear & secant.isfinite(), moving(secant, (upper, right), (lower, -left)), tangent)

    @torch.no_grad()
    def _through_ends(self, inside: Interval, side: int, tangent: Tensor) -> list[Tensor]:
        """Slopes of the lines through one end that touch a piece inside, or pass through one of its kinks."""
        slopes = []
        linear = any(piece.curvature == 0 for piece in self.pieces)
        for piece in self.pieces:
            lower, upper = inside.lower.clamp(min=piece.start), inside.upper.clamp(max=piece.end)
            for end in (inside.lower, inside.upper):
                if piece.curvature * side < 0:
                    slopes.append(self._touching(piece, Interval(lower, upper), end, side))
                if linear and piece.end < _INFINITY:
                    rise = self.value(torch.full_like(end, piece.end)) - self.value(end)
                    slopes.append(rise / (piece.end - end))
        reached = (torch.where(slope.isfinite(), slope, tangent) for slope in slopes)
        return list(reached)

    def _touching(self, piece: Piece, part: Interval, end: Tensor, side: int) -> Tensor:
        """The slope of the line through the function at ``end`` that is tangent to the piece."""
        height = self.value(end)

        def passed(x: Tensor) -> Tensor:
            return side * (x - end).sign() * (piece.value(x) - height - piece.derivative(x) * (x - end)) > 0

        return piece.derivative(middle(bisect(passed, part.lower, part.upper)))


def middle(interval: Interval) -> Tensor:
    """The centre of an interval."""
    return interval.lower / 2 + interval.upper / 2


def _point_of(piece: Piece) -> float:
    """A point inside the piece, where its derivative is finite."""
    start = piece.start if piece.start > -_INFINITY else min(piece.end, 0.0) - 2
    end = piece.end if piece.end < _INFINITY else max(piece.start, 0.0) + 2
    return (start + end) / 2


def bisect(passed: Map, lower: Tensor, upper: Tensor, steps: int = 48) -> Interval:
    """Around the point from which on ``passed`` holds, between two points; next to one of them if it lies outside."""
    for _ in range(steps):
        point = lower / 2 + upper / 2
        beyond = passed(point)
        lower, upper = torch.where(beyond, lower, point), torch.where(beyond, point, upper)
    return Interval(lower, upper)


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
