r"""Lines that touch a function at known points: default lines without any search.

A line with slope :math:`k` is moved until it lies above. Where the function bends away from it, the ends of the
interval decide; where it bends towards it, any point :math:`p` with :math:`f'(p)` close to :math:`k` bounds
:math:`f(x) - k x` by :math:`f(p) - k p` and :math:`|f'(p) - k|` times the distance to the end on the side where it
rises. Slopes and points may thus come from anywhere; those that are known to be best make the intercept exact.

Everything here goes without gradients, for both sides at once: entries are few, and calls cost more than arithmetic.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bounds.numerics import underflow, unit_roundoff
from bounds.relaxations.scalar import LinePair, Map, ScalarFunction, middle
from bounds.sets.balls import Interval

_INFINITY = float("inf")
TOUCHING_STEPS = {torch.float32: 3, torch.float64: 4}  # to full precision; each squares the error
EARLIEST = 1.5  # a start from which these are enough


class Contact(NamedTuple):
    """Points where a line may touch a function, in the first dimension; all tensors broadcast against each other.

    Attributes:
        points: in the interval.
        values: of the function there.
        slopes: of the line.
        sides: 1 for a line above, -1 for one below.
        slack: how far the function may reach beyond the line through the point.
    """

    points: Tensor
    values: Tensor
    slopes: Tensor
    sides: Tensor | int
    slack: Tensor

    def reach(self, function: ScalarFunction) -> Tensor:
        """``side (f(x) - slope x)`` with slack and rounding, infinite where arithmetic overflows."""
        unit = unit_roundoff(self.values.dtype)
        product = self.slopes * self.points
        difference = self.values - product
        # Of the product, the difference, both sums below, and the value.
        error = product.abs().add_(difference.abs(), alpha=3.0)
        error.add_(self.values.abs(), alpha=function.relative_error)
        lost = unit * function.absolute_error + underflow(error.dtype)
        total = (error.mul_(unit) + self.slack).add_(lost).mul_(1 + 16 * unit)
        return (difference * self.sides).add_(total).nan_to_num_(_INFINITY, _INFINITY, -_INFINITY)


def slack_of(ascent: Tensor, error: Tensor, behind: Tensor, before: Tensor) -> Tensor:
    """Largest rise of a concave function above its tangent's parallel, within distances on both sides of a point.

    Args:
        ascent: how much steeper than the line the function is at the point.
        error: of that difference.
        behind: distance to the end that lies in the direction of the ascent.
        before: distance to the other end.
    """
    right = torch.where(behind > 0, (ascent + error).clamp_(min=0) * behind, 0.0)
    return torch.maximum(right, torch.where(before > 0, (error - ascent).clamp_(min=0) * before, 0.0))


def slope_error(function: ScalarFunction, derivative: Tensor, slope: Tensor) -> Tensor:
    """A bound on the rounding error of ``derivative - slope``."""
    error = slope.abs().add_(derivative.abs(), alpha=2 * function.relative_error)
    unit = unit_roundoff(slope.dtype)
    return error.mul_(unit).add_(unit * function.absolute_error + torch.finfo(slope.dtype).tiny)


def finished(function: ScalarFunction, interval: Interval, valid: Tensor, slopes: Tensor, heights: Tensor) -> LinePair:
    """Lines from slopes (2, ..) and what these reach outward; constants of the function's range where that is less."""
    most = torch.finfo(heights.dtype).max
    unknown = ~(valid & (heights < most) & (slopes.abs() <= most))
    slopes, heights = slopes.masked_fill(unknown, 0.0), heights.masked_fill(unknown, _INFINITY)
    if function.range != (-_INFINITY, _INFINITY):
        heights = torch.where((slopes == 0) & valid, _limited(function, heights), heights)
    undefined = ~(interval.lower <= interval.upper)
    slopes, heights = slopes.masked_fill(undefined, torch.nan), heights.masked_fill(undefined, torch.nan)
    return LinePair(slopes[0], -heights[0], slopes[1], heights[1])


def _limited(function: ScalarFunction, heights: Tensor) -> Tensor:
    """Outermost values that a function reaches, (2, ..)."""
    low, high = function.range
    return torch.stack([heights[0].clamp(max=-low), heights[1].clamp(max=high)])


