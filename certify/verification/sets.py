"""Perturbed inputs that a verdict or a certificate speaks of: balls of a norm, or sets of the caller's own."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import LpBall, PerturbationSet, SparseBall, checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.sets.balls import outer_box
from certify.attacks.common.threat import check_alone, check_around

Maker = Callable[[Tensor, Tensor], PerturbationSet]  # of inputs (B, *D) in float64 and radii (B,), growing with these

LARGEST = 1e6  # radius looked at in a family without an end, in units of the largest entry of an input, or of 1


@dataclass(frozen=True, eq=False)
class Balls:
    """The balls of a norm within a box, whose sides are in float64; order 0 counts changed entries."""

    order: float
    low: Limit
    high: Limit
    frozen_features: Tensor | None

    def __call__(self, x: Tensor, radius: Tensor) -> PerturbationSet:
        """The perturbed inputs of each row, in float64; radii (N,), of which norm 0 takes one for all."""
        limits = self.low, self.high, self.frozen_features
        if self.order == 0:
            return SparseBall(x.double(), int(radius.max()) if len(radius) else 0, *limits)
        return LpBall(x.double(), radius, self.order, *limits)

    def reach(self, x: Tensor) -> Tensor:
        """Distance (N,) from each input to the farthest corner of the box; infinite where a side is open."""
        box = LpBall(x, math.inf, self.order, self.low, self.high, self.frozen_features).hull()
        farthest = torch.maximum(x - box.lower, box.upper - x).flatten(1)
        distance: Tensor = torch.linalg.vector_norm(farthest, self.order, dim=1)
        return distance


@dataclass(frozen=True, eq=False)
class Family:
    """Sets of the caller's own for every radius; no norm has a name for them."""

    make: Maker
    order: float = math.nan

    def __call__(self, x: Tensor, radius: Tensor) -> PerturbationSet:
        """The set of each row, found to hold its input."""
        return check_around(self.make(x, radius), x)

    def reach(self, x: Tensor) -> Tensor:
        """No end is known."""
        return x.new_full((len(x),), math.inf)


def family_of(
    x: Tensor,
    norm: float | None,
    low: Limit,
    high: Limit,
    frozen_features: Tensor | None,
    perturbation: Maker | None,
) -> Balls | Family:
    """The sets that the arguments of a public function describe."""
    if perturbation is not None:
        check_alone(norm, frozen_features)
        checks.inputs(x)
        if isinstance(perturbation, PerturbationSet) or not callable(perturbation):
            raise InvalidInput(
                f"perturbation must be a function of x and radius that returns a set, got "
                f"{type(perturbation).__name__}: pass lambda x, radius: YourSet(x, radius), or use certify.verify"
            )
        return Family(perturbation)
    if norm is None:
        raise InvalidInput("norm must be given, got None: pass norm=math.inf, or perturbation= for sets of your own")
    checks.inputs(x, low, high)
    checks.frozen_features(frozen_features, x)
    return Balls(norm_of_set(norm, low, high), *outer_box(x, low, high), frozen_features)


def norm_of_set(norm: float, low: Limit, high: Limit) -> float:
    """The order of a norm, or 0 for the number of changed entries, which needs a box."""
    if norm == 0:
        if low is None or high is None:
            raise InvalidInput("low and high must be given with norm=0: a changed entry may go anywhere between them")
        return 0.0
    return checks.norm(norm)


def checked_epsilon(epsilon: float | Tensor, x: Tensor, order: float) -> Tensor:
    """One radius for each row, float64."""
    if order == 0:
        checks.at_least("epsilon", epsilon, 0)  # type: ignore[arg-type]  # what is no integer is refused
    radius = torch.as_tensor(epsilon, dtype=torch.float64, device=x.device)
    if radius.ndim > 1:
        raise InvalidInput(
            f"epsilon must be a number or of shape ({len(x)},), got {tuple(radius.shape)}: for a radius per feature "
            f"use perturbation=bounds.Box(x - radius, x + radius)"
        )
    if radius.ndim > 0:
        checks.rows("epsilon", radius, len(x))
    radius = radius.expand(len(x))
    wrong = ~((radius >= 0) & radius.isfinite())  # True where it is NaN
    if wrong.any():
        checks.nonnegative("epsilon", float(radius[wrong][0]))
    return radius
