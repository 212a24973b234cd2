r"""One backward pass: linear functions of a node as linear functions of the input, and their minima over the set.

A lower bound of :math:`a \cdot h` for a node h is carried back to the input: through an affine node by its transpose,
through a function by the plane below or above it that the sign of the coefficient asks for. What arrives at the input
is a linear function, whose minimum over the perturbation set is known.

Upper bounds are lower bounds of :math:`-a \cdot h`. Both are carried as one row until the first function parts them.

Rounding is part of the bound: a coefficient that is off by :math:`\gamma |a| |W|` meets values of at most H, the
known bound of the node, so that :math:`\gamma |a| (|W| H + |b|)` at every node, summed up, covers it.
"""

import math
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from bounds.errors import UnsupportedLayer
from bounds.linear.passes.minima import minima_in_windows, minima_over_boxes
from bounds.linear.passes.through_functions import Through, through_lines, through_windows
from bounds.numerics import accumulated_error, underflow, unit_roundoff
from bounds.operations.affine import RESHAPE
from bounds.operations.node import Node, entries
from bounds.relaxations.pooled import PooledMaximum
from bounds.relaxations.scalar import ScalarFunction
from bounds.rows import AnyRows, DenseRows, Rows, UnitRows, added, mirrored
from bounds.sets.balls import Interval, LpBall, PerturbationSet, SparseBall
from bounds.sets.hulls import HullOfBoxes
from bounds.sets.linear_minimum import OTHER_OPERATIONS, linear_minimum
from bounds.sets.moves import norm_of

if TYPE_CHECKING:
    from bounds.linear.passes.backward import Backward


