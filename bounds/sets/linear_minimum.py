r"""Minima of linear functions over perturbation sets: the step that turns linear bounds into numbers.

From the centre :math:`c`, a perturbation helps to lower :math:`a \cdot x` only against the sign of :math:`a`, so

.. math:: \min_x a \cdot x = a \cdot c - \max_t |a| \cdot t, \qquad 0 \le t_i \le \rho_i,

where :math:`\rho_i` is the room that the box leaves in that direction, and the set limits :math:`t` further:
:math:`\|t\|_p \le r`, or at most k entries above 0. For the l_p ball, any split :math:`|a| = v + w` into nonnegative
parts bounds the gain by Hölder's inequality on one part and the box on the other,

.. math:: |a| \cdot t \le r \|v\|_q + \rho \cdot w,

and the best split attains the maximum: :math:`v_i = \min(|a_i|, \theta \rho_i^{p-1})` for one level :math:`\theta`,
found exactly by sorting. A level that is off by rounding costs tightness, never soundness.

Rounding is part of the bound: each term of the formula is off by at most :math:`\gamma_n` times the sum of the
absolute values of what it adds, and twice that is subtracted.
"""

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.sets.balls import Interval, LpBall

# Rounded operations per result besides the sum over the features: the two powers of a norm (16 each), their rounded
# exponents (at most 3 log F), and the single steps, with room to spare.
OTHER_OPERATIONS = 128


class PerturbationSet(Protocol):
    """Inputs around a centre; :func:`largest_gain` knows how far a linear function can fall in the set."""

    @property
    def center(self) -> Tensor:
        """A point of the hull for each input, (N, *D)."""

    def hull(self) -> Interval:
        """A box around the set, (N, *D) each."""


def perturbation_set(ball: object) -> None:
    """Refuse what is no perturbation set."""
    if not (hasattr(ball, "center") and hasattr(ball, "hull")):
        remedy = "bounds.Box(lower, upper)" if isinstance(ball, Interval) else "bounds.LpBall(x, radius, norm)"
        raise InvalidInput(f"the set must be an LpBall, a Box or a SparseBall, got {type(ball).__name__}: use {remedy}")


@dataclass(frozen=True, eq=False)
class Box(Interval):
    """All inputs between ``lower`` and ``upper``: a radius per feature, and features that are frozen.

    Args:
        lower: (N, *D) finite floating tensor.
        upper: likewise, nowhere below ``lower``; equal to it where a feature is frozen.

    Raises:
        InvalidInput: sides that are not finite, differ in shape or dtype, or are exchanged.
    """

    def __post_init__(self) -> None:
        checks.inputs(self.lower)
        checks.inputs(self.upper)
        if self.lower.shape != self.upper.shape or self.lower.dtype != self.upper.dtype:
            raise InvalidInput(
                f"lower and upper must have one shape and dtype, got {tuple(self.lower.shape)} of {self.lower.dtype} "
                f"and {tuple(self.upper.shape)} of {self.upper.dtype}: convert or expand one of them"
            )
        if (self.lower > self.upper).any():
            raise InvalidInput("lower must not exceed upper, but it does in some entry: exchange or widen them")

    @property
    def center(self) -> Tensor:
        """The middle of the box; exact where a feature is frozen."""
        return self.lower + (self.upper - self.lower) / 2

    def row(self, index: int) -> "Box":
        """The box of one input."""
        one = slice(index, index + 1)
        return Box(self.lower[one], self.upper[one])

    def hull(self) -> Interval:
        """The box itself."""
        return self


