"""A search in l_0 entry by entry: each goes to a side of the box, and is judged by its effect, not by its slope."""

import torch
from torch import Tensor

from certify.attacks.geometry import per_row
from certify.attacks.leaky import leaky
from certify.attacks.search import Search

CANDIDATES = 16  # entries with the largest linear gains that are tried at each step, a forward pass each
MOST_STEPS = 8
DROPPED = 2  # entries taken back before one is sought that replaces them
SWAPS = 10


def add_entries(search: Search, start: Tensor, steps: int) -> None:
    """The entry that raises the margin most, again and again, until the rows are misclassified."""
    points = start
    for _ in range(steps):
        points = _with_best_entry(search, points)
        if search.wrong(points).all():
            break


def swap_entries(search: Search) -> None:
    """Two entries of the best point go back to x and one other takes their place; which two is drawn."""
    for _ in range(SWAPS):
        changed = (search.best != search.x).flatten(1)
        chance = torch.rand(changed.shape, generator=search.generator, device=changed.device)
        dropped = torch.where(changed, chance, -1.0).topk(min(DROPPED, changed.shape[1]), dim=1).indices
        kept = torch.ones_like(changed).scatter(1, dropped, False).view_as(search.x)
        _with_best_entry(search, torch.where(kept, search.best, search.x))


def _with_best_entry(search: Search, points: Tensor) -> Tensor:
    """The points with one more entry at the side of the box to which its slope leads."""
    with leaky(search.model):
        margin, gradient = search.margin_and_gradient(points, None)
    low, high = search.sides()
    aim = torch.where(gradient > 0, high, low)
    gain = torch.where(points == search.x, gradient * (aim - points), -1.0).flatten(1)
    best, highest = points, torch.full_like(search.distance, -torch.inf)
    for entry in gain.topk(min(CANDIDATES, gain.shape[1]), dim=1).indices.split(1, dim=1):
        tried = points.flatten(1).scatter(1, entry, aim.flatten(1).gather(1, entry)).view_as(points)
        margin = search.margin(search.logits(tried))
        higher = margin > highest
        best, highest = torch.where(per_row(higher, tried), tried, best), torch.where(higher, margin, highest)
    return best