def secant_or_tangent(rise: Tensor, inside: Interval, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """The slope between both ends, and where rounding lets it stand; elsewhere that of the tangent at the middle."""
    width = inside.upper - inside.lower
    secant = rise / width
    size = inside.lower.abs().add_(inside.upper.abs())
    clear = (width > size.mul_(2 * unit_roundoff(width.dtype) ** 0.5)) & secant.isfinite()
    return torch.where(clear, secant, tangent), clear


def _endless(interval: Interval) -> Tensor:
    return interval.lower.isinf() | interval.upper.isinf()


def _unless_last(heights: Tensor, points: Tensor) -> Tensor:
    """Infinite where the largest number is the point: it stands for infinity, behind which a function may go on."""
    return torch.where(points.abs() == torch.finfo(points.dtype).max, _INFINITY, heights)


@torch.no_grad()
def monotone_range(function: ScalarFunction, interval: Interval, rises: int) -> Interval:
    """The values at both ends, rounded outward, of a function that rises (1) or falls (-1) on every interval."""
    inside, valid = function._inside(interval)
    ends = torch.stack([inside.lower, inside.upper] if rises > 0 else [inside.upper, inside.lower])
    values, unit = function.value(ends), unit_roundoff(ends.dtype)
    lost = unit * function.absolute_error + underflow(ends.dtype)
    error = (values.abs() * (unit * (3 + function.relative_error))).add_(lost).mul_(1 + 16 * unit)
    outward = torch.stack([error[0] - values[0], error[1] + values[1]]).nan_to_num_(_INFINITY, _INFINITY, -_INFINITY)
    known = valid & (outward < torch.finfo(ends.dtype).max) & (ends.abs() < torch.finfo(ends.dtype).max)
    outward = outward.masked_fill(~known, _INFINITY)
    if function.range != (-_INFINITY, _INFINITY):
        outward = torch.where(valid, _limited(function, outward), outward)
    outward = outward.masked_fill(~(interval.lower <= interval.upper), torch.nan)
    return Interval(-outward[0], outward[1])


@torch.no_grad()
def bent_lines(function: ScalarFunction, interval: Interval, derivative: Map, bend: Tensor | int) -> LinePair:
    """Lines of a function that is convex (``bend`` 1) or concave (-1) on the interval: a secant and a tangent."""
    inside, valid = function._inside(interval)
    lower, upper, endless = inside.lower, inside.upper, _endless(interval)
    center = middle(inside).clamp(lower, upper)
    tangent = derivative(center)
    tangent = torch.where(tangent.isfinite(), tangent, 0.0)
    # Without an end, the slope is 0 and the point of contact an end: the one that lies outward where it rises evenly.
    point = torch.where(endless, torch.where(tangent * -bend >= 0, upper, lower), center)
    points = torch.stack([lower, upper, point])
    values = function.value(points)
    secant, _ = secant_or_tangent(values[1] - values[0], inside, tangent)
    slopes = torch.where(endless, 0.0, torch.stack([secant, secant, tangent]))
    steep = derivative(point)
    slack = slack_of((slopes[2] - steep) * bend, slope_error(function, steep, slopes[2]), upper - point, point - lower)
    slack = torch.stack([torch.zeros_like(slack), torch.zeros_like(slack), slack])
    outward = torch.stack([slack.new_ones(()), slack.new_ones(()), -slack.new_ones(())])
    sides = outward.view(3, *[1] * lower.ndim) * bend
    reach = Contact(points, values, slopes, sides, slack).reach(function)
    farther = reach[1] > reach[0]
    ends = _unless_last(torch.where(farther, reach[1], reach[0]), torch.where(farther, upper, lower))
    touched = _unless_last(reach[2], point)
    if isinstance(bend, int):
        order = (slopes[2], slopes[1], touched, ends) if bend > 0 else (slopes[1], slopes[2], ends, touched)
        below, above, low, high = order
    else:
        convex = bend > 0
        below, above = torch.where(convex, slopes[2], slopes[1]), torch.where(convex, slopes[1], slopes[2])
        low, high = torch.where(convex, touched, ends), torch.where(convex, ends, touched)
    return finished(function, interval, valid, torch.stack([below, above]), torch.stack([low, high]))


@torch.no_grad()
def s_shape_lines(function: ScalarFunction, interval: Interval, derivative: Map, root: Map) -> LinePair:
    """Lines of a rising function that is convex below 0 and concave above, with an even derivative.

    The line below is the one above the function turned by 180 degrees about 0: both in one computation. Seen from the
    end where the function bends away, the envelope is a line up to the point where it touches the function, and the
    function itself behind that; or the secant, if it touches nowhere. The line is the envelope's tangent at the middle.

    Args:
        function: the function.
        interval: where its lines are wanted.
        derivative: of the function.
        root: of a slope, the positive point where the function has it.
    """
    inside, valid = function._inside(interval)
    dtype, endless = inside.lower.dtype, _endless(interval)
    side = torch.linspace(-1, 1, 2, dtype=dtype, device=inside.lower.device).view(2, *[1] * inside.lower.ndim)
    ends = torch.stack([inside.lower, inside.upper])
    far, near = ends * side, ends.flip(0) * side
    height, top = function.value(side * near) * side, function.value(ends) * side
    center = (near / 2 + far / 2).clamp(near, far)
    slope, clear = secant_or_tangent(top - height, Interval(near, far), derivative(center))
    straight = ((derivative(far) >= slope) & clear) | (far <= 0) | endless
    touching = _touching_point(function, near, height, root)
    point = torch.where(straight, far, torch.where((center > touching) | (near >= 0), center, touching))
    steep = derivative(point)
    slope = torch.where(endless, 0.0, torch.where(straight, slope, steep))
    base = near.clamp(min=0)
    slack = slack_of(steep - slope, slope_error(function, steep, slope), far - point, point - base)
    points = torch.stack([near, point])
    values = torch.stack([height, function.value(side * point) * side])
    reach = Contact(points, values, slope, 1, torch.stack([torch.zeros_like(slack), slack])).reach(function)
    farther = reach[1] > reach[0]
    highest = _unless_last(torch.where(farther, reach[1], reach[0]), torch.where(farther, point, near))
    return finished(function, interval, valid, slope, highest)


def _touching_point(function: ScalarFunction, near: Tensor, height: Tensor, root: Map) -> Tensor:
    """The point above 0 where a line through the function at ``near`` below 0 touches it; how well is of no matter.

    The secant through ``near`` is steepest there, so that its slope hardly depends on the point: each step squares the
    error. No function of this shape is touched farther from 0 than half of the distance on the other side.
    """
    side = torch.linspace(-1, 1, 2, dtype=near.dtype, device=near.device).view(2, *[1] * (near.ndim - 1))
    farthest = near * -0.5
    point = farthest.clamp(max=EARLIEST)
    for _ in range(TOUCHING_STEPS.get(near.dtype, 4)):
        slope = (function.value(side * point) * side - height) / (point - near)
        point = torch.fmin(root(slope), farthest)
    return point
