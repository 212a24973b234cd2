"""Parts of sets of few changes: which position to cut at, and the two sets that a part falls into."""

import torch
from torch import Tensor

from bounds.sets.choices import Choices


def cut_position(parts: Choices, rows: Tensor) -> Tensor:
    """The position (M,) at which a linear function of each part depends most on what is open.

    Args:
        parts: M sets.
        rows: (M, 1, F), the functions.
    """
    scores = parts.scores(rows)
    least, largest = parts.least_of_positions(scores)[0][:, 0], -parts.least_of_positions(-scores)[0][:, 0]
    gain, spread = (-least).clamp(min=0), largest - least
    weight = torch.where(parts.stays, gain, spread).nan_to_num(0.0)
    return torch.where(parts.splittable(), weight, -1.0).argmax(1)


def cut(parts: Choices, position: Tensor, rows: Tensor) -> Choices:
    """Both sets that each part falls into at a position (M,), the first of all parts before the second ones.

    A position that may stay is kept in the first and changed in the second. One that changes takes the choices with
    lower scores, or the lower half of its range, in the first, and the others in the second.
    """
    mine = parts.position == position[:, None]
    stays = parts.stays.gather(1, position[:, None])
    ranged = parts.ranges[position][:, None] & ~stays
    scores = parts.scores(rows)[:, 0].masked_fill(~(parts.allowed & mine), torch.inf)
    order = scores.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    lower = rank < ((parts.allowed & mine).sum(1, keepdim=True) + 1) // 2
    by_score = mine & ~ranged & ~stays
    must = parts.stays.scatter(1, position[:, None], False)
    sets = (
        (parts.allowed & ~(mine & stays) & ~(by_score & ~lower), parts.stays),
        (parts.allowed & ~(by_score & lower), torch.where(stays, must, parts.stays)),
    )
    halved = torch.where(ranged[:, 0], position, -1)
    one, other = (
        parts.halved(halved, first=place == 0).altered(allowed=allowed, stays=kept)
        for place, (allowed, kept) in enumerate(sets)
    )
    return one.joined(other)
