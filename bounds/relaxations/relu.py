"""ReLU and leaky ReLU in closed form: the function that most networks are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bounds.numerics import underflow
from bounds.relaxations.base import Planes, kept_within
from bounds.relaxations.piecewise import PiecewiseFunction
from bounds.sets.balls import Interval


@dataclass(frozen=True, eq=False, kw_only=True)
class ReLURelaxation(PiecewiseFunction):
    """``max(x, negative_slope x)`` with a slope in [0, 1].

    Where the sign is known the planes are the function itself. Else the upper one is the secant, and the lower one any
    line through 0 with a slope between the two of the function: its slope is the parameter.
    """

    negative_slope: float = 0.0
    pace: float = 1.0
    _last: list[tuple[Interval, tuple[Tensor, Tensor]]] = field(default_factory=list, repr=False)

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """Slopes of lines through 0 that stay below the function."""
        flat = torch.full_like(parents[0].lower, self.negative_slope)
        return (Interval(flat, torch.ones_like(flat)),)

    def range_of(self, *parents: Interval) -> Interval:
        """Both ends, rounded outward; ReLU does not round."""
        lower, upper = (self.value(end) for end in (parents[0].lower, parents[0].upper))
        if self.negative_slope not in (0.0, 1.0):
            unit, least = torch.finfo(lower.dtype).eps, underflow(lower.dtype)
            lower = torch.where(lower < 0, lower - unit * lower.abs() - least, lower)
            upper = torch.where(upper < 0, upper + unit * upper.abs() + least, upper)
        return Interval(lower, upper)

    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """1 where the secant is steeper than 1/2, else the other slope: for ReLU the smaller area."""
        (x,) = parents
        steep = x.upper - self.negative_slope * x.lower > 0.5 * (x.upper - x.lower)
        return (torch.where(steep, torch.ones_like(x.lower), self.negative_slope),)

    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """The lower line with a slope through 0, and the secant above."""
        return self.prepared(*parents)(parameters)

    def prepared(self, *parents: Interval) -> Callable[[tuple[Tensor, ...]], Planes]:
        """The secant is the same for every slope below it."""
        slope, intercept = self._line_above(parents[0])  # of rows with intervals of their own: too large to keep
        (unstable,) = self.unstable(*parents)

        def planes(parameters: tuple[Tensor, ...]) -> Planes:
            lower = torch.where(unstable, kept_within(parameters[0], self.negative_slope, 1.0), slope)
            return Planes((lower,), None, (slope,), intercept)

        return planes

    def default_planes(self, *parents: Interval) -> Planes:
        """Planes with the default parameters: the secant tells which these are, and where there are none."""
        slope, intercept = self._upper_line(parents[0])
        return Planes((slope.detach().round().clamp(min=self.negative_slope),), None, (slope,), intercept)

    def steepest(self, x: Interval) -> Tensor:
        """At least the slope of all lines that may be chosen."""
        return x.upper.sign().clamp(min=self.negative_slope)

    def parallel(self, *parents: Interval) -> Planes:
        """Both lines with the slope of the secant."""
        slope, intercept = self._upper_line(parents[0])
        return Planes((slope,), None, (slope,), intercept)

    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Entries whose sign is not known."""
        (x,) = parents
        return (~((x.lower >= 0) | (x.upper <= 0)),)  # NaN is unstable

    def _upper_line(self, x: Interval) -> tuple[Tensor, Tensor]:
        """The line above, that of the last interval again: several methods in turn ask for the same."""
        if torch.is_grad_enabled():
            return self._line_above(x)
        for known, line in self._last[:1]:  # read at once, whatever other threads do
            if known is x:
                return line
        found = self._line_above(x)
        self._last[:] = [(x, found)]
        return found

    def _line_above(self, x: Interval) -> tuple[Tensor, Tensor]:
        """Slope and intercept of the line above, the function itself where the sign is known."""
        if torch.is_grad_enabled() and (x.lower.requires_grad or x.upper.requires_grad):
            found: tuple[Tensor, Tensor] = _LineAbove.apply(x.lower, x.upper, self.negative_slope)  # type: ignore[no-untyped-call]  # torch's
            return found
        return _line_above(x.lower, x.upper, self.negative_slope)


def _line_above(lower: Tensor, upper: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Slope and intercept; whatever rounding makes of the slope, the line is above the function at both ends.

    On a CPU these operations are ten times faster than comparisons and choices would be.
    """
    unit = torch.finfo(lower.dtype)
    above, below = upper.relu(), (-lower).relu()
    # 1 where the function is the identity, 0 where it is the other line, both without rounding; NaN of no interval.
    finite = above.clamp(max=unit.max)
    slope = finite / (finite + below).clamp(min=unit.tiny * unit.eps)
    if low != 0:
        slope = torch.add(slope, 1 - slope, alpha=low)
    # A line that is right at an end has no height there, infinite or not.
    at_ends = ((1 - slope) * above, (slope - low if low != 0 else slope) * below)
    height = torch.maximum(*(end.nan_to_num(nan=0.0, posinf=torch.inf) for end in at_ends))
    return slope, height * (1 + 4 * unit.eps) + underflow(slope.dtype)


class _LineAbove(torch.autograd.Function):
    """The line above with its gradients: with a and b for the reach above and below 0, a / (a + b) and a b / (a + b).

    Single operations take three times as long.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor, low: float) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Slope and intercept."""
        ctx.save_for_backward(lower, upper)
        ctx.low = low
        return _line_above(lower, upper, low)

    @staticmethod
    def backward(ctx: Any, slope: Tensor, height: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """Gradients of both ends, 0 where the sign is known."""
        lower, upper = ctx.saved_tensors
        most = torch.finfo(lower.dtype).max
        above, below = upper.clamp(0, most), (-lower).clamp(0, most)
        share = 1 / (above + below)
        turned, above, below = slope * share, above * share, below * share
        of_upper = (torch.addcmul(turned, height, below) * below).mul_(1 - ctx.low)
        of_lower = (torch.addcmul(turned, height, above, value=-1) * above).mul_(1 - ctx.low)
        known = (lower >= 0) | (upper <= 0)
        return of_lower.masked_fill_(known, 0.0), of_upper.masked_fill_(known, 0.0), None