class Pass:
    """One pass from a node to the input; arguments as in :meth:`bounds.linear.passes.backward.Backward.bounds`.

    Attributes:
        total: constants and errors that have been met on the way.
        arrived: coefficients of the input at the end of the pass; None where the network does not depend on it.
    """

    def __init__(
        self,
        shared: "Backward",
        name: str,
        start: AnyRows,
        region: PerturbationSet,
        *,
        both: bool,
        choose: Through | None,
        rounded: bool,
        depth: int | None,
    ) -> None:
        self.shared = shared
        self.name = name
        self.start = start
        self.region = region
        self.both = both
        self.choose = choose
        self.rounded = rounded and shared.network.sound != "real"
        self.depth = depth
        self.arrived: Rows | None = None
        count = 2 * start.count if both else start.count
        value = shared.network.nodes[name].value
        self.total = _Sum(value.new_zeros(shared.copies * len(value), count), rounded=self.rounded)

    def least(self) -> Tensor:
        """Lower bounds (N, R), followed by those of the opposite functions where both are wanted."""
        network = self.shared.network
        rows: dict[str, AnyRows] = {self.name: self.start}
        behind = {self.name: 0}  # functions that coefficients have come through, on the longest way
        for current in reversed(network.order[: network.order.index(self.name) + 1]):
            node = network.nodes[current]
            if current not in rows or node.operation == "input":
                continue
            here = rows.pop(current)
            if current in network.functions and behind[current] == self.depth:
                self._end_at(current, here.expanded())
                continue
            passed = behind[current] + (current in network.functions)
            for parent, part in zip(node.parents, self._through(current, here), strict=True):
                behind[parent] = max(passed, behind.get(parent, 0))
                rows[parent] = self._joined(rows[parent], part, parent) if parent in rows else part
                self._measure(rows[parent])
        if rows:
            (last,) = rows.values()
            self.arrived = last.expanded()
            least = self._at_input(self.arrived)
        else:
            least = self._with_constants(torch.zeros_like(self.total.constant))
        return network.unless_overflowing(self.name, Interval(least, least)).lower if self.rounded else least

    def constant(self) -> Tensor:
        """Constants (N, R), less errors, of the linear functions that have arrived at the input; after the pass."""
        return self._with_constants(torch.zeros_like(self.total.constant))

    def _measure(self, part: AnyRows) -> None:
        if not isinstance(part, UnitRows):
            self.shared.widest[self.name] = max(self.shared.widest.get(self.name, 0), part.held)

    def _joined(self, one: AnyRows, other: AnyRows, name: str) -> Rows:
        """The sum of coefficients that reach a node on several ways."""
        first, second = one.expanded(), other.expanded()
        if first.count < second.count:
            first = mirrored(first)
        elif second.count < first.count:
            second = mirrored(second)
        summed = added(first, second)
        if self.rounded:
            unit = 2 * unit_roundoff(summed.values.dtype)
            self.total.add_error(unit * summed.size(self.shared.reach(name)))
        return summed

    # ------------------------------------------------------------------------------------------------------ nodes

    def _through(self, name: str, rows: AnyRows) -> tuple[AnyRows, ...]:
        """Coefficients of the parents of a node."""
        if name in self.shared.network.functions:
            return self._through_function(name, rows.expanded())
        return self._through_affine(name, rows, folded=name != self.name and self.shared.network.folded(name))

    def _through_affine(self, name: str, rows: AnyRows, *, folded: bool) -> tuple[AnyRows, ...]:
        """Coefficients of the parents; of a folded node, constants and errors are in the functions behind it."""
        network = self.shared.network
        node, rule = network.nodes[name], network.rules[name]
        if node.batch != 0:
            raise UnsupportedLayer(
                f"{node.operation} mixes the dimension of inputs with others, which linear bounds do not follow; it "
                f"stands at {node.origin}"
            )
        parents = tuple(network.intervals[parent].lower for parent in node.parents)
        if rule is not RESHAPE and not folded:
            start, _ = rule.at_zero(node, parents)
            self.total.add(rows.dot(start if self.shared.copies == 1 else start[:1]))
            if self.rounded and (error := self.shared.rounding(name)) is not None:
                self.total.add_error(rows.size(error))
        parts = rule.transpose(node, rows, tuple(part.shape for part in parents))
        if parts is not None:
            return parts
        return self._by_product(node, rows.expanded().dense(), parents)

    def _by_product(self, node: Node, values: Tensor, parents: tuple[Tensor, ...]) -> tuple[DenseRows, ...]:
        """Coefficients of the parents by the vector-Jacobian product, which serves every affine operation."""
        copies, count = self.shared.copies, len(node.value)
        values = values.expand(copies * count, *values.shape[1:])  # a row for all inputs, as one for each
        values = values.unflatten(0, (copies, count)).movedim(2, 1)  # rows of all passes, of the same inputs
        _, transpose, *_ = torch.func.vjp(node.function, *(torch.zeros_like(part) for part in parents))
        # Rows come first here: a parent that the node does not depend on, as of broadcast_tensors, has no rows yet.
        moved = torch.func.vmap(transpose)(values.flatten(0, 1))
        return tuple(DenseRows(part.unflatten(0, (copies, -1)).movedim(2, 1).flatten(0, 1)) for part in moved)

    def _through_function(self, name: str, rows: Rows) -> tuple[Rows, ...]:
        function = self.shared.network.functions[name]
        shared = isinstance(function, PooledMaximum) and self.choose is None
        if not (shared or isinstance(function, ScalarFunction)):
            rows = DenseRows(rows.dense())
        if self.choose is not None or not isinstance(function, ScalarFunction):
            rows = rows.of_each(len(self.total.constant))
        joint = self.both and rows.count < self.total.count  # lower and upper bound still in one row
        if self.choose is not None:
            rows = rows.cleaned()  # beyond the map are no planes
            propagated = self.choose(name, mirrored(rows) if joint else rows, self.rounded)
        elif isinstance(function, ScalarFunction):
            constant = self._of_layer(name, joint=joint)
            propagated = through_lines(rows, self.shared.lines(name, self.rounded), joint=joint, constant=constant)
        elif isinstance(function, PooledMaximum):
            lines, (parent,) = self.shared.window_lines(name, self.rounded), self.shared.network.parents(name)
            shape = tuple(parent.lower.shape[1:])
            propagated = through_windows(rows, lines, function.windows.geometry, shape, joint=joint)
        else:
            planes = self.shared.default_planes(name).at(rows)
            propagated = self.shared.through_planes(name, rows, planes, self.rounded, joint=joint)
        self.total.add(propagated.constant, joint=False)
        if propagated.rounding_error is not None:
            self.total.add_error(propagated.rounding_error)
        return propagated.parts

    def _of_layer(self, name: str, *, joint: bool) -> Tensor | None:
        """Constants (N, R) behind a function right before the layer whose entries are bounded; None elsewhere."""
        network, (parent, *others) = self.shared.network, self.shared.network.nodes[self.name].parents or ("",)
        rule = network.rules.get(self.name)
        if rule is None or rule.product is None or others or torch.is_grad_enabled():
            return None
        if not isinstance(self.start, UnitRows) or network.nodes[self.name].single is not None:
            return None
        while network.rules.get(parent) is RESHAPE and len(network.nodes[parent].parents) == 1:
            (parent,) = network.nodes[parent].parents
        if parent != name:
            return None
        below, opposite = self.shared.layer_constants(name, self.name, self.rounded)
        least = self.start.dot(below)
        return torch.cat([least, self.start.dot(opposite)], 1) if joint else least

    def _end_at(self, name: str, rows: Rows) -> None:
        """End at a function, with the interval of its values."""
        interval = self.shared.network.intervals[name]
        middle, gain = _in_interval(rows, *halves(interval, rounded=self.rounded), rounded=self.rounded)
        self.total.add(middle)
        self.total.gain(gain)

    # ------------------------------------------------------------------------------------------------------ input

    def _at_input(self, rows: Rows) -> Tensor:
        """Minima over the set of what has arrived at the input, with all constants and errors."""
        region, network = self.region, self.shared.network
        shape = torch.Size([len(region.center), *network.nodes[network.order[0]].value.shape[1:]])
        joint = rows.count < self.total.count
        if region.is_box:
            ends = self.shared.halves(region, rounded=self.rounded)
            middle, gain = _in_interval(rows, *ends, rounded=self.rounded)
        elif isinstance(region, HullOfBoxes):
            boxes = self.shared.halves_of_boxes(region, rounded=self.rounded)
            return self._with_constants(minima_over_boxes(rows, region, boxes, joint=joint, rounded=self.rounded))
        elif isinstance(region, LpBall) and region.low is region.high is None:
            middle, gain = _in_ball(rows, region, shape, rounded=self.rounded)
        elif _is_own(region) and not (torch.is_grad_enabled() and rows.values.requires_grad):
            hull = network.hull_of(region)
            return self._with_constants(minima_in_windows(rows, region, hull, joint=joint, rounded=self.rounded))
        else:
            values = (mirrored(rows) if joint else rows).dense()
            values = values.expand(len(region.center), *values.shape[1:])
            middle = linear_minimum(values.reshape(*values.shape[:2], *region.center.shape[1:]), region)
            gain = torch.zeros_like(middle)
        least = middle - gain
        if least.shape[1] < self.total.count:
            least = torch.cat([least, -middle - gain], 1)
        return self._with_constants(least)

    def _with_constants(self, least: Tensor) -> Tensor:
        bound = least + self.total.constant
        if self.rounded:
            rounding_error = self.total.error * (1 + 1e-3)
            unit = (len(self.shared.network.order) + 8) * unit_roundoff(bound.dtype)
            bound = bound - (rounding_error + unit * (least.abs() + self.total.sizes + rounding_error))
        # Where a function has no line, nothing is known.
        return bound.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def _is_own(region: PerturbationSet) -> TypeGuard[LpBall | SparseBall]:
    """Whether a set is one of these: one derived from it may ask for all entries of the input."""
    return type(region) in (LpBall, SparseBall)


