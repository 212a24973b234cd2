"""Backward passes through a network, and what they share: lines around functions, offsets and rounding errors."""

import math

import torch
from torch import Tensor

from bounds.linear.network import Network, largest
from bounds.linear.passes.backward_pass import Pass, halves
from bounds.linear.passes.through_functions import Propagated, SharedLines, Through, through_planes
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.operations.node import entries
from bounds.relaxations.base import Planes
from bounds.relaxations.relu import ReLURelaxation
from bounds.rows import AnyRows, Rows
from bounds.sets.balls import Interval, PerturbationSet
from bounds.sets.hulls import HullOfBoxes


class Backward:
    """Backward passes through a network whose intervals are known.

    Attributes:
        network: with the intervals of all nodes before the one that is bounded.
        parallel: use planes with the same slopes below and above.
        widest: entries that are held for the widest row that has been met, by node that was bounded.
        copies: passes that are made at once, each of all inputs of the network.
        region: the sets of all these inputs.
    """

    copies: int = 1

    def __init__(self, network: Network, *, parallel: bool = False) -> None:
        self.network = network
        self.parallel = parallel
        self.region = network.ball
        self.widest: dict[str, int] = {}
        self._lines: dict[tuple[str, bool], SharedLines] = {}
        self._layer_constants: dict[tuple[str, str, bool], tuple[Tensor, Tensor]] = {}
        self._line_errors: dict[str, Tensor] = {}
        self._planes: dict[str, Planes] = {}

    def bounds(
        self,
        name: str,
        start: AnyRows,
        region: PerturbationSet,
        *,
        both: bool = False,
        choose: Through | None = None,
        rounded: bool = True,
        intervals: bool = False,
        depth: int | None = None,
    ) -> Tensor:
        """Lower bounds (N, R) of linear functions of a node over a set that contains the ball.

        Args:
            name: the node.
            start: R functions for each of N inputs.
            region: the set.
            both: whether to return, after the R lower bounds, those of the opposite functions.
            choose: planes by row instead of the default ones.
            rounded: whether to include rounding errors, if the network does at all.
            intervals: whether to end at the first functions, with the intervals of their values.
            depth: functions to go through before ending so; None for all.
        """
        depth = 0 if intervals else depth
        run = Pass(self, name, start, region, both=both, choose=choose, rounded=rounded, depth=depth)
        return run.least()

    def bounds_with_slopes(
        self, name: str, start: AnyRows, *, choose: Through | None = None, rounded: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Lower bounds (N, R) over the set, and the slopes (N, R, F) of the linear function behind each.

        For every x of the set, the functions are at least ``bound + slope @ x`` less the minimum of ``slope @ x``.
        """
        region = self.network.ball
        run = Pass(self, name, start, region, both=False, choose=choose, rounded=rounded, depth=None)
        least = run.least()
        if run.arrived is None:
            return least, least.new_zeros(*least.shape, entries(region.center))
        return least, run.arrived.dense().flatten(2)

    def forms(self, name: str, start: AnyRows) -> tuple[Tensor, Tensor]:
        """Linear functions of the input below R functions of a node on the set: slopes (N, R, F), constants (N, R).

        The constants are those that the pass has met, not differences from a minimum over the set: so they hold for
        every set, whatever is known of its points. Where nothing is known they are minus infinity.
        """
        run = Pass(self, name, start, self.network.ball, both=False, choose=None, rounded=True, depth=None)
        least = run.least()
        constant = run.constant()
        constant = torch.where((least < math.inf) & (constant < math.inf) & (least > -math.inf), constant, -math.inf)
        if run.arrived is None:
            return constant.new_zeros(*constant.shape, entries(self.network.ball.center)), constant
        slopes = run.arrived.dense().flatten(2).expand(len(constant), -1, -1)
        return slopes, torch.where(slopes.isfinite().all(2), constant, -math.inf)

    def through_planes(
        self,
        name: str,
        rows: Rows,
        planes: Planes,
        rounded: bool,
        *,
        joint: bool = False,
        shift: Tensor | None = None,
    ) -> Propagated:
        """The way through a function with any planes; what is folded of its parent included.

        A shift (N, *shape) is added to the coefficients of the only parent: multipliers of constraints on its values.
        It comes before the parent's offset is counted, whose product with the shift would be lost otherwise.
        """
        network, function = self.network, self.network.functions[name]
        shapes = [network.nodes[parent].value.shape for parent in network.nodes[name].parents]
        reach = [rows.at(largest(parent)) for parent in network.parents(name)] if rounded else []
        propagated = through_planes(function, rows, planes, shapes, joint=joint, reach=reach)
        constant, rounding_error = propagated.constant, propagated.rounding_error
        if rounding_error is not None:
            rounding_error = self._sum_error(name, rows.values) * rounding_error
            if network.sound == "deployed":
                rounding_error = rounding_error + rows.size(network.deployed_error(name))
        parts = propagated.parts
        if shift is not None:
            parts = (parts[0].with_values(parts[0].values + rows.at(shift), clean=True),)
            if rounding_error is not None:
                rounding_error = rounding_error + 2 * unit_roundoff(shift.dtype) * parts[0].size(
                    largest(network.parents(name)[0])
                )
        if (offset := self.offset(name)) is not None:
            (part,) = parts
            constant = constant + part.dot(offset)
            if rounding_error is not None and (error := network.rounding(network.nodes[name].parents[0])) is not None:
                rounding_error = rounding_error + part.size(error)
        return Propagated(parts, constant, rounding_error)

    def halves(self, region: PerturbationSet, *, rounded: bool) -> tuple[Tensor, Tensor]:
        """Centre and reach of a set that is a box, shaped like the input; those of the last set are kept."""
        last = self.network.halves.get(rounded)
        if last is None or last[0] is not region:
            last = self.network.halves[rounded] = region, halves(self.network.hull_of(region), rounded=rounded)
        return last[1]

    def halves_of_boxes(self, region: HullOfBoxes, *, rounded: bool) -> tuple[Tensor, Tensor]:
        """Centres and reach (N, V, *shape) of the boxes of a hull; those of the last set are kept."""
        last = self.network.halves.get(rounded)
        if last is None or last[0] is not region:
            shape = self.network.nodes[self.network.order[0]].value.shape[1:]
            boxes = Interval(*(side.reshape(-1, *shape) for side in (region.lower, region.upper)))
            found = halves(boxes, rounded=rounded)
            count = region.lower.shape[:2]
            last = self.network.halves[rounded] = region, (found[0].unflatten(0, count), found[1].unflatten(0, count))
        return last[1]

    def lines(self, name: str, rounded: bool) -> SharedLines:
        """The lines of a function of one variable, the same for all rows, in front of its folded parent."""
        if (name, rounded) not in self._lines:
            planes = self.default_planes(name)
            (low,), (high,) = planes.lower_slopes, planes.upper_slopes
            lower, upper = planes.lower_intercept, planes.upper_intercept
            if (offset := self.offset(name)) is not None:
                lower = low * offset if lower is None else torch.addcmul(lower, low, offset)
                upper = torch.addcmul(upper, high, offset)
            lower = torch.zeros_like(upper) if lower is None else lower
            if rounded:  # a+ (lower - d) + a- (upper + d) takes |a| d away
                error = self.line_error(name)
                lower, upper = lower - error, upper + error
            self._lines[name, rounded] = SharedLines(low, None if low is high else high - low, lower, upper)
        return self._lines[name, rounded]

    def layer_constants(self, name: str, layer: str, rounded: bool) -> tuple[Tensor, Tensor]:
        """Constants (N, *shape) of the entries of a layer, and of their opposites, behind lines before the layer.

        As products of the layer they cost a forward pass, where sums over rows of coefficients cost one for each row.
        """
        key = name, layer, rounded
        if key not in self._layer_constants:
            node, lines, product = (
                self.network.nodes[layer],
                self.lines(name, rounded),
                self.network.rules[layer].product,
            )
            assert product is not None
            shape = self.network.nodes[node.parents[0]].value.shape[1:]
            ends, gap = (part.reshape(-1, *shape) for part in (torch.cat([lines.lower, lines.upper]), lines.gap))
            weight: Tensor = node.arguments[1]
            lower, upper = product(node, ends, weight).chunk(2)
            bent = product(node, gap, node.cached("below", lambda: weight.clamp(max=0)))
            self._layer_constants[key] = lower + bent, bent - upper
        return self._layer_constants[key]

    def window_lines(self, name: str, rounded: bool) -> SharedLines:
        """The planes of a maximum over windows, the same for all rows; slopes have a channel for each place."""
        if (name, rounded) not in self._lines:
            function, planes = self.network.functions[name], self.default_planes(name)
            (low,), (high,) = planes.lower_slopes, planes.upper_slopes
            lower, upper = planes.lower_intercept, planes.upper_intercept
            assert lower is not None
            if rounded:  # as in lines()
                (parent,), places = self.network.parents(name), low.shape[-1]
                size = torch.maximum(lower.abs(), upper.abs())
                size = size + (torch.maximum(low.abs(), high.abs()) * function.beside(largest(parent))).sum(-1)
                error = size * self._sum_error(name, size, places)
                if self.network.sound == "deployed":
                    error = error + self.network.deployed_error(name)
                lower = lower - error
                upper = upper + error
            low, rise = (part.permute(0, 4, 1, 2, 3).flatten(1, 2) for part in (low, high - low))
            self._lines[name, rounded] = SharedLines(low, rise, lower, upper)
        return self._lines[name, rounded]

    def rounding(self, name: str) -> Tensor | None:
        """The rounding error in the value of an affine node, see :meth:`bounds.linear.network.Network.rounding`."""
        return self.network.rounding(name)

    def reach(self, name: str) -> Tensor:
        """The largest absolute values of a node."""
        return largest(self.network.intervals[name])

    def line_error(self, name: str) -> Tensor:
        """The rounding error behind a function of one variable for a coefficient of size 1, entry by entry."""
        if name not in self._line_errors:
            self._line_errors[name] = self._line_error(name, self.default_planes(name))
        return self._line_errors[name]

    def _line_error(self, name: str, planes: Planes) -> Tensor:
        network, function, (parent,) = self.network, self.network.functions[name], self.network.parents(name)
        (low,), (high,) = planes.lower_slopes, planes.upper_slopes
        if isinstance(function, ReLURelaxation):  # also for any slope that is chosen later
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
        rounding_error = torch.addcmul(size * (many * more), steepest, error, value=more)
        return rounding_error + more * network.deployed_error(name) if network.sound == "deployed" else rounding_error

    def offset(self, name: str) -> Tensor | None:
        """The value at zero (N, *shape) of the parent of a function, if it is folded into its functions."""
        found = self._at_zero(name)
        return None if found is None else found[0]

    def _at_zero(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The value at zero of a folded parent, and the size of what is added up for it."""
        network = self.network
        parent = network.nodes[name].parents[0]
        if not network.folded(parent):
            return None
        shapes = tuple(network.intervals[before].lower for before in network.nodes[parent].parents)
        return network.rules[parent].at_zero(network.nodes[parent], shapes)

    def _sum_error(self, name: str, like: Tensor, more: int = 0) -> float:
        """Rounding error of a sum over all entries of a node, and of some steps before and after, for sizes of 1.

        A coefficient below 0 meets the lower constant, and the difference of both: three times the larger one at most.
        """
        return 3 * accumulated_error(entries(self.network.nodes[name].value) + 32 + more, like.dtype)

    def default_planes(self, name: str) -> Planes:
        """The planes of a function on the bounds of its parents, which are final once they are asked for."""
        if name not in self._planes:
            self._planes[name] = self.network.planes(name, parallel=self.parallel)
        return self._planes[name]
