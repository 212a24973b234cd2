"""Last steps of every minimum-norm attack: what was found becomes exact to the last digits."""

import torch
from torch import Tensor

from bounds.numerics import per_row
from certify.attacks.search.state import MinimumNormState

BISECTIONS = 20
POLISHES = 2
BEYOND = 1 + 1e-5  # a step onto the boundary ends behind it, whatever the rounding
REVERTS = 60  # groups of entries that are given their values back, a forward pass each


def polish(state: MinimumNormState) -> None:
    """Nearer points on the way to x and on the linearised boundary; in l_0, entries that need not change go back."""
    if state.norm == 0:
        revert(state)
        return
    for _ in range(POLISHES):
        bisect(state, onto_boundary(state), steps=BISECTIONS // 3)
    bisect(state, state.x, steps=BISECTIONS)


def onto_boundary(state: MinimumNormState) -> Tensor:
    """Just behind the point of the box nearest to x on the boundary linearised at the best point, (N, *D)."""
    level, gradient = state.linearised(state.best, None)
    return state.inside(state.x + BEYOND * state.onto_plane(gradient, level, state.x))


def bisect(state: MinimumNormState, near: Tensor, steps: int, *, far: Tensor | None = None) -> None:
    """Walk from ``far``, the best points if None, to ``near`` as long as the prediction stays wrong."""
    far = state.best if far is None else far
    low = torch.zeros_like(state.distance)
    high = (~state.wrong(near)).to(low)
    for _ in range(steps):
        middle = (low + high) / 2
        wrong = state.wrong(state.inside(near + per_row(middle, far) * (far - near)))
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)


def revert(state: MinimumNormState, use: Tensor | None = None) -> None:
    """Give changed entries back their values, by halves and then one by one, while the prediction stays wrong.

    First those of the least ``use`` (N, *D), which is their linear gain if None.
    """
    delta = (state.best - state.x).flatten(1)
    if use is None:
        use = state.margin_and_gradient(state.best, None)[1].flatten(1) * delta
    gain = torch.where(delta != 0, use.flatten(1), torch.inf)
    rank = gain.argsort(1).argsort(1)  # the least useful changes first
    count = (delta != 0).sum(1)
    first, chunk = torch.zeros_like(count), (count + 1) // 2
    for _ in range(REVERTS):
        part = (rank >= first[:, None]) & (rank < (first + chunk)[:, None])
        tried = torch.where(part.view_as(state.x), state.x, state.best)
        gone = state.wrong(tried)  # and with that the best point
        first = torch.where(gone | (chunk <= 1), first + chunk, first)
        chunk = torch.where(gone, chunk, (chunk + 1) // 2).clamp(min=1)
