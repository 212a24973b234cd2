"""Last steps of every minimum-norm attack: what was found becomes exact to the last digits."""

import torch
from torch import Tensor

from certify.attacks.common.norms import per_row
from certify.attacks.minimum_norm.search import Search

BISECTIONS = 20
POLISHES = 2
BEYOND = 1 + 1e-5  # a step onto the boundary ends behind it, whatever the rounding
REVERTS = 60  # groups of entries that are given their values back, a forward pass each


def polish(search: Search) -> None:
    """Nearer points on the way to x and on the linearised boundary; in l_0, entries that need not change go back."""
    if search.norm == 0:
        revert(search)
        return
    for _ in range(POLISHES):
        bisect(search, onto_boundary(search), steps=BISECTIONS // 3)
    bisect(search, search.x, steps=BISECTIONS)


def onto_boundary(search: Search) -> Tensor:
    """Just behind the point of the box nearest to x on the boundary linearised at the best point, (N, *D)."""
    level, gradient = search.linearised(search.best, None)
    return search.inside(search.x + BEYOND * search.onto_plane(gradient, level, search.x))


def bisect(search: Search, near: Tensor, steps: int, *, far: Tensor | None = None) -> None:
    """Walk from ``far``, the best points if None, to ``near`` as long as the prediction stays wrong."""
    far = search.best if far is None else far
    low = torch.zeros_like(search.distance)
    high = (~search.wrong(near)).to(low)
    for _ in range(steps):
        middle = (low + high) / 2
        wrong = search.wrong(search.inside(near + per_row(middle, far) * (far - near)))
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)


def revert(search: Search, use: Tensor | None = None) -> None:
    """Give changed entries back their values, by halves and then one by one, while the prediction stays wrong.

    First those of the least ``use`` (N, *D), which is their linear gain if None.
    """
    delta = (search.best - search.x).flatten(1)
    if use is None:
        use = search.margin_and_gradient(search.best, None)[1].flatten(1) * delta
    gain = torch.where(delta != 0, use.flatten(1), torch.inf)
    rank = gain.argsort(1).argsort(1)  # the least useful changes first
    count = (delta != 0).sum(1)
    first, chunk = torch.zeros_like(count), (count + 1) // 2
    for _ in range(REVERTS):
        part = (rank >= first[:, None]) & (rank < (first + chunk)[:, None])
        tried = torch.where(part.view_as(search.x), search.x, search.best)
        gone = search.wrong(tried)  # and with that the best point
        first = torch.where(gone | (chunk <= 1), first + chunk, first)
        chunk = torch.where(gone, chunk, (chunk + 1) // 2).clamp(min=1)
