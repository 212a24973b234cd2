"""Balls in a box, boxes, and few changed entries."""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.numerics import converted_down, per_row, underflow, unit_roundoff
from bounds.sets.balls.base import Interval, PerturbationSet
from bounds.sets.distances import distance
from bounds.sets.moves import MovesInBall


def perturbation_set(ball: object) -> None:
    """Refuse what is no perturbation set."""
    if not isinstance(ball, PerturbationSet):
        remedy = "bounds.Box(lower, upper)" if isinstance(ball, Interval) else "bounds.LpBall(x, radius, norm)"
        raise InvalidInput(
            f"the set must be an LpBall, a Box, a SparseBall or your own bounds.PerturbationSet, got "
            f"{type(ball).__name__}: use {remedy}"
        )
    if isinstance(ball, LpBall | Box | SparseBall):  # these have been checked
        return
    checks.tensor("center", ball.center)
    hull = ball.hull()
    for name, side in (("lower", hull.lower), ("upper", hull.upper)):
        if side.shape != ball.center.shape or side.dtype != ball.center.dtype:
            raise InvalidInput(
                f"hull().{name} of {type(ball).__name__} must have the shape {tuple(ball.center.shape)} and dtype "
                f"{ball.center.dtype} of its center, got {tuple(side.shape)} of {side.dtype}: expand or convert it"
            )


Ball = TypeVar("Ball", "LpBall", "SparseBall")


@dataclass(frozen=True, eq=False)
class LpBall(PerturbationSet):
    """All inputs within ``radius`` of ``center`` in an l_p norm, and inside the box [low, high].

    Args:
        center: (N, *D) floating tensor, inside the box.
        radius: one number, or (N,) with one radius per input, in units of the input; at least 0.
        norm: order of the norm, from 1 to ``math.inf``.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where every input equals the centre.

    Raises:
        InvalidInput: a centre outside the box or not finite, a box that is empty or differs between inputs, a
            negative radius, a norm below 1, a mask that is not boolean.
    """

    center: Tensor
    radius: float | Tensor
    norm: float = math.inf
    low: Limit = 0.0
    high: Limit = 1.0
    frozen_features: Tensor | None = None

    def __post_init__(self) -> None:
        checks.inputs(self.center, self.low, self.high)
        checks.frozen_features(self.frozen_features, self.center)
        checks.norm(self.norm)
        if torch.as_tensor(self.radius).shape not in ((), (len(self.center),)):
            raise InvalidInput(
                f"radius must be a number or of shape ({len(self.center)},), got {tuple(self.radii.shape)}: "
                f"for a radius per feature use bounds.Box(center - radius, center + radius)"
            )
        if not (self.radii >= 0).all():  # NaN fails here too
            raise InvalidInput(f"radius must be at least 0, got {self.radii.min():g}")

    @property
    def radii(self) -> Tensor:
        """The radius of each input, (N,) in the dtype and on the device of the centre."""
        radius = torch.as_tensor(self.radius, dtype=self.center.dtype, device=self.center.device)
        return radius.expand(len(self.center)) if radius.ndim == 0 else radius

    @property
    def dual_norm(self) -> float:
        """Order q of the dual norm, 1/p + 1/q = 1."""
        if self.norm == 1:
            return math.inf
        return 1.0 if self.norm == math.inf else self.norm / (self.norm - 1)

    @property
    def is_box(self) -> bool:
        """Whether the norm is l-infinity."""
        return self.norm == math.inf

    def rows(self, index: Tensor) -> "LpBall":
        """The balls of some inputs, given by their places (B,)."""
        return _part_of(self, center=self.center[index], radius=self.radii[index])

    def contains(self, points: Tensor) -> Tensor:
        """Points in the box whose distance, rounded up, is at most the radius; see :class:`PerturbationSet`."""
        near = distance(points, self.center, self.norm) <= _exact(self.radius, points)
        return near & _in_box(points, self.center, self.low, self.high, self.frozen_features)

    def row(self, index: int) -> "LpBall":
        """The ball of one input."""
        one = slice(index, index + 1)
        return replace(self, center=self.center[one], radius=self.radii[one])

    def without_box(self) -> "LpBall":
        """A round ball without the box of valid inputs, which costs much to combine with it."""
        return self if self.is_box or self.low is self.high is None else _part_of(self, low=None, high=None)

    def double(self) -> "LpBall":
        """The ball in float64; its box holds the inputs that lie at a side rounded to the dtype of the centre."""
        low, high = outer_box(self.center, self.low, self.high)
        radius = self.radius.double() if isinstance(self.radius, Tensor) else self.radius
        return replace(self, center=self.center.double(), radius=radius, low=low, high=high)

    def hull(self) -> Interval:
        """Smallest box around the ball and within [low, high], rounded outward; (N, *D) each."""
        radius = per_row(self.radii, self.center)
        slack = 4 * unit_roundoff(self.center.dtype) * (self.center.abs() + radius) + underflow(self.center.dtype)
        lower, upper = self.center - radius - slack, self.center + radius + slack
        if self.low is not None:
            lower = lower.clamp(min=converted_down(_exact(self.low, lower), lower.dtype))
        if self.high is not None:
            upper = upper.clamp(max=-converted_down(-_exact(self.high, upper), upper.dtype))
        if self.frozen_features is not None:
            frozen = self.frozen_features.to(lower.device)
            lower, upper = torch.where(frozen, self.center, lower), torch.where(frozen, self.center, upper)
        return Interval(lower, upper)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The largest gain of moves in the ball and the box, see :class:`PerturbationSet`."""
        moves = self._moves(slopes, reach)
        return moves.gain(), moves.best()

    def gain(self, slopes: Tensor, reach: Tensor) -> Tensor:
        """The largest gain alone, of any entries of the input: there may be fewer than these."""
        return self._moves(slopes, reach).gain()

    def _moves(self, slopes: Tensor, reach: Tensor) -> MovesInBall:
        own = self.center.dtype  # the radius was rounded to it
        radius = self.radii.to(slopes.dtype) * (1 + 4 * unit_roundoff(own)) + torch.finfo(own).tiny
        boxed = self.low is not None or self.high is not None
        return MovesInBall(slopes, reach, radius[:, None, None], self.norm, self.dual_norm, boxed=boxed)


@dataclass(frozen=True, eq=False)
class Box(Interval, PerturbationSet):
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

    @cached_property
    def center(self) -> Tensor:
        """The middle of the box; exact where a feature is frozen."""
        return self.lower + (self.upper - self.lower) / 2

    @property
    def is_box(self) -> bool:
        """Always true."""
        return True

    def rows(self, index: Tensor) -> "Box":
        """The boxes of some inputs, given by their places (B,)."""
        return Box(self.lower[index], self.upper[index])

    def contains(self, points: Tensor) -> Tensor:
        """Points between the sides, see :class:`PerturbationSet`."""
        return ((self.lower <= points) & (points <= self.upper)).flatten(1).all(1)

    def row(self, index: int) -> "Box":
        """The box of one input."""
        one = slice(index, index + 1)
        return Box(self.lower[one], self.upper[one])

    def double(self) -> "Box":
        """The box in float64."""
        return Box(self.lower.double(), self.upper.double())

    def hull(self) -> Interval:
        """The box itself."""
        return self

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of moving every entry to its side, see :class:`PerturbationSet`."""
        return (slopes * reach).sum(-1), reach


