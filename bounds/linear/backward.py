r"""One backward pass: linear functions of a node as linear functions of the input, and their minima over the set.

A lower bound of :math:`a \cdot h` for a node h is carried back to the input: through an affine node by its transpose,
through a function by the plane below or above it that the sign of the coefficient asks for. What arrives at the input
is a linear function, whose minimum over the perturbation set is known.

Upper bounds are lower bounds of :math:`-a \cdot h`. Both are carried as one row until the first function parts them.

Rounding is part of the bound: a coefficient that is off by :math:`\gamma |a| |W|` meets values of at most H, the
known bound of the node, so that :math:`\gamma |a| (|W| H + |b|)` at every node, summed up, covers it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bounds.errors import UnsupportedLayer
from bounds.linear.network import Network, largest
from bounds.linear.through_functions import Lines, Passage, through_lines, through_planes
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.operations.affine import RESHAPE
from bounds.operations.node import entries
from bounds.relaxations.base import Planes
from bounds.relaxations.relu import Rectifier
from bounds.relaxations.scalar import ScalarFunction
from bounds.rows import Dense, Rows, Units, Windows, added, mirrored
from bounds.sets.balls import Interval, LpBall, PerturbationSet
from bounds.sets.linear_minimum import OTHER_OPERATIONS, linear_minimum
from bounds.sets.moves import norm_of

# The passage of rows through a function with planes of their own: name, rows, whether rounding matters.
Choose = Callable[[str, Rows, bool], Passage]


class Backward:
    """Backward passes through a network whose intervals are known.

    Attributes:
        network: with the intervals of all nodes before the one that is bounded.
        parallel: use planes with the same slopes below and above.
        widest: entries of the widest coefficients of a row that have been met, by node that was bounded.
    """

    def __init__(self, network: Network, *, parallel: bool = False) -> None:
        self.network = network
        self.parallel = parallel
        self.widest: dict[str, int] = {}
        self._lines: dict[tuple[str, bool], Lines] = {}
        self._planes: dict[str, Planes] = {}

    def bounds(
        self,
        name: str,
        start: Rows | Units,
        region: PerturbationSet,
        *,
        both: bool = False,
        choose: Choose | None = None,
        rounded: bool = True,
        intervals: bool = False,
    ) -> Tensor:
        """Lower bounds (N, R) of linear functions of a node over a set that contains the ball.

        Args:
            name: the node.
            start: R functions for each of N inputs.
            region: the set.
            both: whether to return, after the R lower bounds, those of the opposite functions.
            choose: planes by row instead of the usual ones.
            rounded: whether to include rounding errors, if the network does at all.
            intervals: whether to end at the first functions, with the intervals of their values.
        """
        order = self.network.order
        rounded = rounded and self.network.sound != "real"
        rows: dict[str, Rows | Units] = {name: start}
        total = _Sum(2 * start.count if both else start.count, self.network.nodes[name].value)
        for current in reversed(order[: order.index(name) + 1]):
            node = self.network.nodes[current]
            if current not in rows or node.operation == "input":
                continue
            here = rows.pop(current)
            parts: tuple[Rows | Units, ...]
            if current in self.network.functions and intervals:
                middle, gain, doubt = self._in_interval(here, self.network.intervals[current])
                total.add(middle)
                total.gain(gain, doubt if rounded else torch.zeros_like(doubt))
                continue
            if current in self.network.functions:
                parts = self._through_function(current, here, total, both, choose, rounded)
            else:
                settled = current != name and self.network.settled(current)
                parts = self._through_affine(current, here, total, rounded, settled=settled)
            for parent, part in zip(node.parents, parts, strict=True):
                rows[parent] = self._joined(rows[parent], part, parent, total, rounded) if parent in rows else part
                self._measure(name, rows[parent])
        if rows:
            (last,) = rows.values()
            least = self._least(last, region, total, rounded)
        else:
            nothing = torch.zeros_like(total.constant)
            least = self._with_constants(nothing, nothing, total, rounded)
        return self.network.unless_overflowing(name, Interval(least, least)).lower if rounded else least

    def _measure(self, name: str, part: Rows | Units) -> None:
        if not isinstance(part, Units):
            self.widest[name] = max(self.widest.get(name, 0), part.width)

    def _joined(self, one: Rows | Units, other: Rows | Units, name: str, total: "_Sum", rounded: bool) -> Rows:
        """The sum of coefficients that reach a node on several ways."""
        first, second = (part.expanded() if isinstance(part, Units) else part for part in (one, other))
        if first.count < second.count:
            first = mirrored(first)
        elif second.count < first.count:
            second = mirrored(second)
        summed = added(first, second)
        if rounded:
            unit = 2 * unit_roundoff(summed.values.dtype)
            total.doubt(unit * summed.size(largest(self.network.intervals[name])))
        return summed

    # ------------------------------------------------------------------------------------------------------ nodes

    def _through_affine(
        self, name: str, rows: Rows | Units, total: "_Sum", rounded: bool, *, settled: bool
    ) -> tuple[Rows | Units, ...]:
        """Coefficients of the parents; of a settled node, constants and errors are in the functions behind it."""
        network = self.network
        node, rule = network.nodes[name], network.rules[name]
        if node.batch != 0:
            raise UnsupportedLayer(
                f"{node.operation} mixes the dimension of inputs with others, which linear bounds do not follow; it "
                f"stands at {node.origin}"
            )
        parents = tuple(network.intervals[parent].lower for parent in node.parents)
        if rule is not RESHAPE and not settled:
            start, _ = rule.at_zero(node, parents)
            total.add(rows.dot(start))
            if rounded and (error := network.rounding(name)) is not None:
                total.doubt(rows.size(error))
        parts = rule.transpose(node, rows, tuple(part.shape for part in parents))
        if parts is not None:
            return parts
        values = (rows.expanded() if isinstance(rows, Units) else rows).dense()
        _, transpose, *_ = torch.func.vjp(node.function, *(torch.zeros_like(part) for part in parents))
        # Rows come first here: a parent that the node does not depend on, as of broadcast_tensors, has no rows yet.
        return tuple(Dense(part.transpose(0, 1)) for part in torch.func.vmap(transpose, in_dims=1)(values))

    def _through_function(
        self, name: str, rows: Rows | Units, total: "_Sum", both: bool, choose: Choose | None, rounded: bool
    ) -> tuple[Rows, ...]:
        function = self.network.functions[name]
        rows = rows.expanded() if isinstance(rows, Units) else rows
        if not isinstance(function, ScalarFunction):
            rows = Dense(rows.dense())
        joint = both and rows.count < total.count  # lower and upper bound still in one row
        if choose is not None:
            rows = rows.cleaned() if isinstance(rows, Windows) else rows  # beyond the map are no planes
            passage = choose(name, mirrored(rows) if joint else rows, rounded)
        elif isinstance(function, ScalarFunction):
            passage = through_lines(rows, self.lines(name, rounded), joint=joint)
        else:
            passage = self.through_planes(name, rows, self._usual(name).at(rows), rounded, joint=joint)
        total.add(passage.constant, joint=False)
        if passage.doubt is not None:
            total.doubt(passage.doubt)
        return passage.parts

    def through_planes(self, name: str, rows: Rows, planes: Planes, rounded: bool, *, joint: bool = False) -> Passage:
        """The passage through a function with any planes; what is settled of its parent included."""
        network, function = self.network, self.network.functions[name]
        shapes = [network.nodes[parent].value.shape for parent in network.nodes[name].parents]
        reach = [rows.at(largest(parent)) for parent in network.parents(name)] if rounded else []
        passage = through_planes(function, rows, planes, shapes, joint=joint, reach=reach)
        constant, doubt = passage.constant, passage.doubt
        if doubt is not None:
            doubt = self._sum_error(name, rows.values) * doubt
            if network.sound == "deployed":
                doubt = doubt + rows.size(network.deployed_error(name))
        if (offset := self.offset(name)) is not None:
            (part,) = passage.parts
            constant = constant + part.dot(offset)
            if doubt is not None and (error := network.rounding(network.nodes[name].parents[0])) is not None:
                doubt = doubt + part.size(error)
        return Passage(passage.parts, constant, doubt)

    def lines(self, name: str, rounded: bool) -> Lines:
        """The lines of a function of one variable, the same for all rows, in front of its settled parent."""
        if (name, rounded) not in self._lines:
            planes = self._usual(name)
            (low,), (high,) = planes.lower_slopes, planes.upper_slopes
            lower, upper = planes.lower_intercept, planes.upper_intercept
            doubt = self._line_doubt(name, planes) if rounded else None
            if (offset := self.offset(name)) is not None:
                lower = low * offset if lower is None else torch.addcmul(lower, low, offset)
                upper = torch.addcmul(upper, high, offset)
            lower = torch.zeros_like(upper) if lower is None else lower
            self._lines[name, rounded] = Lines(low, None if low is high else high - low, lower, upper, doubt)
        return self._lines[name, rounded]

    def _line_doubt(self, name: str, planes: Planes) -> Tensor:
        """What rounding may change behind a function of one variable for a coefficient of size 1, entry by entry."""
        network, function, (parent,) = self.network, self.network.functions[name], self.network.parents(name)
        (low,), (high,) = planes.lower_slopes, planes.upper_slopes
        if isinstance(function, Rectifier):  # also for any slope that is chosen later
            steepest, size = function.steepest(parent), planes.upper_intercept
        else:
            steepest, size = torch.maximum(low.abs(), high.abs()), planes.upper_intercept.abs()
        if planes.lower_intercept is not None:
            size = torch.maximum(size, planes.lower_intercept.abs())
        # Constants are sums over all entries, coefficients products of their own; and so is the sum of these.
        many, few = self._sum_error(name, size), accumulated_error(32, size.dtype)
        more = 1 + 4 * many
        error = largest(parent) * few
        if (offset := self._at_zero(name)) is not None:
            size = torch.addcmul(size, steepest, offset[1])
            if (before := network.rounding(network.nodes[name].parents[0])) is not None:
                error = error + before
        doubt = torch.addcmul(size * (many * more), steepest, error, value=more)
        return doubt + more * network.deployed_error(name) if network.sound == "deployed" else doubt

    def offset(self, name: str) -> Tensor | None:
        """What the parent of a function is at zero, (N, *shape), if it is settled in its functions."""
        found = self._at_zero(name)
        return None if found is None else found[0]

    def _at_zero(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The same with the size of what is added up for it."""
        network = self.network
        parent = network.nodes[name].parents[0]
        if not network.settled(parent):
            return None
        shapes = tuple(network.intervals[before].lower for before in network.nodes[parent].parents)
        return network.rules[parent].at_zero(network.nodes[parent], shapes)

    def _sum_error(self, name: str, like: Tensor) -> float:
        """Relative rounding error of a sum over all entries of a node, and of some steps before and after."""
        return accumulated_error(entries(self.network.nodes[name].value) + 32, like.dtype)

    def _usual(self, name: str) -> Planes:
        """The planes of a function on the bounds of its parents, which are final once they are asked for."""
        if name not in self._planes:
            function, parents = self.network.functions[name], self.network.parents(name)
            self._planes[name] = function.parallel(*parents) if self.parallel else function.usual(*parents)
        return self._planes[name]

    # ------------------------------------------------------------------------------------------------------ input

    def _least(self, rows: Rows | Units, region: PerturbationSet, total: "_Sum", rounded: bool) -> Tensor:
        """Minima over the set of what has arrived at the input, with all constants and errors."""
        rows = rows.expanded() if isinstance(rows, Units) else rows
        if rows.count < total.count and not region.is_box:
            rows = mirrored(rows)
        if region.is_box:
            middle, gain, doubt = self._in_box(rows, region)
        elif isinstance(region, LpBall) and region.low is region.high is region.frozen_features is None:
            middle, gain, doubt = self._in_ball(rows, region)
        else:
            values = rows.dense()
            least = linear_minimum(values.reshape(*values.shape[:2], *region.center.shape[1:]), region)
            middle, gain, doubt = least, torch.zeros_like(least), torch.zeros_like(least)
        least = middle - gain
        if least.shape[1] < total.count:
            least = torch.cat([least, -middle - gain], 1)
            doubt = torch.cat([doubt, doubt], 1)
        return self._with_constants(least, doubt, total, rounded)

    def _with_constants(self, least: Tensor, doubt: Tensor, total: "_Sum", rounded: bool) -> Tensor:
        bound = least + total.constant
        if rounded:
            doubt = (doubt + total.error) * (1 + 1e-3)
            unit = (len(self.network.order) + 8) * unit_roundoff(bound.dtype)
            bound = bound - (doubt + unit * (least.abs() + total.sizes + doubt))
        return torch.where(bound.isnan(), -math.inf, bound)  # where a function has no line, nothing is known

    def _in_box(self, rows: Rows, region: PerturbationSet) -> tuple[Tensor, Tensor, Tensor]:
        """The value at the centre of a box, how far it falls within, and what rounding does to both."""
        hull = region.hull()
        shape = self.network.nodes[self.network.order[0]].value.shape
        return self._in_interval(rows, Interval(hull.lower.reshape(shape), hull.upper.reshape(shape)))

    def _in_interval(self, rows: Rows | Units, interval: Interval) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the interval of a node."""
        rows = rows.expanded() if isinstance(rows, Units) else rows
        center = interval.lower + (interval.upper - interval.lower) / 2
        radius = torch.maximum(interval.upper - center, center - interval.lower)
        middle = rows.dot(center)
        gain, size = rows.sums(rows.values.abs(), [radius, center.abs()]).unbind(2)
        error = 2 * accumulated_error(entries(center) + 8, center.dtype)
        return middle, gain, error * (size + gain) + torch.finfo(center.dtype).tiny * entries(center)

    def _in_ball(self, rows: Rows, region: LpBall) -> tuple[Tensor, Tensor, Tensor]:
        """The same for an l_p ball, by Hölder's inequality."""
        rows = rows.cleaned() if isinstance(rows, Windows) else rows
        center = region.center.reshape(self.network.nodes[self.network.order[0]].value.shape)
        slopes = rows.flat().abs()
        middle = rows.dot(center)
        gain = region.radii[:, None] * norm_of(slopes, region.dual_norm).squeeze(2)
        powers = OTHER_OPERATIONS if 1 < region.dual_norm < torch.inf else 8
        error = 2 * accumulated_error(slopes.shape[2] + powers, center.dtype)
        lost = 4 * torch.finfo(center.dtype).tiny * (slopes.sum(2) + slopes.shape[2])
        return middle, gain, error * (rows.size(center.abs()) + gain) + lost


class _Sum:
    """Constants and errors that have been met on the way, (N, count) each."""

    def __init__(self, count: int, like: Tensor) -> None:
        self.count = count
        self.constant = like.new_zeros(len(like), count)
        self.sizes = self.constant
        self.error = self.constant

    def add(self, value: Tensor, *, joint: bool = True) -> None:
        """Add a constant; of rows for both bounds, the opposite ones have the opposite constant."""
        if joint and value.shape[1] < self.count:
            value = torch.cat([value, -value], 1)
        self.constant = self.constant + value
        self.sizes = self.sizes + value.abs()

    def gain(self, value: Tensor, doubt: Tensor) -> None:
        """Take something away from both bounds."""
        if value.shape[1] < self.count:
            value = torch.cat([value, value], 1)
        self.add(-value)
        self.doubt(doubt)

    def doubt(self, value: Tensor) -> None:
        """Add an error, the same for both bounds."""
        if value.shape[1] < self.count:
            value = torch.cat([value, value], 1)
        self.error = self.error + value
