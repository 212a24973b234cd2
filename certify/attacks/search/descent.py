"""Projected gradient ascent on a margin inside a ball whose radius follows each input.

The radius shrinks while the attack succeeds and grows while it fails (in the manner of Rony et al. 2019,
arXiv:1811.09600, and Pintor et al. 2021, arXiv:2102.12827).
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from bounds.numerics import per_row
from certify.attacks.common.norms import length, project, project_l1_in_box, steepest_ascent
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import leaky

PATIENCE = 2  # failures in a row after which a descent goes back to its nearest success
SHRINK = (0.2, 0.001)  # share by which a radius changes, at the first and at the last step
STEP = {math.inf: (0.5, 0.02), 2.0: (0.2, 0.02), 1.0: (1.0, 0.05), 0.0: (2.0, 1.0)}
# Length of a step, likewise: in units of the radius, in l_0 in units of the range of an entry.
# The same along the gradient itself in l_infinity, and on the way inward from dense perturbations.
DENSE_STEP = {math.inf: (0.5, 0.001), 1.0: (1.0, 0.05), 0.0: (0.3, 0.3)}
FIRST_SHARE, LATER_SHARE = 0.2, 1 / 1.5  # entries that a step in l_1 moves: of all, later of those that differ from x


def descend_through_norms(
    state: MinimumNormState, target: Tensor | None, start: Tensor, steps: int, *, leak: bool = True
) -> None:
    """Descents in l_infinity, l_2, l_1 and l_0, each from where the one before ended, as far as the norm asks.

    A network trained against l_infinity attacks has minima of one or a few entries, behind regions where their
    gradient vanishes. From a success with many changed entries the way to them goes through successes. With
    ``leak`` the first descent sees neurons that are off.
    """
    start = dense_descent(state, target, start, steps, leak=leak)
    more = 2 * steps // 3
    if state.norm == math.inf:
        descend(state, math.inf, target, start, more, dense=True)
    if state.norm <= 1:
        start = descend(state, 1.0, target, start, more, dense=True)
    if state.norm == 0:
        descend(state, 0.0, target, start, more, dense=True)
        polish(state)


def dense_descent(state: MinimumNormState, target: Tensor | None, start: Tensor, steps: int, *, leak: bool) -> Tensor:
    """One search in l_2 that begins in l_infinity.

    Sign steps cross regions of vanishing gradients, in which a network trained against l_infinity attacks holds
    up a descent along the gradient itself; that one, in turn, leaves the corners in which sign steps end. Minima
    in l_2 are often sparse, so half of that descent starts with the large entries made larger.
    """
    third = steps // 3
    half = (steps - third) // 2
    with leaky() if leak else nullcontext():
        start = descend(state, math.inf, target, start, third)
    start = descend(state, 2.0, target, start, steps - third - half)
    delta = start - state.x
    sharp = steepest_ascent(delta * delta.abs(), 2.0) * per_row(length(delta, 2.0), delta)
    return descend(state, 2.0, target, state.inside(state.x + sharp), half)


def descend(
    state: MinimumNormState, norm: float, target: Tensor | None, start: Tensor, steps: int, *, dense: bool = False
) -> Tensor:
    """Projected gradient ascent in a ball whose radius follows each row; its nearest success, or where it ends.

    The norm of the ball may differ from that of the search. ``dense`` is for starts with many changed entries: a step
    in l_1 then moves all of them, and a step in l_0 is short; in l_infinity it goes along the gradient, not its signs.
    """
    points, nearest = start, start
    distance = torch.full_like(state.distance, math.inf)
    radius, failures = distance, torch.zeros_like(distance)
    for step in range(steps):
        margin, gradient = state.margin_and_gradient(points, target)
        size, success = length(points - state.x, norm), margin > 0
        if step == 0:  # the boundary is about as far as the linearised model says
            ahead = length(state.onto_plane(gradient, -margin.clamp(max=0), points), norm)
            radius = torch.minimum(size + ahead, torch.maximum(state.extent(norm), size))
        better = success & (size < distance)
        distance = torch.where(better, size, distance)
        nearest = torch.where(per_row(better, points), points, nearest)
        # A row that keeps failing goes back to its nearest success.
        failures = torch.where(success, 0, failures + 1)
        lost = (failures > PATIENCE) & distance.isfinite()
        failures = torch.where(lost, 0, failures)
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        change = SHRINK[1] + (SHRINK[0] - SHRINK[1]) * decay
        grown = radius * (1 + change * (2 - distance.isfinite().to(radius)))
        radius = torch.where(success, distance * (1 - change), torch.minimum(grown, distance))
        if norm == 0:  # whole entries, at least one, and one less than the nearest success
            radius = torch.minimum(radius.clamp(min=1), distance - 1)
        # A coordinate at the edge of the box cannot follow a gradient that points outward.
        moved = state.inside(torch.nextafter(points, torch.full_like(points, math.inf).copysign(gradient)))
        gradient = torch.where(moved == points, 0.0, gradient)
        if norm == 1 and not dense:
            gradient = _largest(gradient, length(nearest - state.x, 0))
        first, last = DENSE_STEP[norm] if dense else STEP[norm]
        rate = last + (first - last) * decay
        stepped = points + rate * _step(state, gradient, radius, norm, dense=dense)
        points = _into_ball(state, torch.where(per_row(lost, points), nearest, stepped), radius, norm)
    return torch.where(per_row(distance.isfinite(), points), nearest, points)


def _largest(gradient: Tensor, changed: Tensor) -> Tensor:
    """Signs of the largest entries: fewer than a row has ``changed`` so far, at first a share of all."""
    entries = gradient[0].numel()
    count = torch.where(changed > 0, changed * LATER_SHARE, entries * FIRST_SHARE).long().clamp(1, entries)
    size = gradient.abs().flatten(1)
    smallest = size.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    return torch.where((size >= smallest).view_as(gradient), gradient.sign(), 0.0)


def _step(state: MinimumNormState, gradient: Tensor, radius: Tensor, norm: float, *, dense: bool) -> Tensor:
    """A step as long as the radius; in l_0, where a radius is a number of entries, as long as the box is wide."""
    if norm == math.inf and dense:
        return steepest_ascent(gradient, 2.0) * per_row(radius * math.sqrt(gradient[0].numel()), gradient)
    if norm >= 2:
        return steepest_ascent(gradient, norm) * per_row(radius, gradient)
    order = 1 if norm == 1 else math.inf
    direction = steepest_ascent(gradient, 2.0)
    unit = direction / per_row(length(direction, order).clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
    if norm == 1:
        return unit * per_row(radius, gradient)
    low, high = state.sides()
    return unit * (high - low)


def _into_ball(state: MinimumNormState, points: Tensor, radius: Tensor, norm: float) -> Tensor:
    """Points of the ball and the box; in l_0 and l_1 the nearest ones."""
    if norm == 1:
        room = torch.where(points > state.x, state.high - state.x, state.x - state.low)
        return state.inside(state.x + project_l1_in_box(points - state.x, radius, room))
    points = state.inside(points) if norm == 0 else points
    return state.inside(state.x + project(points - state.x, radius, norm))
