"""Threat models: the inputs that an attack may reach."""

import math
from dataclasses import KW_ONLY, dataclass
from time import monotonic

import torch
from torch import Generator, Tensor

from bounds import PerturbationSet, checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.sets.balls import perturbation_set
from bounds.sets.distances import distance
from bounds.sets.norms import clip, inner_side

NORMS = (1, 2, math.inf)


def checked_norm(norm: float, known: tuple[float, ...]) -> float:
    """The order as a float; it must be one of those that the attack serves."""
    if isinstance(norm, bool) or norm not in known:
        names = ["math.inf" if order == math.inf else f"{order:g}" for order in known]
        listed = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        remedy = ": pass its order, such as 2 or math.inf" if isinstance(norm, str) else ""
        raise InvalidInput(f"norm must be {listed}, got {norm!r}{remedy}")
    return float(norm)


def check_box(x: Tensor, low: Limit, high: Limit, frozen_features: Tensor | None) -> None:
    """Refuse what is no box around inputs (N, *D): sides and mask for one input, or (N, *D) with one per row."""
    checks.inputs(x, *(None if _of_rows(limit, x) else limit for limit in (low, high)))
    if not _of_rows(frozen_features, x):
        checks.frozen_features(frozen_features, x)
    elif frozen_features is not None and frozen_features.dtype != torch.bool:
        raise InvalidInput(f"frozen_features must be a boolean tensor, got {frozen_features.dtype}: True where x stays")
    lower, upper = sides(x, low, high, None)
    outside = ~((lower <= x) & (x <= upper)).flatten(1).all(1)  # True for a side that is NaN
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InvalidInput(f"x must lie between low and high, but row {row} does not: clamp x, or widen the box")


def _of_rows(limit: Limit, x: Tensor) -> bool:
    """Whether a side or a mask has one entry per row, (N, *D) or broadcasting to it."""
    if not isinstance(limit, Tensor) or not isinstance(x, Tensor) or limit.ndim != x.ndim or len(limit) != len(x):
        return False
    return all(size in (1, entries) for size, entries in zip(limit.shape[1:], x.shape[1:], strict=True))


