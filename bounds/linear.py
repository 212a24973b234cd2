r"""Backward linear bounds (CROWN, DeepPoly) of any captured network.

A lower bound of :math:`a \cdot h` for a node h is carried back to the input: through an affine node by its transpose,
through a scalar function by the line below or above it that the sign of the coefficient asks for. What arrives at the
input is a linear function, whose minimum over the perturbation set is known. The lines need bounds of the nodes before
the functions; these come from intervals, and for :func:`crown` from the same procedure wherever the sign is open.

Rounding is part of the bound: a coefficient that is off by :math:`\gamma |a| |W|` meets values of at most H, the
known bound of the node, so that :math:`\gamma |a| (|W| H + |b|)` at every node, summed up, covers it.

References:
    Zhang et al. (2018), Efficient neural network robustness certification with general activation functions,
    arXiv:1811.00866; Singh et al. (2019), An abstract domain for certifying neural networks, POPL.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.balls import Interval, LpBall
from bounds.concretize import Box, PerturbationSet, linear_minimum
from bounds.errors import UnsupportedLayer
from bounds.graph import Graph, Node, capture, entries
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.operations import AFFINE, Affine, affine
from bounds.relaxations import Lines, ScalarFunction
from bounds.scalars import is_open, scalar

MEMORY = 2**28  # bytes of the coefficients of one node in one backward pass


def crown(model: nn.Module | Graph, ball: PerturbationSet, *, table: Mapping[str, Affine] = AFFINE) -> Interval:
    """Linear bounds on the outputs of a network over a ball, never looser than its intervals.

    Holds for every input of the ball, for the network in evaluation mode and in real arithmetic. Computed in the dtype
    of ``ball.center``, float64 at best, with its rounding errors included. Conditions: IEEE arithmetic, no TF32, no
    autocast.

    Args:
        model: maps (N, *D) to (N, K), of any code that ``torch.export`` follows; or its captured graph.
        ball: N perturbation sets: :class:`LpBall`, :class:`Box` or :class:`SparseBall`.
        table: affine operations, :data:`bounds.operations.AFFINE` or a copy with more.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: an operation without a rule, with its place in the source code.
    """
    return Propagation.of(model, ball, table, tighten=True).output()


def crown_ibp(model: nn.Module | Graph, ball: PerturbationSet, *, table: Mapping[str, Affine] = AFFINE) -> Interval:
    """Like :func:`crown`, with intervals alone in front of every function: one backward pass, cheaper and looser.

    References:
        Zhang et al. (2020), Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316.
    """
    return Propagation.of(model, ball, table, tighten=False).output()


def linear_margins(
    model: nn.Module | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    *,
    tighten: bool,
    table: Mapping[str, Affine] = AFFINE,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k``, with the difference folded into the network; 0 at the label."""
    propagation = Propagation.of(model, ball, table, tighten)
    value = propagation.nodes["output"].value
    label = checks.labels(labels, len(value), value.shape[1])
    identity = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
    rows = identity[label] - identity[:, None]  # (K, N, K)
    margins = propagation.lower("output", rows, ball).T
    return margins.scatter(1, label[:, None], 0.0)


