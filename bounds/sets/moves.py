r"""The largest gain ``slopes @ t`` of moves ``0 <= t <= reach`` within an l_p ball, and a move that attains it.

For any split :math:`|a| = v + w` into nonnegative parts, Hölder's inequality bounds the gain of one part and the box
that of the other,

.. math:: |a| \cdot t \le r \|v\|_q + \rho \cdot w,

and the best split attains the maximum: :math:`v_i = \min(|a_i|, \theta \rho_i^{p-1})` for one level :math:`\theta`,
found exactly by sorting. A level that is off by rounding costs tightness, never soundness.
"""

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


class MovesInBall:
    """Moves ``0 <= t <= reach`` within an l_p ball, and what they gain: ``slopes @ t``.

    Args:
        slopes: (N, R, F), at least 0.
        reach: (N, R, F), the largest move of each entry.
        radius: (N, 1, 1), of the ball.
        norm: its order p, from 1 to infinity.
        dual_norm: the order q, ``1 / p + 1 / q = 1``.
        boxed: whether the reach may stop a move before the radius does.
    """

    def __init__(
        self, slopes: Tensor, reach: Tensor, radius: Tensor, norm: float, dual_norm: float, *, boxed: bool
    ) -> None:
        self.norm, self.dual_norm, self.boxed = norm, dual_norm, boxed
        self.reach = torch.minimum(reach, radius)
        self.slopes = torch.where(self.reach > 0, slopes, 0.0)
        # Finite where the box is.
        self.radius = radius if norm == math.inf else torch.minimum(radius, 2 * self.reach.sum(2, keepdim=True))

    def gain(self) -> Tensor:
        """The largest gain (N, R), rounded as :meth:`bounds.PerturbationSet.largest_gain` says."""
        in_box = (self.slopes * self.reach).sum(-1)
        if self.norm == math.inf:
            return in_box
        gain = torch.minimum(in_box, (self.radius * norm_of(self.slopes, self.dual_norm)).squeeze(2))
        if self.norm != 1 and not self.boxed:
            return gain
        split = torch.minimum(self.slopes, self._level * self._steepest)  # any split is sound
        in_both = (self.radius * norm_of(split, self.dual_norm)).squeeze(2)
        return torch.minimum(gain, in_both + (self.reach * (self.slopes - split)).sum(-1))

    def best(self) -> Tensor:
        """A move (N, R, F) that gains most."""
        if self.norm == math.inf:
            return self.reach
        slope, room = self._scaled
        if self.norm == 1:
            return self.radius * steepest_first(slope, room, 1.0)[1]
        if not self.boxed:
            return self.radius * _holder_move(slope, self.dual_norm)
        split = torch.minimum(slope, self._level)
        move = torch.where(split < slope, room, torch.minimum(_holder_move(split, self.dual_norm), room))
        return self.radius * move

    @cached_property
    def _steepest(self) -> Tensor:
        return _or_one(self.slopes.amax(2, keepdim=True))

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Slopes and room with the steepest slope 1 and radius 1, lest powers overflow or vanish."""
        return self.slopes / self._steepest, self.reach / _or_one(self.radius)

    @cached_property
    def _level(self) -> Tensor:
        """The best level of a split, in the units of :attr:`_scaled`."""
        slope, room = self._scaled
        if self.norm == 1:
            return steepest_first(slope, room, 1.0)[0]
        return _level_of_squares(slope, room) if self.norm == 2 else _level(slope, room, self.norm, self.dual_norm)


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


def _level_of_squares(slope: Tensor, room: Tensor) -> Tensor:
    """As :func:`_level` for p = 2, where powers are squares and need no logarithms."""
    stop, order = (slope / room).nan_to_num(0.0, math.inf).sort(dim=2, descending=True)
    spent = F.pad(room.square().gather(2, order).cumsum(2), (1, 0))
    tail = slope.square().gather(2, order).flip(2).cumsum(2).flip(2)
    stopped = (spent[..., :-1] + tail / stop.square() <= 1).sum(2, keepdim=True)
    left = (1 - spent.gather(2, stopped)).clamp(min=torch.finfo(slope.dtype).eps)
    return (F.pad(tail, (0, 1)).gather(2, stopped) / left).sqrt() * room


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