def sides(x: Tensor, low: Limit, high: Limit, frozen_features: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each entry, (N, *D) each; infinite where open, ``x`` itself where frozen."""
    lower, upper = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    lower = x.new_full((), -math.inf) if lower is None else lower
    upper = x.new_full((), math.inf) if upper is None else upper
    if frozen_features is not None:
        mask = frozen_features.to(x.device)
        lower, upper = torch.where(mask, x, lower), torch.where(mask, x, upper)
    return lower.expand_as(x), upper.expand_as(x)


@dataclass(frozen=True, eq=False)
class Threat:
    """The inputs that an attack may reach; arguments as in :func:`certify.attacks.robust_accuracy`."""

    norm: float
    low: Limit = 0.0
    high: Limit = 1.0
    frozen_features: Tensor | None = None

    def check(self, x: Tensor, *, per_row: bool = False, norms: tuple[float, ...] = NORMS) -> None:
        """Refuse what is no set of inputs around ``x``; a box or mask ``per_row`` only where the caller serves it."""
        checked_norm(self.norm, norms)
        if per_row:
            check_box(x, self.low, self.high, self.frozen_features)
        else:
            checks.inputs(x, self.low, self.high)
            checks.frozen_features(self.frozen_features, x)

    def sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each entry, (N, *D) each, as the function of that name returns them."""
        return sides(x, self.low, self.high, self.frozen_features)


@dataclass(frozen=True, eq=False)
class BoundedThreat(Threat):
    """The inputs that an attack may reach, within a distance of epsilon."""

    _: KW_ONLY
    epsilon: float | Tensor

    def check(self, x: Tensor, *, per_row: bool = False, norms: tuple[float, ...] = NORMS) -> None:
        """Refuse what is no set of inputs around ``x``, or no budget for each of them."""
        super().check(x, per_row=per_row, norms=norms)
        if isinstance(self.epsilon, Tensor):
            if self.epsilon.shape not in ((), (len(x),)):
                raise InvalidInput(
                    f"epsilon must be a number or of shape ({len(x)},), got {tuple(self.epsilon.shape)}: "
                    f"pass one budget per input"
                )
            if not ((self.epsilon >= 0) & self.epsilon.isfinite()).all():
                raise InvalidInput("epsilon must be finite and at least 0 in every row")
        else:
            checks.nonnegative("epsilon", self.epsilon)

    def budgets(self, x: Tensor) -> Tensor:
        """Epsilon of each row, (N,) float64."""
        return torch.as_tensor(self.epsilon, dtype=torch.float64, device=x.device).expand(len(x)).clone()

    def region(self, rows: Tensor) -> PerturbationSet | None:
        """The sets of some rows where the caller brings them, None for balls in a box."""
        return None

    def measured(self, points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of points (N, *D) from the inputs, rounded up, and whether they are allowed, (N,) each."""
        reached = distance(points, x, self.norm)
        inside = (clip(points, *self.sides(x)) == points).flatten(1).all(1)
        return reached, inside & (reached <= self.budgets(x))


@dataclass(frozen=True, eq=False)
class SetThreat(BoundedThreat):
    """The inputs that an attack may reach, in sets that the caller brings; no norm has a name for them."""

    norm: float = math.nan
    _: KW_ONLY
    epsilon: float | Tensor = math.nan
    sets: PerturbationSet

    def check(self, x: Tensor, *, per_row: bool = False, norms: tuple[float, ...] = NORMS) -> None:
        """Refuse sets that do not hold the inputs ``x``, or whose members cannot be told."""
        checks.inputs(x)
        check_around(self.sets, x.detach())
        self.sets.contains(x.detach().double())

    def sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sides of the hulls of the sets, (N, *D) each."""
        hull = self.sets.hull()
        return hull.lower.to(x.dtype), hull.upper.to(x.dtype)

    def region(self, rows: Tensor) -> PerturbationSet:
        """The sets of some rows."""
        return self.sets.rows(rows)

    def measured(self, points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances in l-infinity, and which points lie in the sets."""
        return distance(points, x, math.inf), self.sets.contains(points.double())


def check_alone(norm: float | None, frozen_features: Tensor | None, epsilon: float | Tensor | None = None) -> None:
    """Refuse arguments of which sets of the caller's own know better."""
    for name, value in (("norm", norm), ("frozen_features", frozen_features), ("epsilon", epsilon)):
        if value is not None:
            raise InvalidInput(f"{name} must be left out with perturbation=, whose sets hold it: drop one of the two")


def check_around(region: PerturbationSet, x: Tensor) -> PerturbationSet:
    """The sets, found to be in float64 and to hold their inputs (N, *D)."""
    perturbation_set(region)
    if region.center.shape != x.shape or region.center.dtype != torch.float64:
        raise InvalidInput(
            f"perturbation must give sets in float64 around inputs of shape {tuple(x.shape)}, got "
            f"{tuple(region.center.shape)} of {region.center.dtype}: build them from x.double()"
        )
    hull = region.hull()
    outside = ~((hull.lower <= x) & (x <= hull.upper)).flatten(1).all(1)  # True for NaN
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise InvalidInput(f"perturbation must give sets that hold their inputs, but that of row {row} does not: use x")
    return region


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of a run that say nothing about the attack; as in :func:`certify.attacks.minimal_perturbation`."""

    batch_size: int = 500
    generator: Generator | None = None
    targets: Tensor | None = None
    grid: int | None = None
    first_index: int = 0
    timeout: float | None = None

    def deadline(self) -> float:
        """The moment of :func:`time.monotonic` at which the time that is allowed from now on has passed."""
        return math.inf if self.timeout is None else monotonic() + checks.positive("timeout", self.timeout)
