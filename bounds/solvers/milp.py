"""Exact bounds of networks of rectifiers: a mixed-integer programme, solved by branch and bound with proved bounds.

Every unstable neuron z is on one of two sides, and ``h = max(z, slope z)`` is one of two lines there. The rows
``h <= z + M`` and ``h <= slope z + M`` hold on both sides with their M large enough, and on its own side each holds
with M = 0. A branch is thus a right side of one linear programme, and its bound the value of checked multipliers: no
tolerance of a solver is left in it. Planes above neurons that cut off the point of a programme hold in all branches:
they join its rows (branch and cut).

References:
    Tjeng, Xiao, Tedrake (2019), Evaluating robustness of neural networks with mixed integer programming,
    arXiv:1711.07356.
"""

import heapq
import math
import time
from collections.abc import Callable, Mapping
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
from bounds.solvers.admission import followed
from bounds.solvers.affine_form import AffineForm, at_least_zero, padded, shifted
from bounds.solvers.cuts import planes_above
from bounds.solvers.encoding import Encoding, UnstableReLUs, differences_from_label, encodings

GAP = 1e-9  # between proved and reached value at which a search ends, relative to values above 1
ROOT_ROUNDS, ROUNDS = 20, 1  # of cuts, of the whole set and of each branch
WORTH = 0.3  # share of the distance of a neuron from its function that a plane has to cut off
SLOW = 1e-3  # gain of a round of cuts, relative to bounds above 1, after which there is no other
CUTS = 3  # for each neuron, after which those that bore on no bound since the last time are dropped


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
    subtracted. For about a hundred unstable neurons behind few inputs, and sixty behind many.

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
        neuron: whose sides to part next; None where none is left.
    """

    bound: float
    number: int
    sides: Tensor
    neuron: int | None


class BranchAndBound:
    """Minima of linear functions over one encoding, by best-first branch and bound with cuts.

    Args:
        encoding: of the network.
        limit: linear programmes for one minimum, at most.
        deadline: in seconds of ``time.monotonic()``, after which there are no more cuts.
    """

    def __init__(self, encoding: Encoding, limit: float, deadline: float = math.inf) -> None:
        if encoding.curved:
            raise UnsupportedLayer(
                f"exact bounds follow ReLU, leaky ReLU and PReLU with slopes in [0, 1], got {encoding.curved[0]}: use "
                f"bounds.lp_bounds"
            )
        self.encoding = encoding
        self.limit = limit
        self.deadline = deadline
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
        self.solved = 0
        self._used = nothing.bool()  # of the cuts, whether any bound rested on them

    def minima(self, rows: Tensor) -> Minimum:
        """Minima of linear functions (B, K) of the outputs, (B,) each."""
        found = [self._minimum(row) for row in rows]
        proved, reached = (rows.new_tensor([minimum[i] for minimum in found]) for i in (0, 1))
        return Minimum(proved, reached)

    def _minimum(self, row: Tensor) -> tuple[float, float]:
        """Proved and reached value of one function."""

        def value(point: Tensor) -> float:
            return float(self.encoding.value(point) @ row)

        def settled(bound: float, reached: float) -> bool:
            return bound >= reached - GAP * max(1.0, abs(reached))

        return self.minimum(self.encoding.combination(row[None]), value, settled)

    def minimum(
        self,
        form: AffineForm,
        value: Callable[[Tensor], float],
        settled: Callable[[float, float], bool],
        *,
        target: float = math.inf,
    ) -> tuple[float, float]:
        """Proved and reached value of a form of one entry.

        Args:
            form: what is to be least.
            value: of a point (V,) of the programme, as the network reaches it.
            settled: whether a proved and a reached value are enough.
            target: what is above this is high enough. Branches are then taken in depth, so that each programme is much
                like the last one, and the lowest first without.
        """
        cost, least, reached = form.matrix[:, 0], math.inf, math.inf

        self.solved = count = 0
        waiting: list[tuple[float, float, Branch]] = []  # by their order, with the bound on all of the form
        new = [(torch.zeros_like(self.places), -math.inf, ROOT_ROUNDS)]
        while True:
            for sides, known, rounds in new:
                branch, point = self._branch(cost, sides, count, known, rounds)
                count += 1
                if point is not None:
                    reached = min(reached, value(point))
                if branch.bound == math.inf:
                    continue
                bound = float(shifted(cost.new_tensor([branch.bound]), form))
                if bound > target:
                    least = min(least, bound)
                else:
                    heapq.heappush(waiting, (-float(count) if target < math.inf else bound, bound, branch))
            bound = min([least, *(bound for _, bound, _ in waiting)])
            if bound == math.inf:  # a set is not empty: where all branches seem to be, nothing is known
                return -math.inf, reached
            if self.solved + 2 > self.limit or not waiting or settled(bound, reached):
                return bound, reached
            branch = waiting[0][2]
            if branch.neuron is None:
                return bound, reached
            heapq.heappop(waiting)
            new = []
            for side in (1, -1):
                sides = branch.sides.clone()
                sides[branch.neuron] = side
                new.append((sides, branch.bound, ROUNDS))

    def _branch(
        self, cost: Tensor, sides: Tensor, number: int, known: float, rounds: int
    ) -> tuple[Branch, Tensor | None]:
        """The part in which neurons are on the given sides, and the point (V,) where the solver sees its minimum.

        Its bound is at least ``known``, infinite if it is empty.
        """
        self._drop_unused()
        costs = torch.stack([cost, torch.zeros_like(cost)])
        own = torch.cat([sides == 1, sides == -1])
        sided = torch.cat([self.base, torch.where(own, self.tight, self.loose)])
        while True:
            right = torch.cat([sided, self.programme.right[len(sided) :]])
            weights, point = self.programme.propose(cost, right)
            self.solved += 1
            self._used |= weights[len(sided) :] > 0
            bound, empty = self.programme.proved(costs, torch.stack([weights, weights]), right).tolist()
            if empty > 0:
                return Branch(math.inf, number, sides, None), None
            gain, known = bound - known, max(bound, known)
            over = rounds == 0 or self.solved >= self.limit or time.monotonic() > self.deadline
            if point is None or over or gain < SLOW * max(1.0, abs(bound)) or not self._cut(sides, weights, point):
                break
            rounds -= 1
        return Branch(known, number, sides, self._worst(sides, weights, point)), point

    def _cut(self, sides: Tensor, weights: Tensor, point: Tensor) -> bool:
        """Add planes below the heights of neurons at a point, where there are any that bear on the bound."""
        programme, start = self.programme, 0
        counts = (sides == 0) & (self._weights(weights) > 0)
        matrices, rights = [], []
        for part in self.encoding.relus:
            end = start + len(part.places)
            count = len(part.before.matrix)
            slopes, intercepts = planes_above(
                part.before, part.slope, programme.lower[:count], programme.upper[:count], point[:count]
            )
            cut_off = point[part.places] - (slopes @ point[:count] + intercepts)
            worth = counts[start:end] & (cut_off > WORTH * self._apart(part, point)) & (cut_off > GAP)
            slopes = padded(slopes[worth], len(point), 1)
            matrices.append(slopes - self.encoding.unit(part.places[worth]))
            rights.append(-intercepts[worth])
            start = end
        matrix, right = torch.cat(matrices), torch.cat(rights)
        if len(right) == 0:
            return False
        self.programme = programme.with_rows(matrix, right)
        self._used = torch.cat([self._used, torch.zeros_like(right, dtype=torch.bool)])
        return True

    def _drop_unused(self) -> None:
        """Leave out cuts on which no bound has rested since the last time, once there are many."""
        if len(self._used) <= CUTS * len(self.places):
            return
        programme, first = self.programme, len(self.base) + len(self.tight)
        keep = torch.cat([torch.ones_like(programme.right[:first], dtype=torch.bool), self._used])
        self.programme = replace(programme, matrix=programme.matrix[keep], right=programme.right[keep])
        self._used = torch.zeros_like(self._used[self._used])

    def _worst(self, sides: Tensor, weights: Tensor, point: Tensor | None) -> int | None:
        """The unstable neuron whose distance from its function, weighed by multipliers, counts most."""
        unstable = sides == 0
        if not bool(unstable.any()):
            return None
        weight = self._weights(weights)
        distance = torch.ones_like(weight)
        if point is not None:
            distance = torch.cat([self._apart(part, point) for part in self.encoding.relus])
        return int(torch.where(unstable, distance * (weight + 1e-6), -1.0).argmax())

    def _weights(self, weights: Tensor) -> Tensor:
        """The multipliers that hold each neuron down."""
        return weights.clamp(min=0) @ (-self.programme.matrix[:, self.places]).clamp(min=0)

    def _apart(self, part: UnstableReLUs, point: Tensor) -> Tensor:
        """The height of neurons above their function at a point of the programme."""
        z = point[: len(part.before.matrix)] @ part.before.matrix + part.before.offset
        return (point[part.places] - torch.maximum(z, part.slope * z)).clamp(min=0)
