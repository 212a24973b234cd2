"""Searches that look at predictions only, for models whose gradients say nothing."""

import math

import torch
from torch import Tensor

from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.attacks.search.polish import bisect, revert
from certify.attacks.search.state import MinimumNormState

RANDOM_POINTS = 20
PROBE = (0.3, 0.03)  # how far probes lie from the boundary, in units of the distance, at the first and the last step
SHARES = (1.0, 0.5, 0.25, 0.1)  # lengths of the steps tried, in units of the distance
BISECTIONS = 12
CANDIDATES = 24  # entries that are tried in each round of a search by margins, a forward pass each
STARTS = 10  # random points from which entries go back


def try_without_gradients(state: MinimumNormState) -> None:
    """For rows without any success: an input of the batch with another label, then random points."""
    rows = state.distance.isinf().nonzero().squeeze(1)
    if len(rows) == 0:
        return
    other = state.x[(state.labels[None, :] != state.labels[rows, None]).int().argmax(1)]
    with state.part(rows) as missing:  # the others draw what they would without these
        for points in (other, *(missing.random_point() for _ in range(RANDOM_POINTS))):
            missing.logits(missing.inside(points))
        bisect(missing, missing.x, steps=20)


def boundary_walk_steps(state: MinimumNormState, steps: int, probes: int) -> None:
    """Steps to the nearest point of planes that predicted classes alone tell, in l_1, l_2 and l_infinity."""
    for step in range(1, steps + 1):
        size = PROBE[0] * (PROBE[1] / PROBE[0]) ** (step / steps)
        _approach(state, _normal(state, size, round(probes * math.sqrt(step))))
    bisect(state, state.x, steps=2 * BISECTIONS)


def search_by_margins(state: MinimumNormState, rounds: int) -> None:
    """In l_0: entries drawn at random move to a side of the box, that which helps most stays; then all go back.

    Where margins are flat as well, as of a model that returns classes, entries of random points go back in turn.
    """
    low, high = state.sides()
    points = state.x
    for _ in range(rounds):
        best, highest = points, torch.full_like(state.distance, -torch.inf)
        place = state.streams.uniform(points.flatten(1)).topk(min(CANDIDATES, points[0].numel()), dim=1).indices
        for entry in place.split(1, dim=1):
            up = per_row(state.streams.uniform(state.distance) < 0.5, points)
            moved = torch.where(up, low, high).flatten(1).gather(1, entry)
            tried = points.flatten(1).scatter(1, entry, moved).view_as(points)
            margin = state.margin(state.logits(tried)).nan_to_num(nan=-torch.inf)
            higher = margin > highest
            best, highest = torch.where(per_row(higher, tried), tried, best), torch.where(higher, margin, highest)
        points = best
    try_without_gradients(state)
    for start in range(STARTS):
        if start:
            state.logits(state.random_point())
        revert(state, state.streams.uniform(state.x))


def _normal(state: MinimumNormState, size: float, probes: int) -> Tensor:
    """Mean of random directions, weighted by whether the class is wrong there, (N, *D).

    The weights are centred: a point that lies on one side of the boundary would otherwise add noise.
    """
    centre = state.best
    free = (state.high > state.low).to(centre.dtype)
    scale = size * length(centre - state.x, 2) / free.flatten(1).sum(1).clamp(min=1).sqrt()
    total, weighted, wrong = torch.zeros_like(centre), torch.zeros_like(centre), torch.zeros_like(state.distance)
    for _ in range(probes):
        noise = free * state.streams.normal(centre)
        # In the box the two sides of an entry are not equally far: what counts is where the probe ended.
        probed = state.inside(centre + per_row(scale, centre) * noise)
        moved = probed - centre
        hit = state.wrong(probed).to(centre.dtype)
        total, wrong = total + moved, wrong + hit
        weighted = weighted + per_row(hit, centre) * moved
    return (weighted - per_row(wrong / probes, total) * total).nan_to_num(0.0, 0.0, 0.0)


def _approach(state: MinimumNormState, normal: Tensor) -> None:
    """Step from the best points into the wrong region, then walk home to x; the search remembers what it meets."""
    start = state.best
    level = (normal * (start - state.x)).flatten(1).sum(1)
    direction = state.onto_plane(normal, level.abs(), state.x)
    size = length(direction, state.norm).clamp(min=torch.finfo(direction.dtype).tiny)
    step = direction * per_row(length(start - state.x, state.norm) / size, direction)
    for share in SHARES:
        bisect(state, state.x, steps=BISECTIONS, far=state.inside(start + share * step))
