"""Exact bounds of networks of rectifiers: a mixed-integer programme, solved by branch and bound with proved bounds.

Every unstable neuron z is on one of two sides, and ``h = max(z, slope z)`` is one of two lines there. The rows
``h <= z + M`` and ``h <= slope z + M`` hold on both sides with their M large enough, and on its own side each holds
with M = 0. A branch is thus a right side of one linear programme, and its bound the value of checked multipliers: no
tolerance of a solver is left in it.

References:
    Tjeng, Xiao, Tedrake (2019), Evaluating robustness of neural networks with mixed integer programming,
    arXiv:1711.07356.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.linear.margins import margin_bounds
from bounds.linear.methods import crown
from bounds.numerics import ieee_arithmetic, unit_roundoff
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.sets.balls import Interval, PerturbationSet
from bounds.solvers.affine_form import at_least_zero, shifted
from bounds.solvers.encoding import Encoding, differences_from_label, encodings, followed

GAP = 1e-9  # between proved and reached value at which a search ends, relative to values above 1


class Range(NamedTuple):
    """Both sides of the range of outputs, (N, K) each.

    Attributes:
        outer: proved, no output lies outside.
        inner: between outputs that the network takes in the set, up to rounding.
    """

    outer: Interval
    inner: Interval


class Minimum(NamedTuple):
    """Both sides of a minimum.

    Attributes:
        proved: no value lies below.
        reached: a value that the network takes in the set, up to rounding.
    """

    proved: Tensor
    reached: Tensor


@isolated
@ieee_arithmetic()
@torch.no_grad()
def milp_bounds(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    tighten: bool = True,
    limit: int = 10_000,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
) -> Range:
    """The range of the outputs of a network of rectifiers, exact up to 1e-9 unless the search stops early.

    The outer bounds hold for every input of the ball, for the network in evaluation mode and in real arithmetic,
    wherever the search stops: each branch is bounded by multipliers that are evaluated anew, with rounding errors
    subtracted. For about sixty unstable neurons; each few of them more double the time.

    Args:
        model: maps (N, *D) to (N, K), of any code that ``torch.export`` follows, of affine operations and ReLU, leaky
            ReLU or PReLU with slopes in [0, 1]; or its captured graph.
        ball: N perturbation sets in float64, an :class:`LpBall` of norm 1 or infinity or a :class:`Box`.
        tighten: bounds in front of neurons by linear programmes, as in :func:`bounds.lp_bounds`.
        limit: linear programmes for one bound, at most; the bound is then as far as the search has come.
        table: affine operations, :data:`bounds.operations.AFFINE` or a copy with more.
        functions: makers of the functions of other operations, :data:`bounds.FUNCTIONS` or a copy with more.

    Raises:
        UnsupportedLayer: another function, or an operation without a rule, with its place in the source code.
        InvalidInput: another set or dtype, a network that is too large.
    """
    checks.at_least("limit", limit, 1)
    graph = followed(model, ball)
    outer = crown(graph, ball, table=table, functions=functions)
    inner = Interval(outer.upper.clone(), outer.lower.clone())
    rows = torch.eye(outer.lower.shape[1], dtype=torch.float64, device=outer.lower.device)
    for i, encoding in enumerate(encodings(graph, ball, tighten, Tables(table, functions))):
        search = BranchAndBound(encoding, limit)
        least, most = search.minima(rows), search.minima(-rows)
        outer.lower[i] = torch.maximum(outer.lower[i], least.proved)
        outer.upper[i] = torch.minimum(outer.upper[i], -most.proved)
        inner.lower[i], inner.upper[i] = least.reached, -most.reached
    return Range(outer, inner)


@isolated
@ieee_arithmetic()
@torch.no_grad()
def milp_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    *,
    tighten: bool = True,
    limit: int = 10_000,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
) -> Minimum:
    """The minima (N, K) of ``logit_label - logit_k``, exact up to 1e-9 unless the search stops early; 0 at the label.

    A row whose proved values are above 0 off the label is a proof, one with a reached value below 0 a refutation. Same
    guarantee, conditions and errors as :func:`milp_bounds`.
    """
    checks.at_least("limit", limit, 1)
    graph = followed(model, ball)
    proved = margin_bounds(graph, ball, labels, "crown", table=table, functions=functions)
    reached = torch.zeros_like(proved)
    for i, encoding in enumerate(encodings(graph, ball, tighten, Tables(table, functions))):
        others, rows = differences_from_label(proved[i], int(labels[i]))
        found = BranchAndBound(encoding, limit).minima(rows)
        proved[i, others] = torch.maximum(proved[i, others], found.proved)
        reached[i, others] = found.reached
    return Minimum(proved, reached)


class Branch(NamedTuple):
    """A part of the search.

    Attributes:
        bound: proved lower bound on the linear part of the form.
        number: of its creation, which breaks ties.
        sides: (J,) of neurons, 1 where ``h = z``, -1 where ``h = slope z``, 0 where unstable.
        weights: (R,) multipliers of the solver.
        point: (V,) where it sees the minimum; None where it found none.
    """

    bound: float
    number: int
    sides: Tensor
    weights: Tensor
    point: Tensor | None


class BranchAndBound:
    """Minima of linear functions of the outputs over one encoding, by best-first branch and bound."""

    def __init__(self, encoding: Encoding, limit: int) -> None:
        if encoding.curved:
            raise UnsupportedLayer(
                f"exact bounds follow ReLU, leaky ReLU and PReLU with slopes in [0, 1], got {encoding.curved[0]}: use "
                f"bounds.lp_bounds"
            )
        self.encoding = encoding
        self.limit = limit
        base, parts = encoding.programme(), encoding.relus
        nothing = base.lower.new_zeros(0)
        self.places = torch.cat([nothing.long(), *(part.places for part in parts)])
        matrices, tight, large = [base.matrix], [nothing], [nothing]
        for side in (1, -1):
            for part in parts:
                end = part.interval.upper if side < 0 else -part.interval.lower
                line = part.slope if side < 0 else torch.ones_like(part.slope)
                above = encoding.apart(part.places, part.before, line, torch.zeros_like(line))
                matrix, right = at_least_zero(above.negated())
                matrices.append(matrix)
                tight.append(right)
                large.append((1 - part.slope) * end)
        self.base, self.tight = base.right, torch.cat(tight)
        room = torch.cat(large) + 4 * unit_roundoff(nothing.dtype) * (torch.cat(large) + self.tight.abs())
        self.loose = self.tight - room
        self.programme = replace(base, matrix=torch.cat(matrices), right=torch.cat([self.base, self.loose]))

    def minima(self, rows: Tensor) -> Minimum:
        """Minima of linear functions (B, K) of the outputs, (B,) each."""
        found = [self._minimum(row) for row in rows]
        proved, reached = (rows.new_tensor([minimum[i] for minimum in found]) for i in (0, 1))
        return Minimum(proved, reached)

    def _minimum(self, row: Tensor) -> tuple[float, float]:
        """Proved and reached value of one function."""
        form = self.encoding.combination(row[None])
        cost, reached = form.matrix[:, 0], math.inf
        heap = [self._branch(cost, torch.zeros_like(self.places), 0, -math.inf)]
        count = 1
        while True:
            branch = heap[0]  # with the lowest bound, so that this is a bound on everything that remains
            if branch.point is not None:
                reached = min(reached, float(self.encoding.value(branch.point) @ row))
            bound = float(shifted(cost.new_tensor([branch.bound]), form))
            neuron = self._worst(branch)
            if count + 2 > self.limit or neuron is None or bound >= reached - GAP * max(1.0, abs(reached)):
                return bound, reached
            heapq.heappop(heap)
            for side in (1, -1):
                sides = branch.sides.clone()
                sides[neuron] = side
                child = self._branch(cost, sides, count, branch.bound)
                count += 1
                if child.bound < math.inf:
                    heapq.heappush(heap, child)

    def _branch(self, cost: Tensor, sides: Tensor, number: int, known: float) -> Branch:
        """The part in which neurons are on the given sides, with a bound of at least ``known``, infinite if empty."""
        own = torch.cat([sides == 1, sides == -1])
        right = torch.cat([self.base, torch.where(own, self.tight, self.loose)])
        weights, point = self.programme.propose(cost, right)
        costs = torch.stack([cost, torch.zeros_like(cost)])
        bound, empty = self.programme.proved(costs, torch.stack([weights, weights]), right).tolist()
        return Branch(math.inf if empty > 0 else max(bound, known), number, sides, weights, point)

    def _worst(self, branch: Branch) -> int | None:
        """The unstable neuron whose distance from its function, weighed by multipliers, counts most."""
        unstable = branch.sides == 0
        if not bool(unstable.any()):
            return None
        weight = branch.weights.clamp(min=0) @ (-self.programme.matrix[:, self.places]).clamp(min=0)
        distance = torch.ones_like(weight) if branch.point is None else self._distances(branch.point)
        return int(torch.where(unstable, distance * (weight + 1e-6), -1.0).argmax())

    def _distances(self, point: Tensor) -> Tensor:
        """The height of neurons above their function at a point of the programme."""
        distances = []
        for part in self.encoding.relus:
            z = point[: len(part.before.matrix)] @ part.before.matrix + part.before.offset
            distances.append(point[part.places] - torch.maximum(z, part.slope * z))
        return torch.cat(distances).clamp(min=0)
