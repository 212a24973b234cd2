"""From votes to bounds of class probabilities, at a fixed number of draws or at every moment."""

from collections.abc import Callable

import torch
from torch import Tensor

from bounds import clopper_pearson_lower, clopper_pearson_upper
from bounds.numerics import complement, lowered, raised
from certify.smoothing.drawing.division import NOISE_BLOCK
from certify.smoothing.drawing.votes import Sampling, Stage

# Sequential sampling draws one more block for every so many blocks before, at least one, and then evaluates its test
# again: often enough to stop early, and seldom enough to fill batches. Part of the meaning of a seed, since another
# value stops at other moments.
BLOCKS_PER_BLOCK = 8


def votes_for(label: Tensor, votes: Tensor) -> Tensor:
    """Votes (N,) for the label of each row, from votes (N, K + 1)."""
    return votes.gather(1, label[:, None]).squeeze(1)


def class_bounds(
    votes: Tensor, label: Tensor, n: int | Tensor, alpha: float, two_class: Tensor, error: float
) -> tuple[Tensor, Tensor]:
    """Bounds (N,) of the probabilities of the label, from below, and of every other class, from above.

    Both hold at once with probability at least ``1 - alpha``. Where ``two_class`` is False, the upper bound is what the
    lower one leaves. Where it is True, each has half of alpha. The count of the likeliest other class is at
    most the largest of the other counts, and the upper bound grows with the count. So the bound at the largest count
    covers that class, and the other classes need no share of alpha.

    Args:
        votes: (N, K + 1) int64, of ``n`` draws each; the last column voted for no class.
        label: (N,) int64, chosen on other draws.
        n: draws, one number for all or (N,).
        alpha: failure probability, per row.
        two_class: (N,) bool, chosen on other draws.
        error: total variation distance between the noise as drawn and as it should be.
    """
    successes = votes_for(label, votes)
    lower = clopper_pearson_lower(successes, n, alpha=alpha)
    if not two_class.any():
        lower = lowered(lower, error)
        return lower, complement(lower)
    lower = lowered(torch.where(two_class, clopper_pearson_lower(successes, n, alpha=alpha / 2), lower), error)
    others = votes[:, :-1].scatter(1, label[:, None], -1).amax(1)
    upper = raised(clopper_pearson_upper(others, n, alpha=alpha / 2), error)
    rest = complement(lower)
    return lower, torch.where(two_class, torch.minimum(upper, rest), rest)


def draw_until(
    settled: Callable[[Tensor, Tensor, int], Tensor],
    sampling: Sampling,
    label: Tensor,
    num_classes: int,
    n: int,
    votes: Tensor | None = None,
    draws: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Votes (N, K + 1) and draws (N,) when each row is settled or has ``n`` draws.

    ``settled(rows, successes, done)`` says which of some rows, all with ``done`` draws, need no more. Rows with the
    fewest draws go first, all of them in one run whose batches gather across rows; a row looks at moments that
    depend on its own draws alone. ``votes`` and ``draws`` are the counts before.
    """
    votes = label.new_zeros(len(label), num_classes + 1) if votes is None else votes.clone()
    draws = torch.zeros_like(label) if draws is None else draws.clone()
    open_ = draws < n
    while open_.any():
        done = int(draws[open_].min())
        rows = (open_ & (draws == done)).nonzero().squeeze(1)
        stops = settled(rows, votes_for(label[rows], votes[rows]), done)
        open_[rows[stops]] = False
        rows = rows[~stops]
        if len(rows):
            # A block that an earlier budget cut short is left alone: no draw is counted twice.
            first_block = -(-done // NOISE_BLOCK)
            count = min(max(1, first_block // BLOCKS_PER_BLOCK) * NOISE_BLOCK, n - done)
            votes[rows] += sampling.rows(rows).votes(num_classes, count, Stage.ESTIMATION, first_block=first_block)
            draws[rows] += count
            open_[rows] = done + count < n
    return votes, draws
