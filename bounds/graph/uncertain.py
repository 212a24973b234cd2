r"""Networks whose weights are known within a box: all that lie in it are bounded at once.

A layer with weights :math:`C + \Delta`, :math:`|\Delta| \le R`, differs from the one with weights C by at most
:math:`R |h|` and the error of its bias, entry by entry. So bounds count that as they count rounding errors: one more
error in the value of the layer, of the largest input that intervals allow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from bounds.circumstances import isolated
from bounds.errors import InvalidInput, UnsupportedLayer
from bounds.graph.captured import Graph, Program, Source
from bounds.graph.capturing import capture
from bounds.graph.weight_box import WeightBox
from bounds.numerics import accumulated_error, per_row, underflow, unit_roundoff
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.node import Node

# PyTorch quantises inputs of dynamic layers in steps of a 127th of their range, which includes 0, and never in smaller
# ones than this; rounded to the nearest step, with the rounding of float32 and of the zero point.
DYNAMIC_STEPS = 127
LEAST_STEP = 6.2e-5
STEP_SHARE = 0.51
MOST_TERMS = 2**16  # products of 8 bits whose sum certainly fits into 32 bits


@isolated
@torch.no_grad()
def with_weight_box(model: Source | Graph, x: Tensor, box: WeightBox) -> Graph:
    """The graph of a network whose weights lie in a box: bounds of it hold for every network of the box.

    Pass it to :func:`bounds.ibp`, :func:`bounds.crown_ibp`, :func:`bounds.fast_lin`, :func:`bounds.crown`,
    :func:`bounds.alpha_crown`, :func:`bounds.forward_linear` or :func:`bounds.margin_bounds`, with a ball of inputs:
    both at once. They are then about networks in real arithmetic, with all rounding errors of the bounds included. All
    other methods refuse it.

    Args:
        model: maps (N, *D) to (N, K).
        x: an input or several, (N, *D).
        box: of the weights of linear layers and convolutions.

    Raises:
        InvalidInput: a name that the network does not have or use, or another shape.
        UnsupportedLayer: a weight with an error that does not go straight into a layer, such as of batch normalisation.
    """
    return UncertainGraph(capture(model, x), box)


class UncertainGraph(Graph):
    """A captured network whose weights lie in a box; its constants are the middles."""

    def __init__(self, graph: Graph, box: WeightBox) -> None:
        self._layers = _layers_of(graph, box)
        super().__init__(
            _Recentred(graph.program, _by_placeholder(graph, box.centers())),
            one_by_one=graph.one_by_one,
            inexact=graph.inexact,
            batch_norm=graph.batch_norm,
        )

    def module(self) -> nn.Module:
        """No single network."""
        raise _refusal()

    def bind(self, x: Tensor) -> dict[str, Node]:
        """No single network."""
        raise _refusal()

    def entries(self, x: Tensor) -> int:
        """Numbers that all nodes together hold for one input."""
        return sum(node.value[0].numel() for node in super().bind(x[:1]).values())

    def bind_middle(self, x: Tensor) -> "tuple[dict[str, Node], dict[str, WeightError]]":
        """The nodes of the middle, and the errors of its layers by the names of these."""
        nodes = super().bind(x)
        errors = {}
        for name, layer in self._layers.items():
            rule = AFFINE.get(layer.operation)
            if (
                name not in nodes
                or nodes[name].operation != layer.operation
                or not (rule and rule.applies(nodes[name]))
            ):
                raise UnsupportedLayer(
                    f"the weights {', '.join(layer.names)} with errors must go into a layer of the input, but {name} "
                    f"is none: leave them out of the box"
                )
            errors[name] = WeightError.of(nodes[name], layer)
        return nodes, errors


def _refusal() -> InvalidInput:
    return InvalidInput(
        "a network whose weights lie in a box must go to ibp, crown_ibp, fast_lin, crown, alpha_crown, forward_linear "
        "or margin_bounds: other methods speak of one network"
    )


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer with errors.

    Attributes:
        operation: name of the ATen operation.
        weight: errors of its weight; None for none.
        bias: of its bias.
        dynamic: whether it quantises its input as it runs.
        names: of both, for messages.
    """

    operation: str
    weight: Tensor | None
    bias: Tensor | None
    dynamic: bool
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class WeightError:
    """Largest change of the value of a layer, by the errors of its weights.

    Attributes:
        node: the layer.
        radius: the same layer with the errors in place of its weights.
        dynamic: whether it quantises its input as it runs.
    """

    node: Node
    radius: Node
    dynamic: bool

    @classmethod
    def of(cls, node: Node, layer: _Layer) -> "WeightError":
        """The errors of a bound node."""
        return cls(node, _with_errors(node, layer), layer.dynamic)

    def at(self, rule: Affine, lower: Tensor, upper: Tensor) -> Tensor:
        """The largest change of the value, entry by entry, for inputs (N, *shape) between two ends; rounded up."""
        reach = torch.maximum(-lower, upper)
        radius, terms = self.radius, rule.terms(self.node, (reach,))
        change = rule.moved(radius, (reach,)) + _bias_of(radius if radius.single is None else radius.single)
        if self.dynamic:
            step = _largest_step(lower, upper)
            change = change + rule.moved(self.node, (step,)) + rule.moved(radius, (step,))
        error = accumulated_error(2 * terms + 16, change.dtype)
        # A weight is rounded to the dtype of bounds where that is narrower than its own.
        return change * (1 + 2 * error) + underflow(change.dtype)