@dataclass(frozen=True, eq=False)
class SparseBall(PerturbationSet):
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

    def double(self) -> "SparseBall":
        """The set in float64, see :meth:`LpBall.double`."""
        low, high = outer_box(self.center, self.low, self.high)
        return replace(self, center=self.center.double(), low=low, high=high)

    def rows(self, index: Tensor) -> "SparseBall":
        """The sets of some inputs, given by their places (B,)."""
        return _part_of(self, center=self.center[index])

    def contains(self, points: Tensor) -> Tensor:
        """Points in the box that differ in few enough entries, see :class:`PerturbationSet`."""
        few = distance(points, self.center, 0) <= self.changes
        return few & _in_box(points, self.center, self.low, self.high, self.frozen_features)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of the entries that gain most, see :class:`PerturbationSet`."""
        best = (slopes * reach).topk(min(self.changes, slopes.shape[2]), dim=2)
        return best.values.sum(2), torch.zeros_like(reach).scatter(2, best.indices, reach.gather(2, best.indices))

    def largest_sum(self, gains: Tensor) -> Tensor:
        """The gain of the entries that gain most, (N, R), of gains (N, R, F) of any entries of the input."""
        return gains.topk(min(self.changes, gains.shape[2]), dim=2, sorted=False).values.sum(2)


def _part_of(ball: Ball, **changes: Any) -> Ball:  # noqa: ANN401  # fields of all kinds
    """A ball with other fields, such as some of its rows, which need not be checked again."""
    if type(ball) not in (LpBall, SparseBall):  # one derived from these may check or derive what it likes
        return replace(ball, **changes)
    made = copy(ball)
    vars(made).update(changes)
    return made


def outer_box(x: Tensor, low: Limit, high: Limit) -> tuple[Limit, Limit]:
    """The box in float64. Inputs are held against it in the dtype of ``x``, where it may lie farther out."""
    return _outer_side(low, x, torch.minimum), _outer_side(high, x, torch.maximum)


def _outer_side(side: Limit, x: Tensor, outer: Callable[[Tensor, Tensor], Tensor]) -> Limit:
    return None if side is None else outer(_exact(side, x), _exact(side, x).to(x.dtype).double())


def _in_box(points: Tensor, center: Tensor, low: Limit, high: Limit, frozen_features: Tensor | None) -> Tensor:
    """Whether each point (N, *D) lies between the sides and equals the centre where it is frozen, (N,)."""
    held = torch.ones_like(points, dtype=torch.bool)
    if low is not None:
        held &= points >= _exact(low, points)
    if high is not None:
        held &= points <= _exact(high, points)
    if frozen_features is not None:
        held &= (points == center) | ~frozen_features.to(points.device)
    return held.flatten(1).all(1)


def _exact(limit: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(limit, dtype=torch.float64, device=x.device)
