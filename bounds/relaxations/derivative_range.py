"""Between which slopes a function of one number runs, over an interval or everywhere: proved."""

import math

import torch
from torch import Tensor

from bounds.errors import UnsupportedLayer
from bounds.numerics import unit_roundoff
from bounds.relaxations.base import NodeFunction
from bounds.relaxations.piecewise import PiecewiseFunction
from bounds.sets.balls import Interval

EVERYWHERE = 1e30  # stands for infinity, beyond which slopes of functions that have a limit no longer move
STEEP = 1e6  # a function that is so steep there is taken to have no limit


def slope_range(function: NodeFunction, inputs: Interval) -> Interval:
    """Bounds on all difference quotients of a function within intervals, rounded outward; infinite ends are allowed.

    On each piece the derivative is monotone, so that its ends tell. Softplus counts as the function without PyTorch's
    switch to the identity, which is a jump of 2e-9.

    Raises:
        UnsupportedLayer: the function has jumps, or is not made of pieces.
    """
    if not isinstance(function, PiecewiseFunction):
        raise UnsupportedLayer(
            f"no slopes are known of {type(function).__name__}: Lipschitz bounds take functions of one number that are "
            f"made of convex, concave and linear pieces"
        )
    everywhere = min(EVERYWHERE, torch.finfo(inputs.lower.dtype).max)
    lower, upper = (end.clamp(-everywhere, everywhere) for end in (inputs.lower, inputs.upper))
    low, high = torch.full_like(lower, math.inf), torch.full_like(lower, -math.inf)
    for piece in function.pieces:
        first, last = lower.clamp(min=piece.start), upper.clamp(max=piece.end)
        touched = first <= last
        for point in (first, last):
            slope = piece.derivative(point).expand_as(low)
            rounding_error = _derivative_error(slope, function)
            endless = (point.abs() == everywhere) & (slope.abs() > STEEP)
            known = slope.isfinite() & ~endless
            low = torch.where(touched, torch.minimum(low, torch.where(known, slope - rounding_error, -math.inf)), low)
            high = torch.where(touched, torch.maximum(high, torch.where(known, slope + rounding_error, math.inf)), high)
    defined = (lower <= upper) & function.domain(lower, upper) & (low <= high)
    return Interval(torch.where(defined, low, -math.inf), torch.where(defined, high, math.inf))


def _derivative_error(slope: Tensor, function: PiecewiseFunction) -> Tensor:
    """A bound on the rounding error of a computed derivative."""
    if function.relative_error == 0 and function.absolute_error == 0:
        return torch.zeros_like(slope)
    units = (2 * function.relative_error + 2) * slope.abs() + function.absolute_error + 1
    return unit_roundoff(slope.dtype) * units
