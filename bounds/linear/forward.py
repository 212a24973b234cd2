r"""Forward linear bounds: every node between two affine functions of the input.

Each node h carries :math:`\underline{\Lambda} x + \underline{b} \le h \le \overline{\Lambda} x + \overline{b}` with one
column per input entry, so the cost grows with the dimension of the input and not with the width of the network. For
inputs of few dimensions this is the cheapest way to bounds of all nodes.

References:
    Xu et al. (2020), Automatic perturbation analysis for scalable certified robustness and beyond, arXiv:2002.12920,
    section 3.1 and appendix A.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.linear.network import Network, largest
from bounds.linear.precision import rounded_outward
from bounds.memory import MEMORY
from bounds.numerics import accumulated_error, ieee_arithmetic, underflow
from bounds.operations.affine import AFFINE, Affine, linear_part
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.operations.node import Node, entries
from bounds.relaxations.relu import ReLURelaxation
from bounds.sets.balls import Interval, PerturbationSet
from bounds.sets.linear_minimum import linear_minimum

# How many times as many elements backward passes have to move as forward bounds before these save time. Measured on
# dense networks: at 62 they halve the time of CROWN, at 15 they change nothing, at 6 they cost half of it.
WORTH = 24


class _Forms(NamedTuple):
    """``lower @ x + below <= h <= upper @ x + above``.

    Attributes:
        lower: (N, D, *shape), a column for each entry of the input.
        below: (N, *shape).
        upper: likewise.
        above: likewise.
    """

    lower: Tensor
    below: Tensor
    upper: Tensor
    above: Tensor


@isolated
@ieee_arithmetic()
def forward_linear(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Forward linear bounds on the outputs, for inputs of few dimensions; never looser than intervals.

    Same guarantee and conditions as :func:`bounds.crown`, which is tighter as a rule.

    Args:
        model: see :func:`bounds.crown`.
        ball: likewise.
        table: likewise.
        functions: likewise.
        sound: likewise.
        memory: bytes for the columns of one node.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: an operation without a rule.
        InvalidInput: a bad argument, or columns that need more memory: bound fewer inputs at once, or use crown.
    """
    checks.at_least("memory", memory, 1)
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        dimensions = ball.center[:1].numel()
        widest = max((node.value for node in network.nodes.values()), key=entries)
        needed = 2 * dimensions * widest.numel() * widest.element_size()
        if needed > memory:
            raise InvalidInput(
                f"memory must be at least {needed} for forward bounds of {dimensions} input entries, got {memory}: "
                f"bound fewer inputs at once, raise it, or use bounds.crown"
            )
        found = _Propagation(network).interval
        found = rounded_outward(found, ball.center.dtype)
        return Interval(*(end.reshape(len(ball.center), -1) for end in (found.lower, found.upper)))


def pays_before_backward(network: Network, memory: int) -> bool:
    """Whether forward bounds of all nodes are so much cheaper than backward ones that they come first.

    Counted in elements that both move, as if every neuron were unstable, so that no input decides for another. That is
    where layers are far wider than the input.
    """
    nodes = network.nodes.values()
    relu_alone = all(isinstance(function, ReLURelaxation) for function in network.functions.values())
    if not relu_alone or any(node.batch != 0 for node in nodes):
        return False
    sizes = {name: entries(node.value) for name, node in network.nodes.items()}
    dimensions, widest = sizes[network.order[0]], max(node.value.numel() * node.value.element_size() for node in nodes)
    before = dict(zip(network.order, accumulate(sizes.values()), strict=True))
    backward = sum(
        sizes[parent] * before[parent] for name in network.functions for parent in network.nodes[name].parents
    )
    return 2 * dimensions * widest <= memory and WORTH * 4 * dimensions * sum(sizes.values()) <= backward


def forward_intervals(network: Network) -> Mapping[str, Interval]:
    """Intervals of all nodes by forward bounds."""
    return _Propagation(network.without_intervals()).network.intervals


