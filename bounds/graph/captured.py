"""A network as a graph of operations, captured by ``torch.export``: residual, branching, functional code, anything.

Every operation on the way from the input to the output is one node. An affine node needs no rule of its own to be
propagated through: it is evaluated, and its transpose is its vector-Jacobian product. Operations that are neither
affine nor scalar functions are first written as simpler ones, see :mod:`bounds.decompositions.table`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputSpec

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.binding import Binding
from bounds.graph.calls import Call
from bounds.graph.conditions import Refusal, ancestors
from bounds.operations.node import Node, entries

Source = nn.Module | torch.export.ExportedProgram

MOST_BOUND = 8  # shapes and dtypes of inputs for which the nodes are kept: a search alternates between a few sizes


@dataclass(frozen=True)
class Signature:
    """Placeholders of a graph, as a program of ``torch.export`` tells them.

    Attributes:
        inputs_to_parameters: names of weights by their placeholders.
        inputs_to_lifted_tensor_constants: names of other constants likewise.
        user_inputs: placeholders of the input.
        inputs_to_buffers: names of buffers likewise.
        output_specs: what is written besides the results.
    """

    inputs_to_parameters: Mapping[str, str]
    inputs_to_lifted_tensor_constants: Mapping[str, str]
    user_inputs: tuple[str, ...]
    inputs_to_buffers: Mapping[str, str] = field(default_factory=dict)
    output_specs: tuple[OutputSpec, ...] = ()


class Program(Protocol):
    """A network as operations of ATen: a program of ``torch.export``, or one that was read from a file."""

    @property
    def graph(self) -> fx.Graph:
        """Operations, with placeholders for weights and the input."""

    @property
    def graph_signature(self) -> Any:  # noqa: ANN401  # a Signature, or that of an exported program
        """Placeholders, see :class:`Signature`."""

    @property
    def state_dict(self) -> Mapping[str, Any]:
        """Weights as they are now."""

    @property
    def constants(self) -> Mapping[str, Any]:
        """Other constants."""

    def module(self) -> nn.Module:
        """The network as a module."""


@dataclass(frozen=True)
class Port:
    """A named input or output of a file, as entries of the flat one of its graph.

    Attributes:
        name: in the file.
        shape: in the file, with the batch dimension, which is 1 where the file leaves it open.
        start: of its entries.
        end: behind them.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    end: int


class Captured(nn.Module):
    """A module that comes with its graph, so that it need not be captured.

    Attributes:
        graph: of the same network.
    """

    graph: "Graph"


class Graph:
    """A captured network; weights stay those of the model, so that training changes both.

    Use :func:`bounds.capture` or :func:`bounds.from_onnx` to make one.

    Attributes:
        program: the network as operations of ATen.
        one_by_one: whether it was captured for one input at a time, because its code merges rows with others or does
            not take any number of rows; it is then mapped over the rows.
        inexact: operations that were written as others, so that they round in a way of their own.
        refusals: operations that draw random numbers or mix inputs, for which there are no bounds.
        batch_norm: whether there are batch normalisations, whose order of operations depends on where they run.
        inputs: of the file that it was read from, in the order of their entries.
        outputs: likewise.
        input_shape: of one input.
    """

    def __init__(
        self,
        program: Program,
        *,
        one_by_one: bool = False,
        inexact: frozenset[str] = frozenset(),
        refusals: tuple[Refusal, ...] = (),
        batch_norm: bool = False,
        inputs: tuple[Port, ...] = (),
        outputs: tuple[Port, ...] = (),
    ) -> None:
        self.program = program
        self.one_by_one = one_by_one
        self.inexact = inexact
        self.refusals = refusals
        self.batch_norm = batch_norm
        self.inputs = inputs
        self.outputs = outputs
        self.input_shape = _input_shape(program)
        self._entries = 0
        self._examples: dict[tuple[Any, ...], dict[str, Tensor]] = {}  # values of the last step of a training
        self._needed = ancestors(program.graph)
        self._calls: dict[fx.Node, Call] = {}
        self._bound: dict[tuple[Any, ...], dict[str, Node]] = {}
        self._versions: tuple[tuple[int, int], ...] = ()
        self._copies: list[Tensor] = []  # of the weights that were bound last

    def module(self) -> nn.Module:
        """The network as a module, for forward passes."""
        return self.program.module()

    def entries(self, x: Tensor) -> int:
        """Numbers that all nodes together hold for one input, such as x of shape (1, *D)."""
        if not self._entries:
            with torch.no_grad():
                self._entries = sum(entries(node.value) for node in self.bind(x).values())
        return self._entries

    @isolated
    def bind(self, x: Tensor) -> dict[str, Node]:
        """The nodes that lead from the input to the output, in order of evaluation.

        Constants are in the dtype and on the device of the inputs (N, *D). What was bound for the last few shapes and
        dtypes is kept as long as the weights stay the same. Gradients reach the weights where they are enabled.
        """
        checks.not_empty(x)
        if x.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, ("N", *self.input_shape)))
            raise InvalidInput(
                f"x must have shape ({expected}), got {tuple(x.shape)}: the network was captured so; "
                f"capture it anew for other inputs"
            )
        weights = [*self.program.state_dict.values(), *self.program.constants.values()]
        weights = [weight for weight in weights if isinstance(weight, Tensor)]
        key = (x.shape, x.dtype, x.device)
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            nodes = self._bind(x, self._examples.get(key, {}))
            self._examples = {key: {name: node.value for name, node in nodes.items() if not self.one_by_one}}
            return nodes
        versions = tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)
        # Writes through ``weight.data`` leave no trace in versions.
        if versions != self._versions or not all(map(torch.equal, weights, self._copies)):
            self._bound, self._versions, self._copies = {}, versions, [weight.clone() for weight in weights]
        if key not in self._bound:
            while len(self._bound) >= MOST_BOUND:
                del self._bound[next(iter(self._bound))]
            with torch.no_grad():
                self._bound[key] = self._bind(x, {})
        return self._bound[key]

    def nodes_at(self, x: Tensor) -> dict[str, Node]:
        """Like :meth:`bind`, for one look at the nodes: they are not kept."""
        return self._bind(x, {})

    def _bind(self, x: Tensor, examples: Mapping[str, Tensor]) -> dict[str, Node]:
        signature = self.program.graph_signature
        constants = {**self.program.state_dict, **self.program.constants}
        stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        binding, nodes = Binding(x, examples), dict[str, Node]()
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in stored:
                binding.add_constant(node, constants[stored[node.name]])
            elif node.op == "placeholder":
                binding.add_input(node, x[:1] if self.one_by_one else x)
            elif node.op == "output":
                nodes = binding.output(signature, node.args[0])
            elif node in self._needed:
                if node not in self._calls:
                    self._calls[node] = Call(node)
                binding.add_operation(self._calls[node])
        return {name: _mapped(node, len(x)) for name, node in nodes.items()} if self.one_by_one else nodes


def _input_shape(program: Program) -> torch.Size:
    (name,) = program.graph_signature.user_inputs
    (value,) = (node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
    return torch.Size(value.shape[1:])


def _mapped(node: Node, count: int) -> Node:
    """A node for one input as one for several, with a dimension for them in front."""
    value = node.value.unsqueeze(0).expand(count, *node.value.shape)
    function = torch.func.vmap(node.function) if node.parents else node.function
    return Node(
        node.name,
        node.operation,
        node.parents,
        function,
        node.arguments,
        node.options,
        value,
        0,
        node.origin,
        node,
        constants=node.constants,
    )