def halves(interval: Interval, *, rounded: bool) -> tuple[Tensor, Tensor]:
    """The centre of an interval and how far it reaches from there; with the rounding errors of sums over both."""
    center = interval.lower + (interval.upper - interval.lower) / 2
    radius = torch.maximum(interval.upper - center, center - interval.lower)
    if not rounded:
        return center, radius
    error = 2 * accumulated_error(entries(center) + 12, center.dtype)
    return center, torch.add(radius, radius + center.abs(), alpha=error)


def _in_interval(rows: Rows, center: Tensor, reach: Tensor, *, rounded: bool) -> tuple[Tensor, Tensor]:
    """The value at the centre of an interval, and how far it falls within."""
    gain = rows.size(reach)
    return rows.dot(center), gain + underflow(center.dtype) * entries(center) if rounded else gain


def _in_ball(rows: Rows, region: LpBall, shape: torch.Size, *, rounded: bool) -> tuple[Tensor, Tensor]:
    """The value at the centre of an l_p ball, and the fall by Hölder's inequality; with the errors of both."""
    rows = rows.cleaned()
    center = region.center.reshape(shape)
    moving = rows
    if region.frozen_features is not None:
        free = ~region.frozen_features.to(center.device).expand(region.center.shape[1:])
        moving = rows.scaled(free.reshape(1, *shape[1:]).to(center.dtype))
    slopes = moving.flat().abs()
    middle = rows.dot(center)
    gain = region.radii[:, None] * norm_of(slopes, region.dual_norm).squeeze(2)
    if not rounded:
        return middle, gain
    powers = OTHER_OPERATIONS if 1 < region.dual_norm < torch.inf else 8
    error = 2 * accumulated_error(slopes.shape[2] + powers, center.dtype)
    lost = 4 * underflow(center.dtype) * (slopes.sum(2) + slopes.shape[2])
    return middle, gain + (error * (rows.size(center.abs()) + gain) + lost)


class _Sum:
    """Constants and errors that have been met on the way, (N, count) each."""

    def __init__(self, zeros: Tensor, *, rounded: bool) -> None:
        self.count = zeros.shape[1]
        self.rounded = rounded
        self.constant = self.sizes = self.error = zeros

    def add(self, value: Tensor, *, joint: bool = True) -> None:
        """Add a constant; of rows for both bounds, the opposite ones have the opposite constant."""
        if joint and value.shape[1] < self.count:
            value = torch.cat([value, -value], 1)
        self.constant = self.constant + value
        if self.rounded:
            self.sizes = self.sizes + value.abs()

    def gain(self, value: Tensor) -> None:
        """Take something away from both bounds."""
        if value.shape[1] < self.count:
            value = torch.cat([value, value], 1)
        self.add(-value)

    def add_error(self, value: Tensor) -> None:
        """Add an error, the same for both bounds."""
        if value.shape[1] < self.count:
            value = torch.cat([value, value], 1)
        self.error = self.error + value