class Propagation:
    """Bounds of all nodes of a network over a ball, in the order of evaluation.

    Attributes:
        nodes: those that depend on the input.
        intervals: bounds of each node, shaped like its value.
    """

    def __init__(self, nodes: dict[str, Node], ball: PerturbationSet, table: Mapping[str, Affine]) -> None:
        self.nodes = nodes
        self.ball = ball
        self.table = table
        self.order = list(nodes)
        self.intervals: dict[str, Interval] = {}
        self.rules: dict[str, Affine] = {}
        self.rounding: dict[str, Tensor] = {}  # of affine nodes: what it can change in their values
        self.functions: dict[str, ScalarFunction] = {}
        self.known: dict[str, Lines] = {}

    @classmethod
    def of(
        cls, model: nn.Module | Graph, ball: PerturbationSet, table: Mapping[str, Affine], tighten: bool
    ) -> "Propagation":
        """All intervals; with ``tighten``, improved by backward bounds in front of every function."""
        checks.full_precision(ball.center)
        with torch.no_grad():
            propagation = cls(capture(model, ball.center).bind(ball.center), ball, table)
            curved = {parent for node in propagation.nodes.values() for parent in propagation._needed(node)}
            straight: set[str] = set()  # nodes with no function between the input and them
            for name in propagation.order:
                propagation._forward(name)
                if name not in propagation.functions and straight.issuperset(propagation.nodes[name].parents):
                    straight.add(name)
                if name not in curved:
                    continue
                # Of an affine image of a ball that is no box, intervals know little and backward bounds all; of one
                # affine operation on a box, intervals know all.
                if name in straight and not _is_box(ball):
                    propagation._tighten(name, everywhere=True)
                elif tighten and not (name in straight and propagation._is_first(name)):
                    propagation._tighten(name, everywhere=False)
        return propagation

    def _is_first(self, name: str) -> bool:
        """Whether a node takes its data from the input itself."""
        return all(self.nodes[parent].operation == "input" for parent in self.nodes[name].parents)

    def output(self) -> Interval:
        """Linear bounds on the outputs, where intervals are not tighter."""
        value = self.nodes["output"].value
        linear = self._both("output", torch.arange(entries(value), device=value.device), self.ball)
        return linear & self.intervals["output"]

    # ----------------------------------------------------------------------------------------------------- forward

    def _needed(self, node: Node) -> tuple[str, ...]:
        """Parents whose bounds the lines of a node rest on."""
        if node.operation == "input":
            return ()
        if (rule := affine(node, self.table)) is not None:
            self.rules[node.name] = rule
            return ()
        self.functions[node.name] = scalar(node)
        return node.parents

    def _forward(self, name: str) -> None:
        """The interval of a node, from those of its parents."""
        node = self.nodes[name]
        if node.operation == "input":
            self.intervals[name] = self.ball.hull()
        elif name in self.functions:
            self.intervals[name] = self.functions[name].interval(self.intervals[node.parents[0]])
        else:
            parents = [self.intervals[parent] for parent in node.parents]
            centers = [(part.lower + part.upper) / 2 for part in parents]
            radii = [torch.maximum(p.upper - c, c - p.lower) for p, c in zip(parents, centers, strict=True)]
            rule = self.rules[name]
            self.rounding[name] = self._rounding(node, rule)
            radius = rule.spread(node, tuple(radii)) + self.rounding[name]
            center = node.function(*centers)
            lower, upper = center - radius, center + radius
            # Of an interval without an end the centre is NaN.
            ends = torch.where(lower.isnan(), -math.inf, lower), torch.where(upper.isnan(), math.inf, upper)
            self.intervals[name] = Interval(*ends)

    def _rounding(self, node: Node, rule: Affine) -> Tensor:
        """What rounding can change in the value of an affine node, at all points of the intervals of its parents."""
        reach = tuple(_largest(self.intervals[parent]) for parent in node.parents)
        start = node.function(*(torch.zeros_like(part) for part in reach))
        offset = start.abs() if rule.offset is None else rule.offset(node, start)
        error = 2 * accumulated_error(rule.terms(node, reach) + 4, node.value.dtype)
        tiny = torch.finfo(node.value.dtype).tiny
        return error * (1 + error) * (rule.spread(node, reach) + offset) + tiny

    # ---------------------------------------------------------------------------------------------------- backward

    def _tighten(self, name: str, everywhere: bool) -> None:
        """Replace an interval by linear bounds, everywhere or where a function of it is not known to be a line."""
        node, interval = self.nodes[name], self.intervals[name]
        if node.batch != 0 or node.operation == "input":
            return
        if everywhere:
            chosen = torch.arange(entries(node.value), device=node.value.device)
        else:
            open_ = torch.stack([is_open(function, interval) for function in self._consumers(name)]).any(0)
            chosen = open_.flatten(1).any(0).nonzero().squeeze(1)
        if len(chosen) == 0:
            return
        # The box of valid inputs is in the interval already, and costs much to combine with a round ball.
        better = self._both(name, chosen, _without_box(self.ball))
        lower, upper = interval.lower.flatten(1).clone(), interval.upper.flatten(1).clone()
        lower[:, chosen] = torch.maximum(lower[:, chosen], better.lower)
        upper[:, chosen] = torch.minimum(upper[:, chosen], better.upper)
        self.intervals[name] = Interval(lower.view_as(interval.lower), upper.view_as(interval.upper))

    def _consumers(self, name: str) -> list[ScalarFunction]:
        """The functions of a node."""
        return [
            self.functions[key] for key, node in self.nodes.items() if name in node.parents and key in self.functions
        ]

    def _both(self, name: str, chosen: Tensor, ball: PerturbationSet) -> Interval:
        """Linear bounds (N, R) on the entries of a node with the given places in a row."""
        value = self.nodes[name].value
        largest = max(entries(node.value) for node in self.nodes.values())
        step = max(1, MEMORY // (largest * len(value) * value.element_size() * 2))
        lower, upper = [], []
        for part in chosen.split(step):
            unit = torch.zeros(len(part), entries(value), dtype=value.dtype, device=value.device)
            unit[torch.arange(len(part), device=value.device), part] = 1
            rows = unit.view(len(part), 1, *value.shape[1:]).expand(-1, len(value), *value.shape[1:])
            bound = self.lower(name, torch.cat([rows, -rows]), ball)
            lower.append(bound[: len(part)])
            upper.append(-bound[len(part) :])
        return Interval(torch.cat(lower).T, torch.cat(upper).T)

    def lower(self, name: str, rows: Tensor, ball: PerturbationSet) -> Tensor:
        """Lower bounds (R, N) of linear functions (R, N, *shape) of a node over the ball or one that contains it."""
        coefficients = {name: rows}
        bias = rows.new_zeros(rows.shape[:2])
        doubt = torch.zeros_like(bias)
        for current in reversed(self.order[: self.order.index(name) + 1]):
            node = self.nodes[current]
            if node.operation == "input" or current not in coefficients:
                continue
            a = coefficients.pop(current)
            parts, constant, error = self._back(node, a)
            bias, doubt = bias + constant, doubt + error
            for parent, part in zip(node.parents, parts, strict=True):
                if parent in coefficients:
                    coefficients[parent] = coefficients[parent] + part
                    unit = 2 * unit_roundoff(a.dtype)
                    doubt = doubt + unit * _sum(coefficients[parent].abs() * _largest(self.intervals[parent]))
                else:
                    coefficients[parent] = part
        (last,) = coefficients.values()
        least = linear_minimum(last.transpose(0, 1), ball).T
        unit = (len(self.order) + 8) * unit_roundoff(rows.dtype)
        bound = least + bias - (doubt * (1 + 1e-3) + unit * (least.abs() + bias.abs() + doubt))
        return torch.where(bound.isnan(), -math.inf, bound)  # where a function has no line, nothing is known

    def _lines(self, node: Node) -> Lines:
        """The lines around a function on the bounds of its parent, which are final once they are asked for."""
        if node.name not in self.known:
            self.known[node.name] = self.functions[node.name].lines(self.intervals[node.parents[0]])
        return self.known[node.name]

    def _back(self, node: Node, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Coefficients of the parents, the constant (R, N), and what rounding may have done to both."""
        if node.batch != 0:
            raise UnsupportedLayer(
                f"{node.operation} mixes the dimension of inputs with others, which linear bounds do not follow; it "
                f"stands at {node.origin}"
            )
        if node.name in self.functions:
            interval, lines = self.intervals[node.parents[0]], self._lines(node)
            above, below = a.clamp(min=0), a.clamp(max=0)
            part = above * lines.lower_slope + below * lines.upper_slope
            constant = _sum(above * lines.lower_intercept + below * lines.upper_intercept)
            size = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs()) * _largest(interval)
            size = size + torch.maximum(lines.lower_intercept.abs(), lines.upper_intercept.abs())
            error = accumulated_error(entries(node.value) + 8, a.dtype) * _sum(a.abs() * size)
            return (part,), constant, error
        rule = self.rules[node.name]
        zeros = tuple(torch.zeros_like(self.nodes[parent].value) for parent in node.parents)
        start, transpose, *_ = torch.func.vjp(node.function, *zeros)
        parts = torch.func.vmap(transpose)(a)
        offset = start.abs() if rule.offset is None else rule.offset(node, start)
        summed = accumulated_error(entries(node.value) + 4, a.dtype) * _sum(a.abs() * offset)
        return parts, _sum(a * start), _sum(a.abs() * self.rounding[node.name]) + summed


def _is_box(region: PerturbationSet) -> bool:
    """Whether its entries move independently of each other, so that intervals lose nothing of it."""
    return isinstance(region, Box) or (isinstance(region, LpBall) and region.norm == math.inf)


def _without_box(region: PerturbationSet) -> PerturbationSet:
    """A set that contains it and is cheaper to find minima over."""
    if isinstance(region, LpBall) and region.norm != math.inf:
        return LpBall(region.center, region.radius, region.norm, None, None)
    return region


def _largest(interval: Interval) -> Tensor:
    return torch.maximum(interval.lower.abs(), interval.upper.abs())


def _sum(terms: Tensor) -> Tensor:
    """Sum over the entries of every row, (R, N)."""
    return terms.flatten(2).sum(2) if terms.ndim > 2 else terms
