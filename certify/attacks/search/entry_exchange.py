"""A search entry by entry in l_0 and l_1: entries are exchanged, and judged by what they do, not by their slopes."""

import torch
from torch import Tensor

from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import wide_gradient

CANDIDATES = 24  # entries with large linear gains that are tried in each round, a forward pass each
SHORTER = 0.97  # length in l_1 that is aimed at, in units of the best distance
FULL = 0.9  # share of that length beyond which entries go back


def exchange_entries(state: MinimumNormState, target: Tensor | None, points: Tensor, rounds: int) -> Tensor:
    """The perturbation shorter than the best one that raises a margin most, as far as exchanges of entries lead.

    In each round entries go back to x, in random order, until there is room, and the one that then raises the margin
    most is moved. Rows accept what does not lower the margin. Each success makes the aim shorter.

    Args:
        state: in l_0 or l_1.
        target: (N,) the class whose margin is raised, the runner-up if None.
        points: (N, *D) where the search begins: x, the best points or others.
        rounds: exchanges, ``CANDIDATES`` forward passes and one wide gradient each.
    """
    highest = torch.full_like(state.distance, -torch.inf)
    for _ in range(rounds):
        distance = state.distance
        aim = distance - 1 if state.norm == 0 else SHORTER * distance
        returned = _returned(state, points, aim - 1 if state.norm == 0 else FULL * aim)
        fewer = torch.where(returned.view_as(points), state.x, points)
        moved, margin = _with_best_move(state, fewer, target, returned, aim)
        success = state.distance < distance
        accepted = (margin >= highest) | success | ~returned.any(1)
        points = torch.where(per_row(accepted, points), moved, points)
        highest = torch.where(success, -torch.inf, torch.where(accepted, margin, highest))
    return points


def _returned(state: MinimumNormState, points: Tensor, room: Tensor) -> Tensor:
    """(N, F) bool: changed entries, drawn one after the other until the length of the rest is at most ``room``."""
    delta = (points - state.x).flatten(1)
    size = (delta != 0).to(delta.dtype) if state.norm == 0 else delta.abs()
    chance = state.streams.uniform(size)
    order = torch.where(delta != 0, chance, 2.0).argsort(1)
    drawn = size.gather(1, order)
    before = drawn.cumsum(1) - drawn
    excess = size.sum(1, keepdim=True) - room[:, None]
    return torch.zeros_like(delta, dtype=torch.bool).scatter(1, order, (before < excess) & (drawn > 0))


def _with_best_move(
    state: MinimumNormState, points: Tensor, target: Tensor | None, barred: Tensor, aim: Tensor
) -> tuple[Tensor, Tensor]:
    """The points with one entry moved, that which raises the margin most, and the margin (N,).

    An entry moves uphill, in l_0 to the side of the box, in l_1 by no more than what is left of the aim and by no
    more than the largest change of the best point. Tried are entries drawn in proportion to what their slopes promise.
    """
    _, gradient = wide_gradient(state, points, target)
    low, high = state.sides()
    uphill = torch.where(gradient > 0, high, low) - points
    if state.norm == 1:
        delta = state.best - state.x
        largest = torch.where(state.distance.isfinite(), length(delta, torch.inf), torch.inf)
        limit = per_row(torch.minimum(largest, (aim - length(points - state.x, 1)).clamp(min=0)), points)
        uphill = torch.minimum(torch.maximum(uphill, -limit), limit)
    moved = state.inside(points + uphill).flatten(1)
    promise = torch.where(barred, 0.0, (gradient * uphill).flatten(1))
    promise = promise * state.streams.uniform(promise)
    best, highest = points, torch.full_like(state.distance, -torch.inf)
    for entry in promise.topk(min(CANDIDATES, promise.shape[1]), dim=1).indices.split(1, dim=1):
        tried = points.flatten(1).scatter(1, entry, moved.gather(1, entry)).view_as(points)
        margin = state.margin(state.logits(tried), target)
        higher = margin > highest
        best, highest = torch.where(per_row(higher, tried), tried, best), torch.where(higher, margin, highest)
    return best, highest
