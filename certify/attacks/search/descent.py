"""Descents of an attack: gradient ascent in balls of one norm after the other, within the box."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from bounds.noise import descent
from bounds.numerics import per_row
from bounds.sets.norms import length, project, project_l1_in_box, steepest_ascent
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import leaky

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
    return descent.descend(_Box(state, norm, target, dense=dense), start, steps)


class _Box(descent.Terrain):
    """The points of the box, whose sides may be open, and balls in any norm."""

    def __init__(self, state: MinimumNormState, norm: float, target: Tensor | None, *, dense: bool) -> None:
        self.state, self.norm, self.target, self.dense = state, norm, target, dense
        self.rates = DENSE_STEP[norm] if dense else STEP[norm]

    def margin_and_gradient(self, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.state.margin_and_gradient(places, self.target)

    def size(self, places: Tensor) -> Tensor:
        return length(places - self.state.x, self.norm)

    def first_radius(self, places: Tensor, margin: Tensor, gradient: Tensor) -> Tensor:
        size = self.size(places)
        ahead = length(self.state.onto_plane(gradient, -margin.clamp(max=0), places), self.norm)
        return torch.minimum(size + ahead, torch.maximum(self.state.extent(self.norm), size))

    def allowed_radius(self, radius: Tensor, reach: Tensor) -> Tensor:
        """In l_0 whole entries, at least one, and one less than the nearest success."""
        return radius if self.norm else torch.minimum(radius.clamp(min=1), reach - 1)

    def step(self, places: Tensor, gradient: Tensor, radius: Tensor, nearest: Tensor) -> Tensor:
        """As long as the radius; in l_0, where a radius is a number of entries, as long as the box is wide."""
        # A coordinate at the edge of the box cannot follow a gradient that points outward.
        moved = self.state.inside(torch.nextafter(places, torch.full_like(places, math.inf).copysign(gradient)))
        gradient = torch.where(moved == places, 0.0, gradient)
        if self.norm == 1 and not self.dense:
            gradient = _largest(gradient, length(nearest - self.state.x, 0))
        if self.norm == math.inf and self.dense:
            return steepest_ascent(gradient, 2.0) * per_row(radius * math.sqrt(gradient[0].numel()), gradient)
        if self.norm >= 2:
            return steepest_ascent(gradient, self.norm) * per_row(radius, gradient)
        order = 1 if self.norm == 1 else math.inf
        direction = steepest_ascent(gradient, 2.0)
        unit = direction / per_row(length(direction, order).clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
        if self.norm == 1:
            return unit * per_row(radius, gradient)
        low, high = self.state.sides()
        return unit * (high - low)

    def into_ball(self, places: Tensor, radius: Tensor) -> Tensor:
        """Points of the ball and the box; in l_0 and l_1 the nearest ones."""
        state = self.state
        if self.norm == 1:
            room = torch.where(places > state.x, state.high - state.x, state.x - state.low)
            return state.inside(state.x + project_l1_in_box(places - state.x, radius, room))
        places = state.inside(places) if self.norm == 0 else places
        return state.inside(state.x + project(places - state.x, radius, self.norm))


def _largest(gradient: Tensor, changed: Tensor) -> Tensor:
    """Signs of the largest entries: fewer than a row has ``changed`` so far, at first a share of all."""
    entries = gradient[0].numel()
    count = torch.where(changed > 0, changed * LATER_SHARE, entries * FIRST_SHARE).long().clamp(1, entries)
    size = gradient.abs().flatten(1)
    smallest = size.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    return torch.where((size >= smallest).view_as(gradient), gradient.sign(), 0.0)
