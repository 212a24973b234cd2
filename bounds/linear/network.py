"""A captured network over a perturbation set: what each node is, its interval, and what rounding does to it."""

import math
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture
from bounds.graph.uncertain import UncertainGraph, WeightError
from bounds.linear.precision import in_double, require_float32, require_rounding
from bounds.numerics import accumulated_error, per_row, underflow, unit_roundoff
from bounds.operations.affine import RESHAPE, Affine, affine, with_more_terms
from bounds.operations.functions import Tables, function_of
from bounds.operations.layer_intervals import behind_layer
from bounds.operations.merging import with_merged_layers
from bounds.operations.node import Node, entries
from bounds.operations.pooling import with_pooling
from bounds.operations.transposes import divided, multiplied, reshaped, subtracted, summed
from bounds.relaxations.base import NodeFunction, Planes
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.piecewise import PiecewiseFunction
from bounds.relaxations.pooled import PooledMaximum
from bounds.relaxations.relu import ReLURelaxation
from bounds.relaxations.scalar import ScalarFunction
from bounds.sets.balls import Interval, PerturbationSet, perturbation_set

# What a bound speaks of, and which rounding errors it includes.
MODES = ("real", "rounding", "deployed")
BATCH_NORM = 16  # roundings behind its scale and shift, in whatever order a device takes them


