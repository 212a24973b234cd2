"""ReLU and leaky ReLU in closed form: the function that most networks are made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.balls import Interval
from bounds.relaxations import PiecewiseFunction, Planes


@dataclass(frozen=True, eq=False, kw_only=True)
class Rectifier(PiecewiseFunction):
    """``max(x, negative_slope x)`` with a slope in [0, 1].

    Where the sign is known the planes are the function itself. Else the upper one is the secant, and the lower one any
    line through 0 with a slope between the two of the function: its slope is the free number.
    """

    negative_slope: float = 0.0
    pace: float = 1.0

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """Slopes of lines through 0 that stay below the function."""
        flat = torch.full_like(parents[0].lower, self.negative_slope)
        return (Interval(flat, torch.ones_like(flat)),)

    def range_of(self, *parents: Interval) -> Interval:
        """Both ends, rounded outward; ReLU does not round."""
        lower, upper = (self.value(end) for end in (parents[0].lower, parents[0].upper))
        if self.negative_slope not in (0.0, 1.0):
            unit, tiny = torch.finfo(lower.dtype).eps, torch.finfo(lower.dtype).tiny
            lower = torch.where(lower < 0, lower - unit * lower.abs() - tiny, lower)
            upper = torch.where(upper < 0, upper + unit * upper.abs() + tiny, upper)
        return Interval(lower, upper)

    def free(self, *parents: Interval) -> tuple[Tensor, ...]:
        """1 where the secant is steeper than 1/2, else the other slope: for ReLU the smaller area."""
        (x,) = parents
        low = torch.full_like(x.lower, self.negative_slope)
        steep = x.upper - self.negative_slope * x.lower > 0.5 * (x.upper - x.lower)
        return (torch.where(steep, torch.ones_like(low), low),)

    def planes(self, free: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """The lower line with a slope through 0, and the secant above."""
        return self.prepared(*parents)(free)

    def prepared(self, *parents: Interval) -> Callable[[tuple[Tensor, ...]], Planes]:
        """The secant is the same for every slope below it."""
        (x,) = parents
        crossing, exact, slope, intercept = self._secant_planes(x)

        def planes(free: tuple[Tensor, ...]) -> Planes:
            lower = torch.where(crossing, free[0].clamp(self.negative_slope, 1.0), exact)
            return Planes((lower,), None, (slope,), intercept)

        return planes

    def parallel(self, *parents: Interval) -> Planes:
        """Both lines with the slope of the secant."""
        _, _, slope, intercept = self._secant_planes(parents[0])
        return Planes((slope,), None, (slope,), intercept)

    def open(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Where the sign is not known."""
        (x,) = parents
        return (~(x.lower >= 0) & ~(x.upper <= 0),)

    def _secant_planes(self, x: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where the sign is open, the slope where it is not (NaN of no interval), slope and intercept above."""
        low, steep = self.negative_slope, 1.0
        crossing = (x.lower < 0) & (x.upper > 0)
        # Not where(.., 0.1, ..) of two numbers, which would round the slope to single precision.
        flat = torch.full_like(x.lower, low)
        exact = torch.where(x.lower >= 0, torch.full_like(flat, steep), torch.where(x.upper <= 0, flat, torch.nan))
        finite = crossing & x.lower.isfinite() & x.upper.isfinite()
        lower, upper = torch.where(finite, x.lower, -1.0), torch.where(finite, x.upper, 1.0)
        share = upper / (upper - lower)
        secant = (low + (steep - low) * share).clamp(low, steep)
        rounding = torch.finfo(lower.dtype).eps * (8 * share * -lower + 4 * torch.maximum(upper, -lower))
        above = (steep - low) * share * -lower + rounding + torch.finfo(lower.dtype).tiny
        # Without an end on one side, nothing is below the largest value but a constant.
        largest = torch.where(crossing, x.upper, torch.where(exact.isnan(), torch.nan, 0.0).to(x.upper.dtype))
        slope = torch.where(finite, secant, torch.where(crossing, 0.0, exact))
        return crossing, exact, slope, torch.where(finite, above, largest)
