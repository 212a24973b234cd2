"""Free numbers of planes, chosen anew for every row that is bounded (alpha-CROWN).

A bound holds for every choice, so any ascent will do; what counts is the best value that each row has reached. Each
row climbs on its own: those that no longer gain, or have reached their target, are set aside.

References:
    Xu et al. (2021), Fast and complete: enabling complete verification with rapid and massively parallel incomplete
    verifiers, arXiv:2011.13824, section 3.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bounds.backward import Backward
from bounds.balls import Interval
from bounds.coefficients import Dense, Rows, Units
from bounds.concretize import PerturbationSet
from bounds.relaxations import NodeFunction, Planes

RATE, DECAY = 0.1, 0.98  # of the ascent
PATIENCE = 8  # steps after which a row has to have gained something
LEAST_GAIN = 1e-4  # of its bound, in that many steps


class FreeNumbers:
    """The planes of every function for given rows, with free numbers to be chosen.

    Attributes:
        values: of each function, (N, R, *shape) each.
        limits: between which they are of use.
        paces: of each function.
    """

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._prepared: dict[str, Callable[[tuple[Tensor, ...]], Planes]] = {}
        self.values: dict[str, list[Tensor]] = {}
        self.limits: dict[str, tuple[Interval, ...]] = {}
        self.paces: dict[str, float] = {}

    def planes(self, name: str, function: NodeFunction, rows: Rows) -> Planes:
        """Planes for the rows; at the first call, the usual ones."""
        if name not in self._prepared:
            parents = [
                Interval(rows.at(part.lower), rows.at(part.upper)) for part in self._backward.network.parents(name)
            ]
            with torch.no_grad():
                self._prepared[name] = function.prepared(*parents)
                if name not in self.values:
                    count = rows.values.shape[1]
                    start = (number.expand(-1, count, *number.shape[2:]) for number in function.free(*parents))
                    self.values[name] = [number.clone() for number in start]
                if name not in self.limits:
                    self.limits[name] = function.limits(*parents)
                    self.paces[name] = function.pace
        return self._prepared[name](tuple(self.values[name]))

    def leaves(self) -> list[Tensor]:
        """All free numbers, of which gradients are wanted."""
        return [number.requires_grad_() for numbers in self.values.values() for number in numbers]

    def chosen(self, rows: Tensor) -> "FreeNumbers":
        """Those of some rows (N, R'), given by their places."""
        part = FreeNumbers(self._backward)
        part.values = {name: [_rows(number, rows) for number in numbers] for name, numbers in self.values.items()}
        return part


def optimized(
    backward: Backward,
    name: str,
    start: Dense | Units,
    region: PerturbationSet,
    *,
    steps: int,
    both: bool,
    target: float = math.inf,
) -> Tensor:
    """Like :meth:`Backward.bounds`, with the best of all planes met in some steps of ascent; each row its own.

    Args:
        backward: passes through a network.
        name: the node.
        start: R functions for each of N inputs.
        region: the set.
        steps: of ascent, from the usual planes.
        both: whether to return the bounds of the opposite functions as well.
        target: a row whose bounds are above it is done.
    """
    count = start.index.shape[1] if isinstance(start, Units) else start.values.shape[1]
    free = FreeNumbers(backward)
    with torch.no_grad():
        best = backward.bounds(name, start, region, both=both, choose=free.planes, rounded=False)
    if not free.values:  # nothing is free
        return backward.bounds(name, start, region, both=both)
    record = {key: [number.clone() for number in numbers] for key, numbers in free.values.items()}
    every = torch.arange(count, device=best.device).expand(len(best), -1)
    active, reached, ascent = every, best.clone(), _Ascent()
    for step in range(steps):
        leaves = free.leaves()
        with torch.enable_grad():
            bound = backward.bounds(name, _picked(start, active), region, both=both, choose=free.planes, rounded=False)
            gradients = torch.autograd.grad(bound.nan_to_num(0.0, 0.0, 0.0).sum(), leaves, allow_unused=True)
        sides = torch.cat([active, active + count], 1) if both else active
        _keep_best(best, record, bound.detach(), free, sides)
        ascent.step(free, gradients)
        if (step + 1) % PATIENCE == 0 and step + 1 < steps:
            gained = best - reached > LEAST_GAIN * reached.abs().clamp(min=1e-12)
            climbing = gained & ~(best > target)
            reached = best.clone()
            if both:
                climbing = climbing[:, :count] | climbing[:, count:]
            active, free, ascent = _still(climbing, active, free, ascent, count if both else None)
            if active.shape[1] == 0:
                break
    final = FreeNumbers(backward)
    final.values = record
    with torch.no_grad():
        last = backward.bounds(name, start, region, both=both, choose=final.planes)
    return last


class _Ascent:
    """Adam's steps upward, for free numbers that keep within their limits."""

    def __init__(self) -> None:
        self.count = 0
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    @torch.no_grad()
    def step(self, free: FreeNumbers, gradients: Sequence[Tensor | None]) -> None:
        """Move all free numbers along their gradients."""
        numbers = [
            (value, limits, RATE * free.paces[key])
            for key, values in free.values.items()
            for value, limits in zip(values, free.limits[key], strict=True)
        ]
        if not self.means:
            self.means = [torch.zeros_like(number) for number, _, _ in numbers]
            self.squares = [torch.zeros_like(number) for number, _, _ in numbers]
        self.count += 1
        decay = DECAY ** (self.count - 1) / (1 - 0.9**self.count)
        for i, ((number, limits, rate), gradient) in enumerate(zip(numbers, gradients, strict=True)):
            number.requires_grad_(False)
            if gradient is None:
                continue
            self.means[i].lerp_(gradient, 0.1)
            self.squares[i].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (self.squares[i] / (1 - 0.999**self.count)).sqrt_().add_(1e-12)
            step = self.means[i] / scale * (rate * decay)
            number.add_(step * (limits.upper - limits.lower)).clamp_(limits.lower, limits.upper)

    def chosen(self, rows: Tensor) -> "_Ascent":
        """The state of some rows."""
        part = _Ascent()
        part.count = self.count
        part.means = [_rows(number, rows) for number in self.means]
        part.squares = [_rows(number, rows) for number in self.squares]
        return part


def _keep_best(best: Tensor, record: dict[str, list[Tensor]], bound: Tensor, free: FreeNumbers, sides: Tensor) -> None:
    """Where a row has come higher than before, remember how high and how."""
    old = best.gather(1, sides)
    better = bound > old
    best.scatter_(1, sides, torch.where(better, bound, old))
    for key, numbers in free.values.items():
        for kept, number in zip(record[key], numbers, strict=True):
            shape = (...,) + (None,) * (number.ndim - 2)
            index = sides[shape].expand(-1, -1, *number.shape[2:])
            kept.scatter_(1, index, torch.where(better[shape], number.detach(), kept.gather(1, index)))


def _still(
    climbing: Tensor, active: Tensor, free: FreeNumbers, ascent: _Ascent, count: int | None
) -> tuple[Tensor, FreeNumbers, _Ascent]:
    """The rows that go on; all of them as long as more than half of the work would remain."""
    here = climbing.gather(1, active)
    most = int(here.sum(1).max()) if here.numel() else 0
    if most > active.shape[1] // 2:
        return active, free, ascent
    kept = here.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    sides = kept if count is None else torch.cat([kept, kept + active.shape[1]], 1)
    return active.gather(1, kept), free.chosen(sides), ascent.chosen(sides)


def _picked(start: Dense | Units, rows: Tensor) -> Dense | Units:
    if isinstance(start, Units):
        return Units(start.index.gather(1, rows), start.shape, start.like)
    return Dense(_rows(start.values, rows))


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Some rows (N, R') of (N, R, *shape)."""
    index = rows[(...,) + (None,) * (values.ndim - 2)].expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)