class Network:
    """The nodes of a network with their rules, and intervals of their values over a perturbation set.

    Attributes:
        ball: the perturbation set, in float64 where :func:`bounds.linear.precision.in_double` says so.
        nodes: those that lead from the input to the output, in order.
        intervals: bounds of each node, shaped like its value.
        rules: of affine nodes.
        functions: of all others but the input.
        sound: which rounding errors bounds include, see :data:`MODES`.
        halves: of the last box, see :meth:`bounds.linear.passes.backward.Backward.halves`; all copies share them.

    Args:
        model: the network.
        ball: the perturbation set.
        tables: operations that a caller hands in.
        sound: as above.
        pooled: whether max pooling of maps is one function. Else it is gathered windows and their maximum, which has
            entries of its own behind it, as encodings and Lipschitz constants take it. With gradients it always is.
    """

    def __init__(
        self,
        model: Source | Graph,
        ball: PerturbationSet,
        tables: Tables = Tables(),  # noqa: B008  # frozen
        sound: str = "rounding",
        *,
        pooled: bool = True,
    ) -> None:
        perturbation_set(ball)
        checks.full_precision(ball.center)
        self.sound = checks.one_of("sound", sound, MODES)
        graph = capture(model, ball.center)
        ball = in_double(ball, sound)
        self._weights: dict[str, WeightError] = {}
        if isinstance(graph, UncertainGraph):
            require_rounding(sound, pooled=pooled)
            nodes, self._weights = graph.bind_middle(ball.center)
        else:
            nodes = graph.bind(ball.center)
        nodes = with_merged_layers(nodes) if sound == "real" else nodes
        # Ties behind rectifiers are no ties in gathered windows, whose intervals are wider: gradients find fewer kinks.
        pooled = pooled and tables.pools() and not torch.is_grad_enabled()
        self.nodes = with_pooling(nodes) if pooled else nodes
        if sound == "deployed":
            require_float32(graph, ball.center.device)
        self.ball = ball
        self.order = list(self.nodes)
        self.rules: dict[str, Affine] = {}
        self.functions: dict[str, NodeFunction] = {}
        self.intervals: dict[str, Interval] = {}
        self._errors: dict[str, Tensor] = {}
        self._overflow: dict[str, Tensor] = {}
        self._hull: list[tuple[PerturbationSet, Interval]] = []
        self.halves: dict[bool, tuple[PerturbationSet, tuple[Tensor, Tensor]]] = {}
        self._planes: dict[tuple[str, bool], tuple[list[Interval], Planes]] = {}
        self._batch_norm = graph.batch_norm
        for name, node in self.nodes.items():
            if node.operation != "input":
                rule = affine(node, tables.affine)
                units = self.constant_units(name) if sound != "real" else 0
                if rule is not None:
                    self.rules[name] = with_more_terms(rule, units) if units else rule
                elif units:
                    raise UnsupportedLayer(
                        f"{node.operation} takes a constant computed from weights, whose rounding its bound does not "
                        f"include; it stands at {node.origin}. Store the constant as a buffer, or use sound='real'"
                    )
                else:
                    self.functions[name] = function_of(node, tables.functions)
        children: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, node in self.nodes.items():
            for parent in node.parents:
                children[parent].append(name)
        self._folded = {
            name
            for name, rule in self.rules.items()
            if rule is not RESHAPE
            and children[name]
            and all(isinstance(self.functions.get(child), ScalarFunction) for child in children[name])
        }

    def without_intervals(self) -> "Network":
        """The network with intervals still to be found.

        Rounding errors are found anew too: they are those of the largest values that the intervals allow.
        """
        other = copy(self)
        other.intervals, other._overflow, other._errors = {}, {}, {}
        return other

    def parents(self, name: str) -> list[Interval]:
        """Intervals of the parents of a node."""
        return [self.intervals[parent] for parent in self.nodes[name].parents]

    def planes(self, name: str, *, parallel: bool) -> Planes:
        """The planes of a function on the bounds of its parents; those of the last bounds are kept, by all copies."""
        function, parents = self.functions[name], self.parents(name)
        key = name, parallel and type(function).parallel is not NodeFunction.parallel
        make = function.parallel if key[1] else function.default_planes
        if torch.is_grad_enabled():
            return make(*parents)
        known = self._planes.get(key)  # read at once, whatever other threads do
        if known is None or not all(one is other for one, other in zip(known[0], parents, strict=True)):
            known = self._planes[key] = parents, make(*parents)
        return known[1]

    def consumers(self, name: str) -> list[str]:
        """The functions that take a node."""
        return [key for key in self.functions if name in self.nodes[key].parents]

    def folded(self, name: str) -> bool:
        """Whether a node serves functions of one variable alone, in which its constant and errors are counted."""
        return name in self._folded

    def constant_units(self, name: str, computed: torch.dtype = torch.float64) -> int:
        """The relative error of the constants of a node, in units of its dtype or of the one they are computed in.

        Raises:
            UnsupportedLayer: there is no useful bound.
        """
        node = self.nodes[name]
        used = node.value.dtype if node.value.is_floating_point() else torch.float64
        share = unit_roundoff(computed) / unit_roundoff(used) if computed == torch.float64 else 1.0
        units = [part.units(used, computed) for part in node.constants if not part.is_exact(used)]
        return math.ceil(max(units, default=0) * share)

    # -------------------------------------------------------------------------------------------------- intervals

    def propagate(self, name: str) -> None:
        """Find the interval of a node, from those of its parents."""
        self._propagate(name)
        self.accept(name, self.intervals[name])

    def accept(self, name: str, interval: Interval) -> None:
        """Take an interval for that of a node whose parents have theirs."""
        self.intervals[name] = interval
        if self.sound == "deployed":
            self._overflow[name] = self._leaves_range(name)
            self.intervals[name] = self.unless_overflowing(name, interval)

    def _propagate(self, name: str) -> None:
        node = self.nodes[name]
        if node.operation == "input":
            self.intervals[name] = self.hull_of(self.ball)
        elif name in self.functions:
            self.intervals[name] = self.range_of(name)
        else:
            self.intervals[name] = self.affine_interval(name, self.parents(name))

    def follows(self, name: str) -> bool:
        """Whether a tighter interval of the only parent gives one that is no wider anywhere, whatever rounding does."""
        function = self.functions.get(name)
        if function is None:
            return self.rules.get(name) is RESHAPE
        return isinstance(function, ReLURelaxation) and function.negative_slope == 0

    def hull_of(self, region: PerturbationSet) -> Interval:
        """The box around a set, shaped like the input; that of the last set is kept, by all that share the nodes."""
        for known, found in self._hull[:1]:  # read at once, whatever other threads do
            if known is region:
                return found
        hull, shape = region.hull(), self.nodes[self.order[0]].value.shape[1:]
        found = Interval(*(end.reshape(len(end), *shape) for end in (hull.lower, hull.upper)))
        self._hull[:] = [(region, found)]
        return found

    def range_of(self, name: str) -> Interval:
        """The values of a function over the intervals of its parents, as the network computes them."""
        found = self.functions[name].range_of(*self.parents(name))
        if self.sound != "deployed":
            return found
        error = self.deployed_error(name, found)
        return Interval(found.lower - error, found.upper + error)

    def affine_interval(self, name: str, parents: Sequence[Interval]) -> Interval:
        """Intervals of its parents through an affine node, as centre and radius, rounded outward.

        Errors of float32 and of weights are those for all values that the network's own intervals allow.
        """
        node, rule = self.nodes[name], self.rules[name]
        if rule is RESHAPE:
            return Interval(node.function(parents[0].lower), node.function(parents[0].upper))
        error = 0.0
        if self.sound == "real":
            quick = self._without_errors(node, rule, parents)
            if quick is not None:
                return quick
        else:
            terms = rule.terms(node, tuple(part.lower for part in parents))
            error = 2 * accumulated_error(terms + 8, node.value.dtype)
        centers, radii = zip(*(part.halves(error) for part in parents), strict=True)
        center, radius = node.function(*centers), rule.moved(node, radii)
        if error:
            radius = radius + self._of_offset(node, rule, radii, error)
        if self.sound == "deployed":
            radius = radius + self.deployed_error(node.name)
        if self.has_weight_error(node.name):
            radius = radius + self.weight_error(node.name)
        found = Interval.around(center, radius, error)
        # Of an interval without an end the centre is NaN.
        lower, upper = (
            end.nan_to_num(nan=side, posinf=math.inf, neginf=-math.inf)
            for end, side in ((found.lower, -math.inf), (found.upper, math.inf))
        )
        return Interval(lower, upper)

    def _without_errors(self, node: Node, rule: Affine, parents: Sequence[Interval]) -> Interval | None:
        """Intervals behind an affine node in fewer steps, where these serve and rounding errors are left out."""
        if rule.rises(node):
            lower = node.function(*(part.lower for part in parents))
            upper = node.function(*(part.upper for part in parents))
            if len(parents) == 1:
                return Interval(lower, upper)
            # Of an end that is infinite on both sides nothing is known.
            return Interval(torch.where(lower.isnan(), -math.inf, lower), torch.where(upper.isnan(), math.inf, upper))
        if torch.is_grad_enabled() and rule.layer:
            ends = behind_layer(node, parents[0].lower, parents[0].upper)
            return None if ends is None else Interval(*ends)
        return None

    def _of_offset(self, node: Node, rule: Affine, parents: tuple[Tensor, ...], error: float) -> Tensor:
        """A relative error of what an affine node is at zero, and all that underflow may take."""

        def make() -> Tensor:
            return rule.at_zero(node, parents)[1] * error + underflow(node.value.dtype)

        found: Tensor = node.cached(f"offset times {error}", make)
        return found

    def meet(self, one: Interval, other: Interval) -> Interval:
        """The intersection of two intervals that both hold.

        In real arithmetic without rounding errors, ends may cross by these; exchanged, they hold up to them. Otherwise
        only an empty set has intervals that cross.
        """
        found = one & other
        if self.sound != "real":
            return found
        return Interval(torch.minimum(found.lower, found.upper), torch.maximum(found.lower, found.upper))

    # --------------------------------------------------------------------------------------------------- overflow

    def _leaves_range(self, name: str) -> Tensor:
        """The inputs (N,) for which float32 may overflow at a node, in any order of summation, or before it.

        Nothing is known behind an infinity: it may be NaN, which no clamp brings back. Functions may pass numbers on
        the way that are somewhat larger than what they take and give.
        """
        node, largest_number = self.nodes[name], torch.finfo(torch.float32).max
        sizes, limit = [largest(self.intervals[name])], largest_number
        reach = tuple(largest(part) for part in self.parents(name))
        if name in self.functions:
            sizes = [*sizes, *reach]
            limit = largest_number if _is_exact(self.functions[name]) else largest_number / 16
        elif name in self.rules and not self.rules[name].exact:
            sizes.append(self._deployed_size(name) * (1 + 1e-3))
        found = [self._overflow[parent] for parent in node.parents]
        for size in sizes:
            outside = ~(size <= limit)  # so is NaN
            rows = outside.flatten(1).any(1) if node.batch == 0 and outside.ndim > 1 else outside.any()
            found.append(rows.expand(len(self.ball.center)))
        return torch.stack(found).any(0)

    def unless_overflowing(self, name: str, bounds: Interval) -> Interval:
        """Bounds (N, ..) of a node, infinite for inputs that may overflow."""
        if self.sound != "deployed":
            return bounds
        lost = self._overflow[name]
        lost = per_row(lost, bounds.lower) if len(bounds.lower) == len(lost) else lost.any()
        return Interval(bounds.lower.masked_fill(lost, -math.inf), bounds.upper.masked_fill(lost, math.inf))

    # --------------------------------------------------------------------------------------------------- rounding

    def rounding(self, name: str) -> Tensor | None:
        """The rounding error in the value of an affine node, of coefficients and offset; None for nothing.

        In deployed mode also what it changes in the network itself; and what the errors of weights do.
        """
        if self.sound == "real" or self.rules[name] is RESHAPE:
            return None
        if name not in self._errors:
            node, rule = self.nodes[name], self.rules[name]
            reach = tuple(largest(part) for part in self.parents(name))
            terms = (rule.transposed_terms or rule.terms)(node, reach)
            error = 2 * accumulated_error(terms + 4, node.value.dtype)
            error = error * (1 + error)
            # The constant is a sum over all entries.
            constant = error + accumulated_error(entries(node.value) + 4, node.value.dtype)
            total = torch.add(self._of_offset(node, rule, reach, constant), rule.moved(node, reach), alpha=error)
            if self.sound == "deployed":
                total = total + self.deployed_error(name)
            if self.has_weight_error(name):
                total = total + self.weight_error(name)
            self._errors[name] = total
        return self._errors[name]

    def has_weight_error(self, name: str) -> bool:
        """Whether a node is a layer whose weights lie in a box."""
        return name in self._weights

    def weight_error(self, name: str) -> Tensor:
        """Largest change of the value of such a layer, by the errors of its weights."""
        (parent,) = self.parents(name)
        return self._weights[name].at(self.rules[name], parent.lower, parent.upper)

    def _deployed_size(self, name: str) -> Tensor:
        """The sum of all that float32 may have added up for a node, in absolute values.

        Batch normalisation is written as ``(x - mean) scale + bias``, and may run as ``x scale + (bias - mean scale)``,
        where large terms cancel: sizes are those before anything cancels.
        """
        node, rule = self.nodes[name], self.rules[name]
        reach = tuple(largest(part) for part in self.parents(name))
        if self._batch_norm and _of_one(rule) and _of_one(self.rules.get(node.parents[0])):
            reach = (self._deployed_size(node.parents[0]),)
        return rule.moved(node, reach) + rule.at_zero(node, reach)[1]

    def deployed_error(self, name: str, found: Interval | None = None) -> Tensor:
        """The rounding error of float32, in any order of summation, in the value of a node itself."""
        node, unit = self.nodes[name], torch.float32
        lost = underflow(unit)
        if name in self.rules:
            rule, size = self.rules[name], self._deployed_size(name)
            if rule.exact:
                return torch.zeros_like(size)
            reach = tuple(largest(part) for part in self.parents(name))
            terms = rule.terms(node, reach) + 2 + self.constant_units(name, unit)
            terms += BATCH_NORM if self._batch_norm else 0
            return accumulated_error(terms, unit) * size * (1 + 1e-6) + terms * lost
        function = self.functions[name]
        size = largest(self.intervals[name] if found is None else found)
        if not isinstance(function, ScalarFunction):
            return accumulated_error(2, unit) * size + lost
        if _is_exact(function):
            return torch.zeros_like(size)
        units = int(function.relative_error + 0.5), int(function.absolute_error + 0.5)
        return accumulated_error(max(units[0], 2), unit) * size + units[1] * torch.finfo(unit).eps + lost


def _of_one(rule: Affine | None) -> bool:
    """Whether it adds a constant to each entry or multiplies it with one."""
    return rule is not None and rule.transpose in (summed, subtracted, multiplied, divided, reshaped)


def _is_exact(function: NodeFunction) -> bool:
    """Whether it picks numbers and does not round."""
    exact = isinstance(function, PiecewiseFunction) and max(function.relative_error, function.absolute_error) < 0.5
    return exact or isinstance(function, Maximum | PooledMaximum)


def largest(interval: Interval) -> Tensor:
    """Largest absolute value of each entry, of intervals that are not empty."""
    return torch.maximum(-interval.lower, interval.upper)