def _bias_of(node: Node) -> Tensor:
    """The errors of the bias of a layer, as they broadcast to its values."""
    weight, *rest = node.arguments[1:]
    bias: Tensor = rest[0] if rest and rest[0] is not None else node.value.new_zeros(())
    return bias if bias.ndim == 0 else bias.view(-1, *[1] * (weight.ndim - 2))


def _largest_step(lower: Tensor, upper: Tensor) -> Tensor:
    """The largest error (N, *shape) of inputs that are quantised within their own range, row by row."""
    low, high = lower.flatten(1).amin(1).clamp(max=0.0), upper.flatten(1).amax(1).clamp(min=0.0)
    step = ((high - low) / DYNAMIC_STEPS).clamp(min=LEAST_STEP) * STEP_SHARE
    return per_row(step, lower).expand_as(lower)


def _with_errors(node: Node, layer: _Layer) -> Node:
    """A layer with the errors in place of weight and bias, at least 0 each."""
    data, weight, *rest = node.arguments
    narrow = 1 + 2 * unit_roundoff(weight.dtype)
    size = torch.zeros_like(weight) if layer.weight is None else layer.weight.to(weight) * narrow
    bias = None if not rest else rest[0]
    if bias is not None:
        bias = torch.zeros_like(bias) if layer.bias is None else layer.bias.to(bias) * narrow
    arguments = (data, size, bias, *rest[1:])
    single = None if node.single is None else _with_errors(node.single, layer)
    return replace(node, arguments=arguments, single=single, cache={})


# ------------------------------------------------------------------------------------------------------------- names


class _Recentred:
    """A program with other weights."""

    def __init__(self, program: Program, centers: Mapping[str, Tensor]) -> None:
        self.graph = program.graph
        self.graph_signature = program.graph_signature
        self.state_dict = {**program.state_dict, **centers}
        self.constants = {**program.constants, **{key: centers[key] for key in centers if key in program.constants}}

    def module(self) -> nn.Module:
        """No single network."""
        raise _refusal()


def _stored(graph: Graph) -> dict[str, str]:
    """Names of weights and buffers by their placeholders."""
    signature = graph.program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def _by_placeholder(graph: Graph, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values by the names that placeholders have for the weights: a shared weight has several names in its model."""
    state = graph.program.state_dict
    used = {name for name in _stored(graph).values() if name in state}
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if name not in state:
            raise InvalidInput(f"the box must name weights of the network, got {name!r}: it has {', '.join(state)}")
        if state[name].shape != value.shape:
            raise InvalidInput(
                f"the box must have the shape {tuple(state[name].shape)} for {name!r}, got {tuple(value.shape)}"
            )
        same = [other for other in used if other == name or _is_same(state[other], state[name])]
        for other in same:
            if other in found and not torch.equal(found[other], value):
                raise InvalidInput(
                    f"the box must be the same for all names of a shared weight, got others for {name!r}"
                )
            found[other] = value
        if not same:
            raise InvalidInput(f"the box must name weights that the network uses, got {name!r}: leave it out")
    return found


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same numbers in memory, in the same places: a transpose of a square matrix is not."""
    same = one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
    return one.numel() > 0 and same


def _layers_of(graph: Graph, box: WeightBox) -> dict[str, _Layer]:
    """The layers with errors by the names of their nodes.

    Raises:
        UnsupportedLayer: a weight with an error goes elsewhere.
    """
    radii = _by_placeholder(graph, box.radii())
    dynamic = _by_placeholder(graph, {name: box.lower[name] for name in box.dynamic})
    placeholders = {node.name: node for node in graph.program.graph.nodes if node.op == "placeholder"}
    parts: dict[str, dict[str, Any]] = {}
    for place, name in _stored(graph).items():
        if name not in radii or not (bool(radii[name].any()) or name in dynamic):
            continue
        for user in placeholders[place].users:
            argument = _argument(user, placeholders[place])
            part = parts.setdefault(user.name, {"operation": str(user.target), "names": []})
            part["names"].append(name)
            if argument is None or (name in dynamic and not _serves(user, argument, radii[name])):
                raise UnsupportedLayer(
                    f"{name} has an error and must be the weight or bias of a linear layer or convolution, but it goes "
                    f"into {user.target}: fold it into one first (torch.nn.utils.fusion), or leave it exact"
                )
            part[argument] = radii[name]
            part["dynamic"] = part.get("dynamic", False) or name in dynamic
    return {
        user: _Layer(part["operation"], part.get("weight"), part.get("bias"), part["dynamic"], tuple(part["names"]))
        for user, part in parts.items()
    }


def _argument(user: fx.Node, placeholder: fx.Node) -> str | None:
    """Whether a placeholder is the weight or the bias of a layer, and nothing else of it."""
    rule = AFFINE.get(str(user.target))
    places = [place for place, argument in enumerate(user.args) if argument is placeholder]
    if user.op != "call_function" or rule is None or not rule.layer or placeholder in user.kwargs.values():
        return None
    known: dict[tuple[int, ...], str] = {(1,): "weight", (2,): "bias"}
    return known.get(tuple(places))


def _serves(user: fx.Node, argument: str, weight: Tensor) -> bool:
    """Whether a layer that quantises its input is a linear one of few enough inputs."""
    return argument == "weight" and str(user.target) == "aten.linear.default" and weight.shape[1] <= MOST_TERMS
