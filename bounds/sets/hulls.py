"""Convex hulls of boxes: sets whose entries move together, such as images along a piece of a rotation."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error, underflow
from bounds.sets.balls import Interval, PerturbationSet
from bounds.sets.moves import MovesInBall, norm_of


@dataclass(frozen=True, eq=False)
class HullOfBoxes(PerturbationSet):
    r"""All mixtures of points of some boxes, and what lies within ``radius`` of these in an l_p norm.

    A linear function is least at a corner of one of the boxes: its minimum is the least of the minima over them. So the
    set of all x with :math:`l_0 + L t \le x \le u_0 + U t` for some t in :math:`[-1, 1]^k` is such a hull, with one
    box for each corner of :math:`[-1, 1]^k`.

    Args:
        lower: (N, V, *D) finite floating tensor, the lower sides of V boxes.
        upper: likewise, nowhere below ``lower``.
        radius: at least 0, in units of the input.
        norm: order of the norm of the radius, from 1 to ``math.inf``.

    Raises:
        InvalidInput: sides that are not finite, differ in shape or dtype, or are exchanged; a negative radius; a norm
            below 1.
    """

    lower: Tensor
    upper: Tensor
    radius: float = 0.0
    norm: float = math.inf

    def __post_init__(self) -> None:
        checks.nonnegative("radius", self.radius)
        checks.norm(self.norm)
        checks.inputs(self.lower)
        checks.inputs(self.upper)
        if self.lower.ndim < 3 or self.lower.shape != self.upper.shape or self.lower.dtype != self.upper.dtype:
            raise InvalidInput(
                f"lower and upper must have one shape (N, V, *D) and dtype, got {tuple(self.lower.shape)} of "
                f"{self.lower.dtype} and {tuple(self.upper.shape)} of {self.upper.dtype}: convert or expand one of them"
            )
        if (self.lower > self.upper).any():
            raise InvalidInput("lower must not exceed upper, but it does in some entry: exchange or widen them")

    @cached_property
    def center(self) -> Tensor:
        """The middle of the hull, (N, *D)."""
        lower, upper = self.lower.amin(1), self.upper.amax(1)
        return lower + (upper - lower) / 2

    @property
    def dual_norm(self) -> float:
        """Order q of the dual norm, 1/p + 1/q = 1."""
        if self.norm == 1:
            return math.inf
        return 1.0 if self.norm == math.inf else self.norm / (self.norm - 1)

    def rows(self, index: Tensor) -> "HullOfBoxes":
        """The sets of some inputs, given by their places (B,)."""
        return HullOfBoxes(self.lower[index], self.upper[index], self.radius, self.norm)

    def double(self) -> "HullOfBoxes":
        """The set in float64."""
        return HullOfBoxes(self.lower.double(), self.upper.double(), self.radius, self.norm)

    def hull(self) -> Interval:
        """Smallest box around the set, rounded outward."""
        lower, upper = self.lower.amin(1), self.upper.amax(1)
        if self.radius == 0:
            return Interval(lower, upper)
        unit, least = 4 * torch.finfo(lower.dtype).eps, underflow(lower.dtype)
        slack = unit * (torch.maximum(lower.abs(), upper.abs()) + self.radius) + least
        return Interval(lower - self.radius - slack, upper + self.radius + slack)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of all entries at once, which no point of the set exceeds; bounds use :meth:`least` instead."""
        return (slopes * reach).sum(-1), reach

    def largest_fall(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The fall to the lowest corner of a box and from there within the radius, see :class:`PerturbationSet`."""
        lower, upper = (side.flatten(2).to(rows.dtype) for side in (self.lower, self.upper))
        center, slopes = self.center.flatten(1)[:, None].to(rows.dtype), rows.abs()
        best = (rows.clamp(min=0) @ lower.mT + rows.clamp(max=0) @ upper.mT).argmin(2)
        each = torch.arange(len(lower), device=lower.device)[:, None]
        move = torch.where(rows > 0, lower[each, best], upper[each, best]) - center
        if self.radius:
            radius, open_room = slopes.new_full((1, 1, 1), self.radius), torch.full_like(slopes, math.inf)
            ball = MovesInBall(slopes, open_room, radius, self.norm, self.dual_norm, boxed=False)
            move = move - rows.sign() * ball.best()
        reach = torch.maximum(lower.abs(), upper.abs()).amax(1, keepdim=True) + self.radius
        error = 4 * accumulated_error(rows.shape[2] + 128, rows.dtype) * (slopes * (reach + center.abs())).sum(2)
        return -(rows * move).sum(2) + error, move

    def least(self, middle: Tensor, gain: Tensor, slopes: Tensor | None, *, rounded: bool) -> Tensor:
        """Minima (N, R) from those over boxes.

        Args:
            middle: (N, R, V), values at the middles of the boxes.
            gain: (N, R, V), how far values fall within the boxes, rounding errors included.
            slopes: (N, R, F), absolute coefficients; None where there is no radius.
            rounded: whether to include the rounding errors of the radius.
        """
        found = (middle - gain).amin(2)
        if slopes is None:
            return found
        fall = self.radius * norm_of(slopes, self.dual_norm).squeeze(2)
        if rounded:  # the two powers of the norm take 32 operations, its rounded exponents a few more
            fall = fall * (1 + 2 * accumulated_error(slopes.shape[2] + 128, slopes.dtype))
            fall = fall + 4 * underflow(slopes.dtype) * (slopes.sum(2) + slopes.shape[2])
        return found - fall
