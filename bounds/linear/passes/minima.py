"""Minima of linear functions over sets with a box, where their coefficients may be few of those of the input."""

import math

import torch
from torch import Tensor

from bounds.numerics import accumulated_error, underflow
from bounds.rows import Rows
from bounds.sets.balls import Interval, LpBall, SparseBall
from bounds.sets.hulls import HullOfBoxes
from bounds.sets.linear_minimum import OTHER_OPERATIONS


@torch.no_grad()
def minima_in_windows(rows: Rows, region: LpBall | SparseBall, hull: Interval, *, joint: bool, rounded: bool) -> Tensor:
    """Lower bounds (N, R) of rows over a set, and with ``joint`` those of the opposite rows after them.

    The gain of a move rests on the coefficients that are not 0 alone: entries outside of the window of a row are left
    out, and nothing moves beyond the map. Errors as in :func:`bounds.sets.linear_minimum.linear_minimum`; no gradients.

    Args:
        rows: of the input, N of them or one for all.
        region: N sets.
        hull: of these, shaped like the input of the network.
        joint: whether the opposite functions are wanted too.
        rounded: whether to take rounding errors away.
    """
    center = region.center.reshape(hull.lower.shape)
    room = rows.at(center - hull.lower), rows.at(hull.upper - center)
    middle, least = rows.dot(center), []
    for sign in (1, -1)[: 2 if joint else 1]:
        gain = _gain(rows, region, *room[::sign])
        bound = sign * middle - gain
        if rounded:
            size, dtype = rows.size(center.abs()) + gain, rows.values.dtype
            error = 2 * accumulated_error(rows.width + OTHER_OPERATIONS, dtype) * size
            lost = 4 * torch.finfo(dtype).tiny * (rows.flat().abs().sum(2) + rows.width)
            bound = bound - (error + lost)
        least.append(torch.where(bound < math.inf, bound, -math.inf))  # neither overflow nor NaN proves anything
    return torch.cat(least, 1)


def _gain(rows: Rows, region: LpBall | SparseBall, along: Tensor, against: Tensor) -> Tensor:
    """The largest fall (N, R) of rows by moves with so much room against coefficients above 0 and below."""
    values = rows.values
    if isinstance(region, SparseBall):
        gains = torch.addcmul(values.clamp(min=0) * along, values.clamp(max=0), against, value=-1)
        return region.largest_sum(rows.with_values(gains).flat())
    reach = torch.where(values > 0, along, against)
    return region.gain(*(rows.with_values(part).flat() for part in (values.abs().expand_as(reach), reach)))


def minima_over_boxes(
    rows: Rows, region: HullOfBoxes, halves: tuple[Tensor, Tensor], *, joint: bool, rounded: bool
) -> Tensor:
    """Lower bounds (N, R) of rows over hulls of boxes, and with ``joint`` those of the opposite rows after them.

    The sign of a coefficient counts here, since entries move together. Gradients reach the rows.

    Args:
        rows: of the input, N of them or one for all.
        region: N sets.
        halves: centres (N, V, *shape) of the boxes and how far they reach, with the rounding errors of sums over both.
        joint: whether the opposite functions are wanted too.
        rounded: whether to take rounding errors away.
    """
    rows = rows.cleaned()
    center, reach = halves
    middle, gain = (
        rows.sums(values, *(rows.at(box) for box in boxes.unbind(1))).transpose(1, 2)
        for values, boxes in ((rows.values, center), (rows.values.abs(), reach))
    )
    if rounded:
        gain = gain + underflow(center.dtype) * center.shape[2:].numel()
    slopes = rows.flat().abs() if region.radius else None
    least = [region.least(sign * middle, gain, slopes, rounded=rounded) for sign in (1, -1)[: 2 if joint else 1]]
    return torch.cat(least, 1)
