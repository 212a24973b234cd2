"""Parameters of planes, chosen anew for every row that is bounded (alpha-CROWN).

A bound holds for every choice, so any ascent will do; what counts is the best value that each row has reached. Each
row climbs on its own: those that no longer gain, or have reached their target, are set aside.

References:
    Xu et al. (2021), Fast and complete: enabling complete verification with rapid and massively parallel incomplete
    verifiers, arXiv:2011.13824, section 3.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.adam import Moments, seen
from bounds.linear.passes.backward import Backward
from bounds.linear.passes.through_functions import Propagated, through_unstable
from bounds.relaxations.base import Planes
from bounds.relaxations.relu import ReLURelaxation
from bounds.rows import DenseRows, Rows, UnitRows, wanted_first
from bounds.sets.balls import Interval, PerturbationSet

RATE, DECAY = 0.1, 0.98  # of the ascent
PATIENCE = 8  # steps after which a row has to have gained something
LEAST_GAIN = 1e-3  # in that many steps, of its distance from the value at the centre


class _Places(NamedTuple):
    """The entries at which a function has parameters: few if it is linear at the others, else all.

    Attributes:
        planes: as a function of the parameters there.
        where: these entries are among the coefficients of a row; None for all.
        slope: (N, *shape) of the node, that of the function at the other entries; None if there are none.
    """

    planes: Callable[[tuple[Tensor, ...]], Planes]
    where: Tensor | None = None
    slope: Tensor | None = None


class Parameters:
    """The planes of every function for given rows, with parameters to be chosen.

    Attributes:
        values: of each function, (N, R, k) at k entries, or (N, R, *shape) at all.
        limits: between which they are of use.
        paces: of each function.
    """

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._places: dict[str, _Places] = {}
        self.values: dict[str, list[Tensor]] = {}
        self.limits: dict[str, list[Interval]] = {}
        self.paces: dict[str, float] = {}

    def propagated(self, name: str, rows: Rows, rounded: bool) -> Propagated:
        """The way of rows through a function; at the first call, with the default planes."""
        backward = self._backward
        if name not in self._places:
            with torch.no_grad():
                self._prepare(name, rows)
        place = self._places[name]
        planes = place.planes(tuple(rows.grouped(number) for number in self.values[name]))
        if place.where is None or place.slope is None:
            return backward.through_planes(name, rows, planes, rounded)
        propagated = through_unstable(rows, place.slope, place.where, planes, backward.offset(name))
        if not rounded:
            return propagated
        return propagated._replace(rounding_error=rows.size(backward.line_error(name)))

    def _prepare(self, name: str, rows: Rows) -> None:
        network = self._backward.network
        function = network.functions[name]
        parents = [Interval(rows.at(part.lower), rows.at(part.upper)) for part in network.parents(name)]
        if isinstance(function, ReLURelaxation):
            first = rows.values.ndim + 1 - network.nodes[name].value.ndim
            unstable = _flat(function.unstable(*parents)[0], first)
            count = self.values[name][0].shape[2] if name in self.values else int(unstable.sum(-1).max())
            # Rows with fewer unstable entries have others counted in, where all planes are the function itself.
            index = wanted_first(unstable, count)
            ends = [[_flat(end, first).gather(-1, index) for end in (part.lower, part.upper)] for part in parents]
            parents = [Interval(*pair) for pair in ends]
            slope = self._backward.lines(name, rounded=False).slope
            self._places[name] = _Places(function.prepared(*parents), index, slope)
        else:
            self._places[name] = _Places(function.prepared(*parents))
        if name not in self.values:
            self.values[name] = [rows.by_row(number).clone() for number in function.default_parameters(*parents)]
        if name not in self.limits:
            limits = function.limits(*parents)
            self.limits[name] = [Interval(rows.by_row(part.lower), rows.by_row(part.upper)) for part in limits]
            self.paces[name] = function.pace

    def leaves(self) -> list[Tensor]:
        """All parameters, of which gradients are wanted."""
        return [number.requires_grad_() for numbers in self.values.values() for number in numbers]

    def chosen(self, rows: Tensor) -> "Parameters":
        """The parameters of some rows (N, R'), given by their places."""
        part = Parameters(self._backward)
        part.values = {name: [_rows(number, rows) for number in numbers] for name, numbers in self.values.items()}
        return part


def optimized(
    backward: Backward,
    name: str,
    start: DenseRows | UnitRows,
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
        steps: of ascent, from the default planes.
        both: whether to return the bounds of the opposite functions as well.
        target: a row whose bounds are above it is done.
    """
    count = start.count
    parameters = Parameters(backward)
    with torch.no_grad():
        best = backward.bounds(name, start, region, both=both, choose=parameters.propagated, rounded=False)
    if not any(number.numel() for numbers in parameters.values.values() for number in numbers):  # nothing is parameters
        return backward.bounds(name, start, region, both=both)
    record = {key: [number.clone() for number in numbers] for key, numbers in parameters.values.items()}
    middle = start.dot(backward.network.nodes[name].value)
    middle = torch.cat([middle, -middle], 1) if both else middle
    every = torch.arange(count, device=best.device).expand(len(best), -1)
    active, here, reached, ascent = every, start, best.clone(), _Ascent()
    climbing = torch.ones_like(best, dtype=torch.bool)
    for step in range(steps):
        leaves = parameters.leaves()
        with torch.enable_grad():
            bound = backward.bounds(name, here, region, both=both, choose=parameters.propagated, rounded=False)
            gradients = torch.autograd.grad(bound.nan_to_num(0.0, 0.0, 0.0).sum(), leaves, allow_unused=True)
        sides = torch.cat([active, active + count], 1) if both else active
        # Rows that have ended may go on as company of others; what they would gain depends on the batch.
        counted = bound.detach().masked_fill(~climbing.gather(1, sides), -math.inf)
        _keep_best(best, record, counted, parameters, sides)
        ascent.step(parameters, gradients)
        if (step + 1) % PATIENCE == 0 and step + 1 < steps:
            gained = best - reached > LEAST_GAIN * (middle - reached)
            climbing = climbing & gained & ~(best > target)
            reached = best.clone()
            if both:
                climbing = (climbing[:, :count] | climbing[:, count:]).repeat(1, 2)
            still, parameters, ascent = _still(climbing, active, parameters, ascent, count if both else None)
            if still.shape[1] == 0:
                break
            if still is not active:
                active, here = still, _picked(start, still)
    final = Parameters(backward)
    final.values = record
    with torch.no_grad():
        last = backward.bounds(name, start, region, both=both, choose=final.propagated)
    return last


class _Ascent:
    """Adam's steps upward, for parameters that keep within their limits."""

    def __init__(self) -> None:
        self.count = 0
        self.moments: list[Moments] = []

    @torch.no_grad()
    def step(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Move all parameters along their gradients."""
        numbers = [
            (value, limits, RATE * parameters.paces[key])
            for key, values in parameters.values.items()
            for value, limits in zip(values, parameters.limits[key], strict=True)
        ]
        if not self.moments:
            self.moments = [Moments.of(number) for number, _, _ in numbers]
        self.count += 1
        decay = DECAY ** (self.count - 1) / seen(self.count)
        for (number, limits, rate), moments, gradient in zip(numbers, self.moments, gradients, strict=True):
            number.requires_grad_(False)
            if gradient is None:
                continue
            mean, scale = moments.take(gradient, self.count)
            step = mean / scale.add_(1e-12) * (rate * decay)
            number.add_(step * (limits.upper - limits.lower)).clamp_(limits.lower, limits.upper)

    def chosen(self, rows: Tensor) -> "_Ascent":
        """The state of some rows."""
        part = _Ascent()
        part.count = self.count
        part.moments = [Moments(_rows(each.mean, rows), _rows(each.square, rows)) for each in self.moments]
        return part


def _keep_best(
    best: Tensor, record: dict[str, list[Tensor]], bound: Tensor, parameters: Parameters, sides: Tensor
) -> None:
    """Remember the best bound of each row, and the parameters that gave it."""
    old = best.gather(1, sides)
    better = bound > old
    best.scatter_(1, sides, torch.where(better, bound, old))
    for key, numbers in parameters.values.items():
        for kept, number in zip(record[key], numbers, strict=True):
            shape = (...,) + (None,) * (number.ndim - 2)
            index = sides[shape].expand(-1, -1, *number.shape[2:])
            kept.scatter_(1, index, torch.where(better[shape], number.detach(), kept.gather(1, index)))


def _still(
    climbing: Tensor, active: Tensor, parameters: Parameters, ascent: _Ascent, count: int | None
) -> tuple[Tensor, Parameters, _Ascent]:
    """The rows that go on; all of them as long as more than half of the work would remain."""
    here = climbing.gather(1, active)
    most = int(here.sum(1).max()) if here.numel() else 0
    if most > active.shape[1] // 2:
        return active, parameters, ascent
    kept = wanted_first(here, most)
    sides = kept if count is None else torch.cat([kept, kept + active.shape[1]], 1)
    return active.gather(1, kept), parameters.chosen(sides), ascent.chosen(sides)


def _picked(start: DenseRows | UnitRows, rows: Tensor) -> DenseRows | UnitRows:
    if isinstance(start, UnitRows):
        return UnitRows(start.index.gather(1, rows), start.shape, start.like)
    return DenseRows(_rows(start.values, rows))


def _flat(x: Tensor, first: int) -> Tensor:
    return x.reshape(*x.shape[:first], -1)  # a node may be one number


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Some rows (N, R') of (N, R, *shape)."""
    index = rows[(...,) + (None,) * (values.ndim - 2)].expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)
