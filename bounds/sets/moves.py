r"""The largest gain ``slopes @ t`` of moves ``0 <= t <= reach`` within an l_p ball, and a move that attains it.

For any split :math:`|a| = v + w` into nonnegative parts, Hölder's inequality bounds the gain of one part and the box
that of the other,

.. math:: |a| \cdot t \le r \|v\|_q + \rho \cdot w,

and the best split attains the maximum: :math:`v_i = \min(|a_i|, \theta \rho_i^{p-1})` for one level :math:`\theta`,
found exactly by sorting. A level that is off by rounding costs tightness, never soundness.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gain_in_ball(
    slopes: Tensor, reach: Tensor, radius: Tensor, norm: float, dual_norm: float, *, boxed: bool
) -> tuple[Tensor, Tensor]:
    """The gain (N, R), rounded as :meth:`bounds.PerturbationSet.largest_gain` says, and the move (N, R, F).

    Args:
        slopes: (N, R, F), at least 0.
        reach: (N, R, F), the largest move of each entry.
        radius: (N, 1, 1), of the ball.
        norm: its order p, from 1 to infinity.
        dual_norm: the order q, ``1 / p + 1 / q = 1``.
        boxed: whether the reach may stop a move before the radius does.
    """
    reach = torch.minimum(reach, radius)
    in_box = (slopes * reach).sum(-1)
    if norm == math.inf:
        return in_box, reach
    slopes = torch.where(reach > 0, slopes, 0.0)
    radius = torch.minimum(radius, 2 * reach.sum(2, keepdim=True))  # finite where the box is
    # Steepest slope 1 and radius 1, lest powers overflow or vanish.
    steepest = _or_one(slopes.amax(2, keepdim=True))
    slope, room = slopes / steepest, reach / _or_one(radius)
    gain = torch.minimum(in_box, (radius * norm_of(slopes, dual_norm)).squeeze(2))
    if norm == 1:
        level, move = steepest_first(slope, room, 1.0)
    elif not boxed:
        return gain, radius * _holder_move(slope, dual_norm)
    else:
        level = _level(slope, room, norm, dual_norm)
        split = torch.minimum(slope, level)
        move = torch.where(split < slope, room, torch.minimum(_holder_move(split, dual_norm), room))
    split = torch.minimum(slopes, level * steepest)  # any split is sound, that of other slopes as well
    in_both = (radius * norm_of(split, dual_norm)).squeeze(2) + (reach * (slopes - split)).sum(-1)
    return torch.minimum(gain, in_both), radius * move


def steepest_first(slope: Tensor, room: Tensor, radius: Tensor | float) -> tuple[Tensor, Tensor]:
    """The move in an l_1 ball that spends the radius on the steepest slopes first.

    Returns:
        The slope (.., 1) at which the radius is spent, 0 where it is not; and the move (.., F), of at most ``room``.
    """
    sorted_slope, order = slope.sort(dim=-1, descending=True)
    sorted_room = room.gather(-1, order)
    spent = sorted_room.cumsum(-1)
    full = (spent <= radius).sum(-1, keepdim=True)
    level = F.pad(sorted_slope, (0, 1)).gather(-1, full)
    move = torch.minimum((radius - (spent - sorted_room)).clamp(min=0), sorted_room)
    return level, torch.zeros_like(room).scatter(-1, order, move)


def _level(slope: Tensor, room: Tensor, p: float, q: float) -> Tensor:
    r"""The part :math:`\theta \rho_i^{p-1}` above which the box stops a move, for radius 1; in logarithms.

    The moves :math:`\min(\rho_i, (|a_i| / \theta)^{q-1})` spend the more of the radius the lower the level, and an
    entry is stopped below the level :math:`|a_i| / \rho_i^{p-1}`. Sorted by these levels, the stopped entries come
    first; the others share what is left, which gives the level in closed form.
    """
    steepness, limit = slope.log(), (p - 1) * room.log()
    stop, order = torch.where(slope > 0, steepness - limit, -math.inf).sort(dim=2, descending=True)
    powers = room.pow(p).gather(2, order).cumsum(2)
    spent = F.pad(powers, (1, 0))  # by the first k entries, k = 0..F
    tail = (q * steepness).gather(2, order).flip(2).logcumsumexp(2).flip(2)
    stopped = (spent[..., :-1] + (tail - q * stop).exp() <= 1).sum(2, keepdim=True)
    left = (1 - spent.gather(2, stopped)).clamp(min=torch.finfo(slope.dtype).eps)
    log_level = (F.pad(tail, (0, 1), value=-math.inf).gather(2, stopped) - left.log()) / q
    return (log_level + limit).exp()


def _holder_move(slope: Tensor, q: float) -> Tensor:
    """The move of p-norm 1 that gains most where nothing stops it."""
    return (slope / _or_one(norm_of(slope, q))).pow(q - 1)


def norm_of(x: Tensor, q: float) -> Tensor:
    """The q-norm of nonnegative rows, (.., 1), with a relative rounding error that does not depend on their size."""
    largest = x.amax(-1, keepdim=True)
    if q == math.inf:
        return largest
    return largest * (x / _or_one(largest)).pow(q).sum(-1, keepdim=True).pow(1 / q)


def _or_one(x: Tensor) -> Tensor:
    """``x``, or 1 where it is 0, to divide by."""
    return torch.where(x > 0, x, 1.0)
