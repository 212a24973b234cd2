r"""Lines around functions that are made of convex, concave and linear pieces.

The maximum of :math:`f(x) - k x` lies at an end of a piece where :math:`f` is convex. On a concave piece
:math:`[a, b]`, any point :math:`x` with :math:`f'(x) > k` bounds it by
:math:`f(x) - k x + (f'(x) - k)(b - x)`, and mirrored; an inexact root of :math:`f' = k` thus costs tightness only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.numerics import unit_roundoff
from bounds.relaxations.scalar import Candidate, LinePair, Map, ScalarFunction, best_slope, middle, moving, rooted
from bounds.relaxations.touching import bent_lines, monotone_range
from bounds.sets.balls import Interval

Root = Callable[[Tensor, Tensor, Tensor], Tensor]  # of a slope and both ends of an interval
_INFINITY = float("inf")


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
        apart: whether there are two pieces with one formula, and no interval of the domain reaches into both.
        monotone: 1 if the function rises on every interval of its domain, -1 if it falls; 0 for neither or unknown.
    """

    pieces: tuple[Piece, ...]
    curvature: int | Tensor = 0
    apart: bool = False
    monotone: int = 0

    def range_of(self, *parents: Interval) -> Interval:
        """The image of an interval; by its ends where these tell and no gradients are wanted."""
        if self.monotone == 0 or torch.is_grad_enabled():
            return super().range_of(*parents)
        return monotone_range(self, parents[0], self.monotone)

    def lines(self, interval: Interval) -> LinePair:
        """Lines that touch at known points where each interval lies in one piece; with gradients by their slopes."""
        first, last = self.pieces[0], self.pieces[-1]
        if torch.is_grad_enabled() or first.root is None or not (self.apart or first is last):
            return super().lines(interval)
        bend: Tensor | int = first.curvature
        if last.curvature != bend:
            bend = torch.where(interval.upper <= first.end, float(bend), float(last.curvature))
        return bent_lines(self, interval, first.derivative, bend)

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
                rounding_error = self._difference_error(derivative, slope)
                right, left = (ascent + rounding_error).clamp(min=0), (rounding_error - ascent).clamp(min=0)
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
        """The range of slopes at the ends and at the inflection points, on both sides of a kink."""
        slopes = self._slopes_at_ends(inside)
        low = torch.where(slopes.isfinite(), slopes, _INFINITY).amin(0)
        high = torch.where(slopes.isfinite(), slopes, -_INFINITY).amax(0)
        known = low <= high
        return Interval(torch.where(known, low, 0.0), torch.where(known, high, 0.0))

    def _slopes_at_ends(self, inside: Interval) -> Tensor:
        """The derivative at both ends of each piece within an interval, (2 P, ...), NaN where there is none."""
        found = []
        for piece in self.pieces:
            lower, upper = inside.lower.clamp(min=piece.start), inside.upper.clamp(max=piece.end)
            found += [torch.where(lower <= upper, piece.derivative(point), torch.nan) for point in (lower, upper)]
        return torch.stack(found)

    @torch.no_grad()
    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Entries where slopes, over the width of the interval, differ by more than rounding; without any lines."""
        inside, valid = self._inside(*parents)
        slopes, width = self._slopes_at_ends(inside), inside.upper - inside.lower
        steepest = slopes.nan_to_num(-_INFINITY, _INFINITY, -_INFINITY).amax(0)
        flattest = slopes.nan_to_num(_INFINITY, _INFINITY, -_INFINITY).amin(0)
        gap = (steepest - flattest) * width  # at least that between the lines
        size = self.value(inside.upper).abs() + steepest.abs() * (inside.lower.abs() + width)
        known = valid & size.isfinite() & parents[0].lower.isfinite() & parents[0].upper.isfinite()
        return (~(known & (gap <= 1e-9 * size + 1e-12)),)

    def _difference_error(self, derivative: Tensor, slope: Tensor) -> Tensor:
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

        def excess(x: Tensor) -> Tensor:
            return side * (x - end).sign() * (piece.value(x) - height - piece.derivative(x) * (x - end))

        return piece.derivative(rooted(excess, part.lower, part.upper))


def _point_of(piece: Piece) -> float:
    """A point inside the piece, where its derivative is finite."""
    start = piece.start if piece.start > -_INFINITY else min(piece.end, 0.0) - 2
    end = piece.end if piece.end < _INFINITY else max(piece.start, 0.0) + 2
    return (start + end) / 2


def linear_piece(
    slope: float | Tensor, offset: float = 0.0, start: float = -_INFINITY, end: float = _INFINITY
) -> Piece:
    """The line ``slope x + offset`` between two points."""
    return Piece(lambda x: slope * x + offset, lambda x: slope * torch.ones_like(x), 0, None, start, end)


def tiny(x: Tensor) -> float:
    """The smallest normal number of a dtype."""
    return torch.finfo(x.dtype).tiny
