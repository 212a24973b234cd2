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
from dataclasses import replace

import torch
from torch import Tensor

from bounds.balls import Interval, LpBall
from bounds.coefficients import Dense, Rows, Units, Windows, added, mirrored
from bounds.concretize import OTHER_OPERATIONS, PerturbationSet, linear_minimum, norm_of
from bounds.errors import UnsupportedLayer
from bounds.graph import entries
from bounds.network import Network, is_box, largest
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.operations import RESHAPE
from bounds.relaxations import NodeFunction, Planes, ScalarFunction

Choose = Callable[[str, NodeFunction, Rows], Planes]  # planes for the rows that arrive at a function


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
        count = start.index.shape[1] if isinstance(start, Units) else start.values.shape[1]
        total = _Sum(2 * count if both else count, self.network.nodes[name].value)
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
                parts = self._through_affine(current, here, total, rounded)
            for parent, part in zip(node.parents, parts, strict=True):
                rows[parent] = self._joined(rows[parent], part, parent, total, rounded) if parent in rows else part
                self._measure(name, rows[parent])
        if not rows:
            return self._with_constants(
                torch.zeros_like(total.constant), torch.zeros_like(total.constant), total, rounded
            )
        (last,) = rows.values()
        return self._least(last, region, total, rounded)

    def _measure(self, name: str, part: Rows | Units) -> None:
        if not isinstance(part, Units):
            self.widest[name] = max(self.widest.get(name, 0), part.values.shape[2:].numel())

    def _joined(self, one: Rows | Units, other: Rows | Units, name: str, total: "_Sum", rounded: bool) -> Rows:
        """The sum of coefficients that reach a node on several ways."""
        first, second = (part.expanded() if isinstance(part, Units) else part for part in (one, other))
        if first.values.shape[1] < second.values.shape[1]:
            first = mirrored(first)
        elif second.values.shape[1] < first.values.shape[1]:
            second = mirrored(second)
        summed = added(first, second)
        if rounded:
            unit = 2 * unit_roundoff(summed.values.dtype)
            total.doubt(unit * summed.size(largest(self.network.intervals[name])))
        return summed

    # ------------------------------------------------------------------------------------------------------ nodes

    def _through_affine(self, name: str, rows: Rows | Units, total: "_Sum", rounded: bool) -> tuple[Rows | Units, ...]:
        network = self.network
        node, rule = network.nodes[name], network.rules[name]
        if node.batch != 0:
            raise UnsupportedLayer(
                f"{node.operation} mixes the dimension of inputs with others, which linear bounds do not follow; it "
                f"stands at {node.origin}"
            )
        parents = tuple(network.intervals[parent].lower for parent in node.parents)
        if rule is not RESHAPE:
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
        network = self.network
        function, node = network.functions[name], network.nodes[name]
        rows = rows.expanded() if isinstance(rows, Units) else rows
        if not isinstance(function, ScalarFunction):
            rows = Dense(rows.dense())
        joint = both and rows.values.shape[1] < total.count  # lower and upper bound still in one row
        if choose is not None:
            rows = rows.cleaned() if isinstance(rows, Windows) else rows  # beyond the map are no planes
            rows, joint = (mirrored(rows) if joint else rows), False
            planes = choose(name, function, rows)
        else:
            planes = _at_rows(self._usual(name), rows)
        values, below = rows.values, rows.values.clamp(max=0)
        gap = planes.upper_intercept
        if planes.lower_intercept is not None:
            gap = gap - planes.lower_intercept
        lower = _total(below, gap)
        upper = lower - _total(values, planes.upper_intercept) if joint else None
        if planes.lower_intercept is not None:
            lower = lower + _total(values, planes.lower_intercept)
        total.add(lower if upper is None else torch.cat([lower, upper], 1), joint=False)
        if rounded:
            self._doubt(name, rows, planes, total)
        parts = []
        shapes = [network.nodes[parent].value.shape for parent in node.parents]
        over, under = function.aligned(values), function.aligned(below)
        for shape, low, high in zip(shapes, planes.lower_slopes, planes.upper_slopes, strict=True):
            if low is high:
                part = over * low
            else:
                bent = under * (high - low)
                part = bent + over * low
                if joint:
                    part = torch.cat([part, bent - over * high], 1)
            parts.append(rows.with_values(function.reduced(part, shape)))
        # Slopes beyond the map are 0, or the coefficients were before.
        return tuple(replace(part, clean=True) if isinstance(part, Windows) else part for part in parts)

    def _doubt(self, name: str, rows: Rows, planes: Planes, total: "_Sum") -> None:
        """What rounding may do behind a function: in its coefficients, its constant, and its values where deployed."""
        network, function = self.network, self.network.functions[name]
        size = planes.upper_intercept.abs()
        if planes.lower_intercept is not None:
            size = torch.maximum(size, planes.lower_intercept.abs())
        absolute = rows.values.abs()
        doubt = _total(absolute, size)
        aligned = function.aligned(absolute)
        for parent, low, high in zip(network.parents(name), planes.lower_slopes, planes.upper_slopes, strict=True):
            steepest = low.abs() if low is high else torch.maximum(low.abs(), high.abs())
            doubt = doubt + _total(aligned, steepest * rows.at(largest(parent)))
        terms = entries(network.nodes[name].value) + 32
        doubt = accumulated_error(terms, absolute.dtype) * doubt
        if network.sound == "deployed":
            doubt = doubt + _total(absolute, rows.at(network.deployed_error(name)))
        total.doubt(doubt)

    def _usual(self, name: str) -> Planes:
        """The planes of a function on the bounds of its parents, which are final once they are asked for."""
        if name not in self._planes:
            function, parents = self.network.functions[name], self.network.parents(name)
            usual = function.parallel(*parents) if self.parallel else function.planes(function.free(*parents), *parents)
            self._planes[name] = usual
        return self._planes[name]

    # ------------------------------------------------------------------------------------------------------ input

    def _least(self, rows: Rows | Units, region: PerturbationSet, total: "_Sum", rounded: bool) -> Tensor:
        """Minima over the set of what has arrived at the input, with all constants and errors."""
        rows = rows.expanded() if isinstance(rows, Units) else rows
        if rows.values.shape[1] < total.count and not is_box(region):
            rows = mirrored(rows)
        if is_box(region):
            middle, gain, doubt = self._in_box(rows, region)
        elif isinstance(region, LpBall) and region.low is None and region.high is None:
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
        center = interval.lower + (interval.upper - interval.lower) / 2
        radius = torch.maximum(interval.upper - center, center - interval.lower)
        middle, gain = rows.dot(center), rows.size(radius)
        error = 2 * accumulated_error(entries(center) + 8, center.dtype)
        return middle, gain, error * (rows.size(center.abs()) + gain) + torch.finfo(center.dtype).tiny * entries(center)

    def _in_ball(self, rows: Rows, region: LpBall) -> tuple[Tensor, Tensor, Tensor]:
        """The same for an l_p ball, by Hölder's inequality."""
        rows = rows.cleaned() if isinstance(rows, Windows) else rows
        center = region.center.reshape(self.network.nodes[self.network.order[0]].value.shape)
        slopes = rows.values.flatten(2).abs()
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


def _at_rows(planes: Planes, rows: Rows) -> Planes:
    """The planes where the rows stand."""
    low = tuple(rows.at(slope) for slope in planes.lower_slopes)
    same = all(a is b for a, b in zip(planes.lower_slopes, planes.upper_slopes, strict=True))
    high = low if same else tuple(rows.at(slope) for slope in planes.upper_slopes)
    constant = None if planes.lower_intercept is None else rows.at(planes.lower_intercept)
    return Planes(low, constant, high, rows.at(planes.upper_intercept))


def _total(values: Tensor, x: Tensor) -> Tensor:
    """Sums (N, R) of products over all entries; x has one row for all, or one for each."""
    if x.shape[1] == 1 and x.shape[2:] == values.shape[2:]:
        values, x = (part.reshape(*part.shape[:2], -1) for part in (values, x))  # a node may be one number
        return torch.matmul(values, x.transpose(1, 2)).squeeze(2)
    products = values * x
    return products.reshape(*products.shape[:2], -1).sum(2)
