"""Steps and waves: scalar functions of which an interval may hold any number of pieces."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.numerics import unit_roundoff
from bounds.relaxations.scalar import UPPER, Candidate, Map, ScalarFunction, best_slope, bracketed, middle
from bounds.sets.balls import Interval


@dataclass(frozen=True, eq=False, kw_only=True)
class StepFunction(ScalarFunction):
    """A non-decreasing function that is constant between jumps; its default lines are constants.

    Attributes:
        corners: of an interval, points and one-sided values among which ``f(x) - k x`` is largest and smallest for
            every slope, apart from the ends, and where each of them applies.
    """

    corners: Callable[[Interval], Iterator[tuple[Tensor, Tensor, Tensor]]]
    relative_error: float = 0.0

    def candidates(self, inside: Interval, slope: Tensor, side: int) -> Iterator[Candidate]:
        """The ends and the corners."""
        nothing, everywhere = torch.zeros_like(slope), torch.ones_like(slope, dtype=torch.bool)
        for end in (inside.lower, inside.upper):
            yield Candidate(end, self.value(end), nothing, nothing, everywhere)
        for point, value, applies in self.corners(inside):
            yield Candidate(point, value, nothing, nothing, applies)

    def slopes(self, inside: Interval) -> Interval:
        """Up to twice the mean slope."""
        mean = (self.value(inside.upper) - self.value(inside.lower)) / (inside.upper - inside.lower)
        return Interval(torch.zeros_like(mean), 2 * mean.nan_to_num(0.0, 0.0, 0.0))

    def slope(self, inside: Interval, side: int) -> Tensor:
        """Zero."""
        return torch.zeros_like(inside.lower)


def _floor_corners(inside: Interval) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    # Along the jumps f(x) - k x is linear in x: the first and the last one decide.
    last = inside.upper.floor()
    for jump in (inside.lower.ceil(), last):
        yield jump, jump, (inside.lower <= jump) & (jump <= inside.upper)
    for jump in (inside.lower.floor() + 1, last):  # from the left
        yield jump, jump - 1, (inside.lower < jump) & (jump <= inside.upper)


def _round_corners(inside: Interval) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for jump in ((inside.lower + 0.5).floor() + 0.5, (inside.upper - 0.5).floor() + 0.5):  # from the left
        yield jump, jump - 0.5, (inside.lower < jump) & (jump <= inside.upper)
    for jump in ((inside.lower - 0.5).ceil() + 0.5, (inside.upper - 0.5).ceil() - 0.5):  # from the right
        yield jump, jump + 0.5, (inside.lower <= jump) & (jump < inside.upper)


def _sign_corners(inside: Interval) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    zero, one = torch.zeros_like(inside.lower), torch.ones_like(inside.lower)
    below, above = inside.lower < 0, inside.upper > 0
    yield zero, zero, (inside.lower <= 0) & (inside.upper >= 0)
    yield zero, one, above & (inside.lower <= 0)
    yield zero, -one, below & (inside.upper >= 0)


def _positive_corners(inside: Interval) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    zero, one = torch.zeros_like(inside.lower), torch.ones_like(inside.lower)
    yield zero, zero, (inside.lower <= 0) & (inside.upper >= 0)
    yield zero, one, (inside.lower <= 0) & (inside.upper > 0)


def _not_negative_corners(inside: Interval) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    zero, one = torch.zeros_like(inside.lower), torch.ones_like(inside.lower)
    yield zero, one, (inside.lower <= 0) & (inside.upper >= 0)
    yield zero, zero, (inside.lower < 0) & (inside.upper >= 0)


def floor() -> StepFunction:
    """The largest integer that is at most ``x``."""
    return StepFunction(value=torch.floor, corners=_floor_corners)


def round_half_to_even() -> StepFunction:
    """The nearest integer, and of two the even one."""
    # Among numbers so large that no half lies between them, the ends are off by as much.
    return StepFunction(value=torch.round, corners=_round_corners, relative_error=2.0)


def sign() -> StepFunction:
    """-1, 0 or 1."""
    return StepFunction(value=torch.sign, corners=_sign_corners, range=(-1.0, 1.0))


def step_above_zero() -> StepFunction:
    """1 above 0, else 0."""
    return StepFunction(value=lambda x: (x > 0).to(x.dtype), corners=_positive_corners, range=(0.0, 1.0))


def not_negative() -> StepFunction:
    """0 below 0, else 1."""
    return StepFunction(value=lambda x: (x >= 0).to(x.dtype), corners=_not_negative_corners, range=(0.0, 1.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Wave(ScalarFunction):
    """Sine or cosine.

    Attributes:
        derivative: of the function.
        maximum: of a slope k in [-1, 1], a point where the derivative is k and the function bends down.
        minimum: likewise, and the function bends up.
    """

    derivative: Map
    maximum: Map
    minimum: Map

    def candidates(self, inside: Interval, slope: Tensor, side: int) -> Iterator[Candidate]:
        """The ends and the stationary points next to them: from one period to the next, f(x) - k x moves evenly."""
        everywhere = torch.ones_like(slope, dtype=torch.bool)
        start = (self.maximum if side == UPPER else self.minimum)(slope.clamp(-1, 1))
        first = ((inside.lower - start) / (2 * math.pi)).ceil()
        last = ((inside.upper - start) / (2 * math.pi)).floor()
        # A point that is off by d loses d^2 / 2 at most.
        # An end may stand for one that rounding has put beyond it.
        off = 8 * unit_roundoff(slope.dtype) * (torch.maximum(inside.lower.abs(), inside.upper.abs()) + 7)
        stationary = ((start + 2 * math.pi * number).clamp(inside.lower, inside.upper) for number in (first, last))
        for point in (inside.lower, inside.upper, *stationary):
            yield Candidate(point, self.value(point), self.derivative(point), off * off / 2, everywhere)

    def slopes(self, inside: Interval) -> Interval:
        """From -1 to 1."""
        one = torch.ones_like(inside.lower)
        return Interval(-one, one)

    @torch.no_grad()
    def slope(self, inside: Interval, side: int) -> Tensor:
        """The slope of the line with the least area, or 0 as for other functions that turn."""
        low, high = -torch.ones_like(inside.lower), torch.ones_like(inside.lower)
        center = middle(inside)

        def beyond(slope: Tensor) -> Tensor:
            touching = self._extremum(inside, slope, side).point
            return side * (touching - center) <= 0

        # The point where the line touches moves one way with the slope; under the best line it passes the middle.
        best = middle(bracketed(beyond, low, high))
        best = best_slope(self, inside, (best, self.derivative(center)), side)
        return _prefer_constant(self, inside, best, side)


def _prefer_constant(function: ScalarFunction, inside: Interval, slope: Tensor, side: int) -> Tensor:
    """Zero where the constant line is better than the one with ``slope`` in the sum of its mean and worst value."""
    flat = torch.zeros_like(slope)
    with torch.no_grad():
        constant = 2 * side * function.intercept(inside, flat, side)
        lower, mean, upper = (side * slope * x for x in (inside.lower, middle(inside), inside.upper))
        line = 2 * side * function.intercept(inside, slope, side) + mean + torch.maximum(lower, upper)
    return torch.where(constant <= line, flat, slope)


def sin() -> Wave:
    """The sine."""
    return Wave(
        value=torch.sin, derivative=torch.cos, maximum=torch.acos, minimum=lambda k: -torch.acos(k), range=(-1.0, 1.0)
    )


def cos() -> Wave:
    """The cosine."""
    return Wave(
        value=torch.cos,
        derivative=lambda x: -torch.sin(x),
        maximum=lambda k: -torch.asin(k),
        minimum=lambda k: math.pi + torch.asin(k),
        range=(-1.0, 1.0),
    )