@dataclass(frozen=True, eq=False)
class SparseBall:
    """All inputs that differ from ``center`` in at most ``changes`` entries, inside the box [low, high].

    Args:
        center: (N, *D) floating tensor, inside the box.
        changes: how many entries of one input may change, at least 0.
        low: lower side of the box: a number, or a tensor that broadcasts to one input.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where every input equals the centre.

    Raises:
        InvalidInput: a centre outside the box or not finite, an open or empty box, a negative number of changes, a mask
            that is not boolean.
    """

    center: Tensor
    changes: int
    low: Limit = 0.0
    high: Limit = 1.0
    frozen_features: Tensor | None = None

    def __post_init__(self) -> None:
        checks.inputs(self.center, self.low, self.high)
        checks.frozen_features(self.frozen_features, self.center)
        checks.at_least("changes", self.changes, 0)
        if self.low is None or self.high is None:
            raise InvalidInput("low and high must be given, since a changed entry may go anywhere: pass both sides")

    def hull(self) -> Interval:
        """The whole box, or the centre if nothing may change; (N, *D) each."""
        if self.changes == 0:
            return Interval(self.center, self.center)
        box = LpBall(self.center, math.inf, low=self.low, high=self.high, frozen_features=self.frozen_features)
        return box.hull()


@isolated
def linear_minimum(coefficients: Tensor, region: PerturbationSet) -> Tensor:
    """Lower bounds on ``sum(coefficients * x)`` over a perturbation set, tight up to rounding.

    Holds for every real ``x`` of the set and the given coefficients in real arithmetic: rounding errors are
    subtracted, a relative error of about ``2 (F + 128) u`` of the summed absolute values, with F features and the unit
    roundoff u. Conditions: IEEE arithmetic, powers within eight units in the last place. What overflows, or has no
    minimum, gives minus infinity. The maximum is ``-linear_minimum(-coefficients, region)``.

    Gradients flow to the coefficients alone; they are the minimising inputs (envelope theorem), finite where the set
    is. The bound is computed in the wider of the two dtypes, needs about a dozen tensors of the size of the
    coefficients, and sorts the features of a finite ball in a box.

    Args:
        coefficients: (N, R, *D) floating tensor, R linear functions for each of N inputs.
        region: N perturbation sets around inputs of shape *D: :class:`LpBall`, :class:`Box`, :class:`SparseBall`.

    Returns:
        (N, R) tensor.

    Raises:
        InvalidInput: shapes that do not match, a set unknown to :func:`largest_gain`, float32 sums too long to bound.

    References:
        Zhang et al. (2018), Efficient neural network robustness certification with general activation functions,
        arXiv:1811.00866, section 3 (balls without a box).
    """
    perturbation_set(region)
    dtype = _common_dtype(coefficients, region.center)
    a, hull = coefficients.flatten(2).to(dtype), region.hull()
    with torch.no_grad():
        center, lower, upper = (x.flatten(1)[:, None].to(dtype) for x in (region.center, hull.lower, hull.upper))
        slopes = a.abs()
        gain, move = largest_gain(region, slopes, torch.where(a > 0, center - lower, upper - center))
        size = (slopes * center.abs()).sum(-1) + gain
        error = 2 * accumulated_error(a.shape[2] + OTHER_OPERATIONS, dtype) * size
        # The smallest normal number stands for what underflow took from products and differences.
        underflow = 4 * torch.finfo(dtype).tiny * (slopes.sum(-1) + a.shape[2])
        value = (a * center).sum(-1) - gain - (error + underflow)
        value = torch.where(value < math.inf, value, -math.inf)  # neither overflow nor NaN proves anything
    if not a.requires_grad:
        return value
    return value + ((a - a.detach()) * (center - a.sign() * move).detach()).sum(-1)


def _common_dtype(coefficients: Tensor, center: Tensor) -> torch.dtype:
    if not checks.tensor("coefficients", coefficients).is_floating_point():
        raise InvalidInput(f"coefficients must be a floating-point tensor, got {coefficients.dtype}: convert them")
    if coefficients.ndim < 3 or coefficients.shape[:1] + coefficients.shape[2:] != center.shape:
        expected = ", ".join(str(size) for size in (len(center), "R", *center.shape[1:]))
        raise InvalidInput(
            f"coefficients must have shape ({expected}), got {tuple(coefficients.shape)}: one row per linear function"
        )
    return torch.promote_types(coefficients.dtype, center.dtype)


