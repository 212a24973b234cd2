"""A search entry by entry: each goes to a side of the box, and is judged by its effect, not by its slope."""

import torch
from torch import Tensor

from certify.attacks.geometry import per_row
from certify.attacks.leaky import leaky
from certify.attacks.search import Search

CANDIDATES = {0.0: 32, 1.0: 16}  # entries with large linear gains that are tried at each step, a forward pass each
MOST_ENTRIES = 8
DROPPED = 2  # entries taken back before one is sought that replaces them


def add_entries(search: Search, target: Tensor | None) -> Tensor:
    """From x, the entry that raises the margin most, again and again, as long as a row is not misclassified."""
    points = search.x
    for _ in range(MOST_ENTRIES):
        wrong = search.wrong(points)
        if wrong.all():
            break
        points = torch.where(per_row(wrong, points), points, _with_best_entry(search, points, target))
    return points


def swap_entries(search: Search, swaps: int) -> None:
    """Two entries of the best point, drawn at random, go back to x, and one other takes their place."""
    for _ in range(swaps):
        changed = (search.best != search.x).flatten(1)
        chance = torch.rand(changed.shape, generator=search.generator, device=changed.device)
        dropped = torch.where(changed, chance, -1.0).topk(min(DROPPED, changed.shape[1]), dim=1).indices
        kept = torch.ones_like(changed).scatter(1, dropped, False).view_as(search.x)
        _with_best_entry(search, torch.where(kept, search.best, search.x), None)


def _with_best_entry(search: Search, points: Tensor, target: Tensor | None) -> Tensor:
    """The points with one more entry at the side of the box to which its slope leads.

    Of entries drawn in proportion to what their slopes promise, that which raises the margin most, in l_1 per unit.
    """
    with leaky(search.model):
        level, gradient = search.margin_and_gradient(points, target)
    low, high = search.sides()
    aim = torch.where(gradient > 0, high, low)
    room = (aim - points).abs().flatten(1)
    cost = room if search.norm == 1 else torch.ones_like(room)
    free = (points == search.x).flatten(1) & (room > 0)
    promise = torch.where(free, gradient.flatten(1).abs() * room / cost, 0.0)
    promise = promise * torch.empty_like(promise).uniform_(generator=search.generator)
    best, highest = points, torch.full_like(search.distance, -torch.inf)
    for entry in promise.topk(min(CANDIDATES[search.norm], promise.shape[1]), dim=1).indices.split(1, dim=1):
        tried = points.flatten(1).scatter(1, entry, aim.flatten(1).gather(1, entry)).view_as(points)
        rise = (search.margin(search.logits(tried)) - level) / cost.gather(1, entry).squeeze(1)
        higher = rise > highest
        best, highest = torch.where(per_row(higher, tried), tried, best), torch.where(higher, rise, highest)
    return best