class _Propagation:
    """Forms of all nodes, and the intervals that follow from them.

    Attributes:
        interval: of the output.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        hull = network.ball.hull()
        self.reach = largest(hull).flatten(1)  # (N, D)
        self.forms: dict[str, _Forms] = {}
        for name, node in network.nodes.items():
            network.propagate(name)
            self.forms[name] = self._forms(node)
            found = network.meet(network.intervals[name], self._range(self.forms[name]))
            network.intervals[name] = network.unless_overflowing(name, found)
        self.interval = network.intervals["output"]

    def _forms(self, node: Node) -> _Forms:
        network = self.network
        if node.operation == "input":
            unit = torch.eye(self.reach.shape[1], dtype=node.value.dtype, device=node.value.device)
            unit = unit.expand(len(self.reach), -1, -1).reshape(*self.reach.shape, *node.value.shape[1:])
            zero = torch.zeros_like(node.value)
            return _Forms(unit, zero, unit, zero)
        parents = [self.forms[parent] for parent in node.parents]
        forms = self._affine(node, parents) if node.name in network.rules else self._bent(node, parents)
        if network.sound == "deployed":
            error = network.deployed_error(node.name)
            forms = forms._replace(below=forms.below - error, above=forms.above + error)
        if network.has_weight_error(node.name):
            error = network.weight_error(node.name)
            forms = forms._replace(below=forms.below - error, above=forms.above + error)
        return forms

    def _size(self, form: _Forms) -> Tensor:
        """The largest absolute value of both forms and of all terms in them, (N, *shape)."""
        columns = torch.maximum(form.lower.abs(), form.upper.abs())
        reach = self.reach.view(*self.reach.shape, *[1] * (columns.ndim - 2))
        return (columns * reach).sum(1) + torch.maximum(form.below.abs(), form.above.abs())

    def _affine(self, node: Node, parents: list[_Forms]) -> _Forms:
        """Weights above 0 keep the sides, others exchange them: mean and half of the difference, like an interval."""
        rule = self.network.rules[node.name]
        zeros = tuple(torch.zeros_like(form.below) for form in parents)
        start, offset = rule.at_zero(node, zeros)

        def through(means: tuple[Tensor, ...], halves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            """Both sides of a part that is linear in the parents."""
            middle = linear_part(node, means)
            apart = rule.moved(node, tuple(half.clamp(min=0) for half in halves))
            apart = apart - rule.moved(node, tuple((-half).clamp(min=0) for half in halves))
            return middle - apart, middle + apart

        columns = torch.func.vmap(through, in_dims=1, out_dims=1)(
            tuple((form.lower + form.upper) / 2 for form in parents),
            tuple((form.upper - form.lower) / 2 for form in parents),
        )
        below, above = through(
            tuple((form.below + form.above) / 2 for form in parents),
            tuple((form.above - form.below) / 2 for form in parents),
        )
        sizes = tuple(self._size(form) for form in parents)
        error = self._error(rule.terms(node, zeros), rule.moved(node, sizes) + offset)
        return _Forms(columns[0], below + start - error, columns[1], above + start + error)

    def _bent(self, node: Node, parents: list[_Forms]) -> _Forms:
        """Through the planes around a function; slopes above 0 keep the sides."""
        function, intervals = self.network.functions[node.name], self.network.parents(node.name)
        planes = function.default_planes(*intervals)
        lower = upper = torch.zeros((), dtype=node.value.dtype, device=node.value.device)
        below = lower if planes.lower_intercept is None else planes.lower_intercept
        above = planes.upper_intercept
        size = torch.maximum(below.abs(), above.abs())
        for form, low, high in zip(parents, planes.lower_slopes, planes.upper_slopes, strict=True):
            for column in (True, False):
                sides = (form.lower, form.upper) if column else (form.below, form.above)
                under, over = (function.beside(side) for side in sides)
                flat, steep = (low.unsqueeze(1), high.unsqueeze(1)) if column else (low, high)
                one = function.combined(flat.clamp(min=0) * under + flat.clamp(max=0) * over)
                other = function.combined(steep.clamp(min=0) * over + steep.clamp(max=0) * under)
                if column:
                    lower, upper = lower + one, upper + other
                else:
                    below, above = below + one, above + other
            size = size + function.combined(torch.maximum(low.abs(), high.abs()) * function.beside(self._size(form)))
        error = self._error(entries(function.beside(form.below)) // max(1, entries(node.value)), size)
        return _Forms(lower, below - error, upper, above + error)

    def _error(self, terms: int, size: Tensor) -> Tensor:
        """The rounding error of columns and constants, for all inputs of the set."""
        if self.network.sound == "real":
            return torch.zeros_like(size)
        error = 2 * accumulated_error(terms + self.reach.shape[1] + 32, size.dtype)
        return error * size * (1 + error) + underflow(size.dtype)

    def _range(self, form: _Forms) -> Interval:
        """The interval of each entry over the set, by the forms."""
        ball, shape = self.network.ball, form.below.shape
        least = []
        for columns, constant in ((form.lower, form.below), (-form.upper, -form.above)):
            rows = columns.reshape(*columns.shape[:2], -1).transpose(1, 2)
            rows = rows.reshape(len(rows), -1, *ball.center.shape[1:])
            bound = linear_minimum(rows, ball).view(shape) + constant
            bound = bound - 2 * torch.finfo(bound.dtype).eps * bound.abs()
            least.append(torch.where(bound.isnan(), -torch.inf, bound))
        return Interval(least[0], -least[1])
