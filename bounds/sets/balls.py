"""Perturbation sets: l_p balls, intersected with a box of valid inputs."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.numerics import unit_roundoff


@dataclass(frozen=True, eq=False)
class Interval:
    """Entry-wise bounds: every entry lies between ``lower`` and ``upper``, tensors of one shape."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, center: Tensor, radius: Tensor, error: float) -> "Interval":
        """The centre and ``radius`` to both sides, with a relative error of both numbers and of these operations."""
        if error == 0:
            return cls(center - radius, center + radius)
        radius = torch.add(radius, center.abs(), alpha=error)
        return cls(torch.sub(center, radius, alpha=1 + error), torch.add(center, radius, alpha=1 + error))

    def halves(self, error: float) -> tuple[Tensor, Tensor]:
        """The centre, and how far both ends are from it, with a relative error of the centre.

        What rounding did to both is covered once the distance is raised by a few units of rounding, and if the error
        is more than these.
        """
        center = torch.lerp(self.lower, self.upper, 0.5)
        radius = self.upper - center
        return center, torch.add(radius, center.abs(), alpha=error) if error else radius

    def __and__(self, other: "Interval") -> "Interval":
        """The intersection of two intervals that are both known to hold."""
        return Interval(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))


@dataclass(frozen=True, eq=False)
class LpBall:
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

    def row(self, index: int) -> "LpBall":
        """The ball of one input."""
        one = slice(index, index + 1)
        return replace(self, center=self.center[one], radius=self.radii[one])

    def hull(self) -> Interval:
        """Smallest box around the ball and within [low, high], rounded outward; (N, *D) each."""
        radius = self.radii.view(-1, *[1] * (self.center.ndim - 1))
        u, tiny = unit_roundoff(self.center.dtype), torch.finfo(self.center.dtype).tiny
        slack = 4 * u * (self.center.abs() + radius) + tiny
        lower, upper = self.center - radius - slack, self.center + radius + slack
        if self.low is not None:
            lower = lower.clamp(min=-_rounded_up(-_exact(self.low, lower), lower.dtype))
        if self.high is not None:
            upper = upper.clamp(max=_rounded_up(_exact(self.high, upper), upper.dtype))
        if self.frozen_features is not None:
            frozen = self.frozen_features.to(lower.device)
            lower, upper = torch.where(frozen, self.center, lower), torch.where(frozen, self.center, upper)
        return Interval(lower, upper)


def _exact(limit: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(limit, dtype=torch.float64, device=x.device)


def _rounded_up(limit: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number of ``dtype`` that is at least ``limit``: the box must not shrink in float32."""
    nearest = limit.to(dtype)
    above = torch.nextafter(nearest, torch.full_like(nearest, math.inf))
    return torch.where(nearest.double() < limit, above, nearest)