@singledispatch
def largest_gain(region: PerturbationSet, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """The largest ``slopes @ t`` for moves ``0 <= t <= reach`` that a set allows, and a move that attains it.

    For a set of one's own, register an implementation with ``@largest_gain.register``. The gain may fall below the
    true one by the relative error of ``F + OTHER_OPERATIONS / 2`` rounded operations, which the caller makes up for.

    Args:
        region: N perturbation sets.
        slopes: (N, R, F), at least 0.
        reach: (N, R, F), room within the hull in the direction of each move.

    Returns:
        The gain (N, R) and the move (N, R, F).

    Raises:
        InvalidInput: a set of unknown type.
    """
    raise InvalidInput(
        f"region must be an LpBall, Box or SparseBall, got {type(region).__name__}: use one of these, or register "
        f"its largest_gain"
    )


@largest_gain.register
def _gain_in_box(region: Box, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    return (slopes * reach).sum(-1), reach


@largest_gain.register
def _gain_of_changes(region: SparseBall, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    best = (slopes * reach).topk(min(region.changes, slopes.shape[2]), dim=2)
    return best.values.sum(-1), torch.zeros_like(reach).scatter(2, best.indices, reach.gather(2, best.indices))


@largest_gain.register
def _gain_in_ball(region: LpBall, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    own = region.center.dtype  # the radius was rounded to it
    radius = (region.radii.to(slopes.dtype) * (1 + 4 * unit_roundoff(own)) + torch.finfo(own).tiny)[:, None, None]
    reach = torch.minimum(reach, radius)
    in_box = (slopes * reach).sum(-1)
    if region.norm == math.inf:
        return in_box, reach
    slopes = torch.where(reach > 0, slopes, 0.0)
    radius = torch.minimum(radius, 2 * reach.sum(2, keepdim=True))  # finite where the box is
    # Steepest slope 1 and radius 1, lest powers overflow or vanish.
    steepest = _or_one(slopes.amax(2, keepdim=True))
    slope, room = slopes / steepest, reach / _or_one(radius)
    gain = torch.minimum(in_box, (radius * norm_of(slopes, region.dual_norm)).squeeze(2))
    if region.norm == 1:
        level, move = _greedy(slope, room)
    elif region.low is None and region.high is None:
        return gain, radius * _holder_move(slope, region.dual_norm)
    else:
        level = _level(slope, room, region)
        split = torch.minimum(slope, level)
        move = torch.where(split < slope, room, torch.minimum(_holder_move(split, region.dual_norm), room))
    split = torch.minimum(slopes, level * steepest)  # any split is sound, that of other slopes as well
    in_both = (radius * norm_of(split, region.dual_norm)).squeeze(2) + (reach * (slopes - split)).sum(-1)
    return torch.minimum(gain, in_both), radius * move


def _greedy(slope: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """The level (.., 1) of an l1 ball of radius 1, and the move that spends the radius on the steepest slopes first."""
    sorted_slope, order = slope.sort(dim=2, descending=True)
    sorted_room = room.gather(2, order)
    spent = sorted_room.cumsum(2)
    full = (spent <= 1).sum(2, keepdim=True)
    level = F.pad(sorted_slope, (0, 1)).gather(2, full)
    move = torch.minimum((1 - (spent - sorted_room)).clamp(min=0), sorted_room)
    return level, torch.zeros_like(room).scatter(2, order, move)


def _level(slope: Tensor, room: Tensor, ball: LpBall) -> Tensor:
    r"""The part :math:`\theta \rho_i^{p-1}` above which the box stops a move, for radius 1; in logarithms.

    The moves :math:`\min(\rho_i, (|a_i| / \theta)^{q-1})` spend the more of the radius the lower the level, and an
    entry is stopped below the level :math:`|a_i| / \rho_i^{p-1}`. Sorted by these levels, the stopped entries come
    first; the others share what is left, which gives the level in closed form.
    """
    p, q = ball.norm, ball.dual_norm
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
