r"""Bounds of domains: planes for every neuron, and multipliers for every split, ascended together.

With a multiplier :math:`\beta \ge 0`, a constraint :math:`z \le h` changes a lower bound of :math:`f(x)` to one of
:math:`f(x) + \beta (z - h)`, which is at most :math:`f(x)` wherever the constraint holds. The multiplier becomes a part
of the coefficient of z in the backward pass.

References:
    Wang et al. (2021), Beta-CROWN: efficient bound propagation with per-neuron split constraints for neural network
    robustness verification, arXiv:2103.06624, section 3.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.adam import Moments, seen
from bounds.linear.network import Network, largest
from bounds.linear.passes.backward import Backward
from bounds.linear.passes.through_functions import Propagated
from bounds.numerics import accumulated_error
from bounds.rows import DenseRows, Rows
from bounds.search.domains import Domains, regrouped
from bounds.search.neurons import gaps, spans_of
from bounds.search.problem import Problem
from bounds.sets.balls import Box, Interval, LpBall
from bounds.sets.hulls import HullOfBoxes

RATE, DECAY = 0.1, 0.98  # of the ascent, in units of what each number may be
CANDIDATES = 6  # neurons that are kept as worth a split


class Leaves(NamedTuple):
    """Numbers that an ascent moves.

    Attributes:
        weight: (N, M), see :class:`Domains`.
        multiplier: (N, total).
        parameters: of each function.
    """

    weight: Tensor
    multiplier: Tensor
    parameters: tuple[tuple[Tensor, ...], ...]

    def within(self, domains: Domains) -> Domains:
        """Domains with these numbers."""
        return replace(domains, weight=self.weight.double(), multiplier=self.multiplier, parameters=self.parameters)

    def flat(self) -> list[Tensor]:
        """All tensors."""
        return [self.weight, self.multiplier, *(part for parts in self.parameters for part in parts)]

    def with_flat(self, parts: Sequence[Tensor]) -> "Leaves":
        """Others in the same order."""
        weight, multiplier, *numbers = parts
        return Leaves(weight, multiplier, regrouped(numbers, self.parameters))


class SplitBounds:
    """Bounds of domains of one problem.

    Attributes:
        problem: what is to be proved.
        root: the network with intervals that hold in all of the box.
        spans: its functions of one variable.
        names: of the functions whose planes are chosen by an ascent, those of the spans first.
        total: number of their neurons.
    """

    def __init__(self, problem: Problem, root: Network) -> None:
        self.problem = problem
        self.root = root
        self.spans = spans_of(root)
        self.total = self.spans[-1].end if self.spans else 0
        names = [span.name for span in self.spans]
        others = (name for name, function in root.functions.items() if function.limits(*root.parents(name)))
        self.names = names + [name for name in others if name not in names and root.nodes[name].batch == 0]
        self._regions: dict[tuple[int, torch.dtype], Box | LpBall | HullOfBoxes] = {}

    def roots(self) -> Domains:
        """One domain for each unsafe set, without splits."""
        problem, count = self.problem, len(self.problem.rows)
        like = problem.rows.float()
        low = like.new_full((count, self.total), -torch.inf)
        root = self.root
        numbers = (root.functions[name].default_parameters(*root.parents(name)) for name in self.names)
        parameters = tuple(tuple(part.expand(count, *part.shape[1:]).float() for part in parts) for parts in numbers)
        return Domains(
            case=torch.arange(count, device=like.device),
            low=low,
            high=-low,
            multiplier=torch.zeros_like(low),
            weight=torch.zeros_like(problem.offsets),
            bound=torch.full_like(problem.offsets[:, 0], -torch.inf),
            choice=torch.full((count, CANDIDATES), -1, device=like.device),
            parameters=parameters,
        )

    def view(self, domains: Domains, dtype: torch.dtype = torch.float64) -> tuple[Network, Tensor]:
        """The network over N domains, with intervals of their own, and which domains are possible at all, (N,).

        In float32 it serves the search alone: rounding errors are left out.
        """
        count, root = len(domains), self.root
        sound = self.problem.sound if dtype == torch.float64 else "real"
        network = Network(self.problem.graph, self._region(count, dtype), sound=sound)
        # Layers that are merged where rounding is left out have the name of the last one.
        network.intervals = {name: _expanded(root.intervals[name], network, name) for name in network.nodes}
        possible = torch.ones(count, dtype=torch.bool, device=domains.case.device)
        for span in self.spans:
            (parent,) = network.nodes[span.name].parents
            shape = network.intervals[parent].lower.shape
            said = Interval(*(span.of(side).to(dtype).reshape(shape) for side in (domains.low, domains.high)))
            narrow = network.intervals[parent] & said
            possible &= ~(narrow.lower > narrow.upper).flatten(1).any(1)
            network.intervals[parent] = narrow
            network.intervals[span.name] &= network.range_of(span.name)
        for name in network.order if network.sound == "deployed" else ():
            network.accept(name, network.intervals[name])
        return network, possible

    def _region(self, count: int, dtype: torch.dtype) -> Box | LpBall | HullOfBoxes:
        """The inputs that are searched, as often as there are domains; a round ball in float32 without its box."""
        if (count, dtype) not in self._regions:
            box, ball = self.problem.box, self.problem.ball
            if ball is None:
                sides = (side.to(dtype).expand(count, *side.shape[1:]) for side in (box.lower, box.upper))
                self._regions[count, dtype] = Box(*sides)
            elif isinstance(ball, HullOfBoxes):
                lower, upper = (side.to(dtype).expand(count, *side.shape[1:]) for side in (ball.lower, ball.upper))
                self._regions[count, dtype] = HullOfBoxes(lower, upper, ball.radius, ball.norm)
            else:
                many = ball.rows(torch.zeros(count, dtype=torch.int64, device=ball.center.device))
                if dtype != torch.float64:
                    many = many.without_box()
                    many = replace(many, center=many.center.to(dtype), radius=many.radii.to(dtype))
                self._regions[count, dtype] = many
        return self._regions[count, dtype]

    def bounded(self, domains: Domains, steps: int) -> tuple[Domains, Tensor]:
        """The domains with their bounds, after some steps of ascent, and the inputs at which they are attained.

        Bounds include all rounding errors. Those of impossible domains are infinite. The ascent runs in float32: any
        numbers that it finds are sound.
        """
        if steps:
            quick = _Run(self, self.view(domains, torch.float32)[0], domains)
            domains = quick.ascend(quick.start(), steps).within(domains)
        network, possible = self.view(domains)
        run = _Run(self, network, domains)
        bound, slopes = run.bound(run.start(), rounded=True)
        bound = torch.where(possible, bound, torch.inf)
        corners = self.problem.corner(slopes).view(-1, *self.problem.shape)
        return replace(domains, bound=bound, choice=run.choices(corners)), corners

    def guessed(self, domains: Domains) -> Tensor:
        """Bounds (N,) without any ascent, in float32 and without rounding errors: for the choice among splits."""
        network, possible = self.view(domains, torch.float32)
        run = _Run(self, network, domains)
        bound, _ = run.bound(run.start(), rounded=False)
        return torch.where(possible, bound, torch.inf)


def _expanded(interval: Interval, network: Network, name: str) -> Interval:
    """The interval of one row for all rows of a network; what does not depend on the input has no rows."""
    value = network.nodes[name].value
    ends = (interval.lower.to(value.dtype), interval.upper.to(value.dtype))
    if network.nodes[name].batch != 0:
        return Interval(*ends)
    return Interval(*(end.expand(len(value), *end.shape[1:]) for end in ends))


class _Run:
    """Backward passes for some domains.

    Attributes:
        limits: of each of the leaves, between which it may move; None where it is free.
    """

    def __init__(self, bounds: SplitBounds, network: Network, domains: Domains) -> None:
        self.bounds = bounds
        self.network = network
        self.domains = domains
        self.backward = Backward(network)
        self.places = {name: i for i, name in enumerate(bounds.names)}
        self.planes = [network.functions[name].prepared(*network.parents(name)) for name in bounds.names]
        self.split = bool(domains.low.isfinite().any() or domains.high.isfinite().any())
        self._leaves: Leaves | None = None
        self._coefficients: dict[str, Tensor] = {}
        problem, self.dtype = bounds.problem, network.ball.center.dtype
        self.rows, self.offsets = (part[domains.case].to(self.dtype) for part in (problem.rows, problem.offsets))
        low, high = (side.to(self.dtype) for side in (domains.low, domains.high))
        self.low, self.high = low, high
        most = torch.finfo(torch.float32).max
        self.limits: list[Interval | None] = [
            None,
            Interval(torch.where(low.isfinite(), -most, 0.0), torch.where(high.isfinite(), most, 0.0)),
        ]
        for name in bounds.names:
            self.limits += network.functions[name].limits(*network.parents(name))

    def start(self) -> Leaves:
        """The numbers that the domains bring with them."""
        domains = self.domains
        parameters = tuple(tuple(part.to(self.dtype) for part in parts) for parts in domains.parameters)
        limits = self.limits[1]
        assert limits is not None
        multiplier = domains.multiplier.to(self.dtype).clamp(limits.lower, limits.upper)
        return Leaves(domains.weight.to(self.dtype), multiplier, parameters)

    def bound(self, leaves: Leaves, *, rounded: bool) -> tuple[Tensor, Tensor]:
        """The bound (N,) of each domain, and the slopes (N, F) behind it."""
        self._leaves = leaves
        value = self.network.nodes["output"].value
        share = leaves.weight.softmax(1)[:, :, None]
        rows = (share * self.rows).sum(1, keepdim=True)
        start = DenseRows(rows.unflatten(2, value.shape[1:]))
        least, slopes = self.backward.bounds_with_slopes("output", start, choose=self.propagated, rounded=rounded)
        offset = (share[..., 0] * self.offsets).sum(1)
        found = least[:, 0] - offset
        if rounded:  # of the weighted sums, and of this difference
            reach = largest(self.network.intervals["output"]).reshape(len(value), -1)
            size = ((share * self.rows.abs()).sum(1) * reach).sum(1)
            size = size + (share[..., 0] * self.offsets.abs()).sum(1) + found.abs()
            found = found - accumulated_error(2 * self.rows.shape[1] + 8, found.dtype) * size
        return found, slopes[:, 0]

    def propagated(self, name: str, rows: Rows, rounded: bool) -> Propagated:
        """The way of rows through a function: with planes and multipliers of the domains."""
        backward = self.backward
        self._coefficients[name] = rows.values.detach()
        if name not in self.places:
            return backward.through_planes(name, rows, backward.default_planes(name).at(rows), rounded)
        leaves, place = self._leaves, self.places[name]
        assert leaves is not None
        planes = self.planes[place](leaves.parameters[place]).at(rows)
        if not self.split or place >= len(self.bounds.spans):
            return backward.through_planes(name, rows, planes, rounded)
        span = self.bounds.spans[place]
        parent = self.network.parents(name)[0].lower.shape
        shift = span.of(leaves.multiplier)
        point = torch.where(shift > 0, span.of(self.high), span.of(self.low))
        lost = (shift * torch.where(point.isfinite(), point, 0.0)).flatten(1)  # where nothing is said, the shift is 0
        found = backward.through_planes(name, rows, planes, rounded, shift=shift.reshape(parent))
        error = found.rounding_error
        if error is not None:
            error = error + accumulated_error(lost.shape[1] + 8, lost.dtype) * lost.abs().sum(1, keepdim=True)
        return found._replace(constant=found.constant - lost.sum(1, keepdim=True), rounding_error=error)

    def ascend(self, leaves: Leaves, steps: int) -> Leaves:
        """The best numbers of each domain that some steps of ascent meet."""
        best: Tensor | None = None
        record = leaves
        moments = [Moments.of(part) for part in leaves.flat()]
        units: list[Tensor | float] = []
        for step in range(steps):
            moving = leaves.with_flat([part.detach().requires_grad_() for part in leaves.flat()])
            with torch.enable_grad():
                bound, _ = self.bound(moving, rounded=False)
                gradients = torch.autograd.grad(bound.nan_to_num(0.0, 0.0, 0.0).sum(), moving.flat(), allow_unused=True)
            bound = bound.detach()
            if best is None:
                best, units = bound, self._units()
            else:
                better = bound > best
                best = torch.where(better, bound, best)
                record = _chosen(better, leaves, record)
            decay = RATE * DECAY**step / seen(step + 1)
            moved = []
            for part, gradient, own, unit, limits in zip(
                leaves.flat(), gradients, moments, units, self.limits, strict=True
            ):
                if gradient is None:
                    moved.append(part)
                    continue
                mean, scale = own.take(gradient, step + 1)
                part = part + mean / scale.add_(1e-12) * decay * unit
                moved.append(part if limits is None else part.clamp(limits.lower, limits.upper))
            leaves = leaves.with_flat(moved)
        bound, _ = self.bound(leaves, rounded=False)
        return record if best is None else _chosen(bound > best, leaves, record)

    def _units(self) -> list[Tensor | float]:
        """The step of each of the leaves: a share of its limits, or of the coefficients that it adds to."""
        sizes = []
        for span in self.bounds.spans:
            found = self._coefficients.get(span.name)
            like = self.low[:, span.start : span.end]
            sizes.append(
                torch.zeros_like(like) if found is None else found.abs().flatten(1).amax(1, True).expand_as(like)
            )
        units: list[Tensor | float] = [1.0, torch.cat(sizes, 1) if sizes else 0.0]
        for name, parameters in zip(self.bounds.names, self.domains.parameters, strict=True):
            pace = self.network.functions[name].pace
            for limits in self.limits[len(units) : len(units) + len(parameters)]:
                assert limits is not None  # of planes, all are known
                units.append((limits.upper - limits.lower) * pace)
        return units

    def choices(self, points: Tensor) -> Tensor:
        """The neurons at which the last bound may have lost most, (N, k).

        Half of them by the largest gap between function and plane, half by the gap at the inputs (N, *D) at which the
        bound is attained.
        """
        assert self._leaves is not None
        spans, leaves = self.bounds.spans, self._leaves.parameters
        if not spans:
            return self.domains.choice
        values = self._values(points)
        scores = []
        for span, planes, parameters in zip(spans, self.planes[: len(spans)], leaves[: len(spans)], strict=True):
            coefficients = self._coefficients.get(span.name)
            if coefficients is None:
                scores.append(self.low.new_zeros(2, len(self.low), span.end - span.start))
                continue
            (parent,) = self.network.nodes[span.name].parents
            there = values[parent], values[span.name]
            scores.append(gaps(self.network, span, planes(parameters), coefficients[:, 0], there).flatten(2))
        return _best(torch.cat(scores, 2))

    def _values(self, points: Tensor) -> dict[str, Tensor]:
        """The values of all nodes at some inputs."""
        found: dict[str, Tensor] = {}
        for name, node in self.network.nodes.items():
            if node.operation == "input":
                found[name] = points.reshape(node.value.shape)
            else:
                found[name] = node.function(*(found[parent] for parent in node.parents))
        return found


def _best(scores: Tensor) -> Tensor:
    """Places (N, k) of the best of several scores (S, N, total), without repetition; -1 where no score is above 0."""
    every = torch.zeros(scores.shape[1:], device=scores.device)
    each = min(CANDIDATES // len(scores), scores.shape[2])
    for score in scores:
        best = score.topk(each, 1)
        rank = torch.arange(each, 0, -1, device=scores.device, dtype=every.dtype).expand_as(best.values)
        every.scatter_add_(1, best.indices, rank.masked_fill(~(best.values > 0), 0.0))
    best = every.topk(min(CANDIDATES, every.shape[1]), 1)
    found = best.indices.masked_fill(~(best.values > 0), -1)
    return torch.nn.functional.pad(found, (0, CANDIDATES - found.shape[1]), value=-1)


def _chosen(rows: Tensor, one: Leaves, other: Leaves) -> Leaves:
    """The leaves of one for the rows that are meant, of the other for all else."""
    pairs = zip(one.flat(), other.flat(), strict=True)
    return one.with_flat([torch.where(rows[(...,) + (None,) * (a.ndim - 1)], a, b) for a, b in pairs])
