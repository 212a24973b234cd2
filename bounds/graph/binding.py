"""A captured program, bound to inputs: data become nodes, all else is evaluated."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from bounds.errors import UnsupportedLayer
from bounds.graph.calls import Call
from bounds.graph.folding import FLOATING, folded, in_dtype_of
from bounds.operations.affine import AFFINE, PICK
from bounds.operations.complex_numbers import OF_COMPLEX, in_pairs
from bounds.operations.constants import Constant
from bounds.operations.functions import FUNCTIONS
from bounds.operations.node import Node
from bounds.operations.products_and_conditions import CONDITIONAL, PARTS, in_parts

aten = torch.ops.aten
# Views fit the layout in memory that tensors of the network have; those of bounds may have another one.
ANY_LAYOUT: Mapping[Any, Any] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}


class Binding:
    """The operations of a program, evaluated one after another in the dtype of the inputs.

    Attributes:
        nodes: data, which depend on the input.
        known: values of everything else.
        fixed: the tensors among these, as exact as they can be had.
        examples: values of nodes for inputs of this shape, which need not be computed again.
    """

    def __init__(self, like: Tensor, examples: Mapping[str, Tensor]) -> None:
        self.like = like
        self.examples = examples
        self.nodes: dict[str, Node] = {}
        self.known: dict[fx.Node, Any] = {}
        self.fixed: dict[fx.Node, Constant] = {}

    def add_input(self, node: fx.Node, example: Tensor) -> None:
        """File the input of the network; nothing else may come from outside of it."""
        if not isinstance(node.meta["val"], Tensor):
            raise UnsupportedLayer(
                f"the forward pass uses {node.name}, which is no tensor but such as a random generator: "
                f"keep what it makes in a buffer"
            )
        self.nodes[node.name] = Node(node.name, "input", (), _same, (), {}, example, 0, "the input")

    def add_constant(self, node: fx.Node, stored: Any) -> None:  # noqa: ANN401  # whatever the program holds
        """File a parameter, a buffer or another constant of the program."""
        constant = in_dtype_of(stored, self.like)
        constant = constant.clone() if constant.is_inference() else constant
        self.known[node] = constant if torch.is_grad_enabled() else constant.detach()
        self.fixed[node] = Constant(stored)

    def add_operation(self, call: Call) -> None:
        """Evaluate one operation and file it as data, or as something else in the dtype of the inputs."""
        node = call.node
        of_data = any(isinstance(leaf, fx.Node) and leaf.name in self.nodes for leaf in call.flat)
        if not of_data and any(isinstance(leaf, fx.Node) and leaf in self.fixed for leaf in call.flat):
            self.fixed[node] = constant = folded(call, self.known, self.fixed)
            self.known[node] = pytree.tree_map_only(Tensor, partial(in_dtype_of, like=self.like), constant.value)
        elif (source := self._source(node)) is not None:
            self.nodes[node.name] = source.picked(call)
        else:
            self._evaluate(call)

    def output(self, signature: Any, outputs: Any) -> dict[str, Node]:  # noqa: ANN401  # of the program
        """The nodes that lead to the output of the network, which comes last under that name."""
        self.nodes["output"] = _renamed(self.nodes, _returned(signature, outputs))
        return _leading_to(self.nodes["output"], self.nodes)

    def _source(self, node: fx.Node) -> "_Several | None":
        """The operation with several results of which a node picks one."""
        if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
            return None
        source = self.known.get(node.args[0])
        return source if isinstance(source, _Several) else None

    def _evaluate(self, call: Call) -> None:
        node, (name, parents, function) = call.node, self._function(call)
        value = self.examples.get(node.name) if parents else None
        if value is None:
            value = function(*(self.nodes[parent].value for parent in parents))
        if not parents or not _holds_tensors(value):  # constants, and sizes
            self.known[node] = in_dtype_of(value, self.like) if isinstance(value, Tensor) else value
            if isinstance(value, Tensor) and not parents:  # what a factory makes
                self.fixed[node] = Constant(value)
            return
        constants = tuple(self.fixed[leaf] for leaf in call.flat if isinstance(leaf, fx.Node) and leaf in self.fixed)
        arguments, _ = call.filled([self.known.get(leaf) if isinstance(leaf, fx.Node) else leaf for leaf in call.flat])
        if not isinstance(value, Tensor):
            self.known[node] = _Several(name, parents, function, arguments, value, call.origin, constants)
            return
        truth = node.meta["val"].dtype == torch.bool
        value = value.detach().to(self.like.dtype if truth or value.is_floating_point() else value.dtype)
        made = Node(
            node.name,
            name,
            parents,
            function,
            arguments,
            node.kwargs,
            value,
            call.batch,
            call.origin,
            truth=truth,
            constants=constants,
        )
        for part in in_parts(made, self.nodes):
            self.nodes[part.name] = part

    def _function(self, call: Call) -> tuple[str, tuple[str, ...], Callable[..., Any]]:
        """The name of an operation, its parents among the data, and what it is as a function of these."""
        node, flat = call.node, call.flat
        places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf.name in self.nodes]
        filled = [self.known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]
        filled = [self.like.dtype if isinstance(leaf, torch.dtype) and leaf in FLOATING else leaf for leaf in filled]
        name, parents = str(node.target), tuple(flat[i].name for i in places)
        target: Any = ANY_LAYOUT.get(node.target, node.target)
        kinds = [flat[i].meta["val"].dtype for i in places]
        pairs = [kind.is_complex for kind in kinds]
        function = call.function(target, filled, places)
        if name in CONDITIONAL:
            whole = [torch.bool if self.nodes[parent].truth else None for parent in parents]
        else:
            whole = [None if kind.is_floating_point or kind.is_complex else kind for kind in kinds]
        if any(whole) and not _of_numbers(node, places):
            function = _in_kinds(function, whole)
        if parents and (any(pairs) or _is_complex(node)):
            return f"{name}{OF_COMPLEX}", parents, in_pairs(function, pairs)
        return name, parents, function


@dataclass(frozen=True, eq=False)
class _Several:
    """An operation on data with several results, until one of them is picked."""

    operation: str
    parents: tuple[str, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    value: Sequence[Tensor]
    origin: str
    constants: tuple[Constant, ...]

    def picked(self, call: Call) -> Node:
        """The node of one of the results."""
        index = int(str(call.node.args[1]))
        return Node(
            call.node.name,
            self.operation,
            self.parents,
            lambda *data: self.function(*data)[index],
            self.arguments,
            {},
            self.value[index],
            call.batch,
            self.origin,
            constants=self.constants,
        )


def _leading_to(node: Node, nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The input and the nodes that a node is made of, in their order: some were written as others."""
    wanted = {node.name}
    for name, before in reversed(list(nodes.items())):
        if name in wanted:
            wanted.update(before.parents)
    return {name: before for name, before in nodes.items() if name in wanted or before.operation == "input"}


def _same(x: Tensor) -> Tensor:
    return x


def _returned(signature: Any, outputs: Any) -> Any:  # noqa: ANN401  # whatever the model returns
    """The results that the model returns, without those that it writes to its input."""
    kinds = [spec.kind for spec in signature.output_specs]
    if not isinstance(outputs, tuple | list) or len(kinds) != len(outputs):
        return outputs
    return [value for value, kind in zip(outputs, kinds, strict=True) if kind is not OutputKind.USER_INPUT_MUTATION]


def _renamed(nodes: dict[str, Node], outputs: Any) -> Node:  # noqa: ANN401  # whatever the model returns
    output = outputs[0] if isinstance(outputs, tuple | list) and len(outputs) == 1 else outputs
    if not isinstance(output, fx.Node) or output.name not in nodes:
        raise UnsupportedLayer("the output of the model does not depend on its input, or is no single tensor")
    last = nodes[output.name]
    return Node("output", "aten.clone.default", (last.name,), _same, (None,), {}, last.value, last.batch, last.origin)


def _of_numbers(node: fx.Node, places: Sequence[int]) -> bool:
    """Whether an operation on conditions or integers has a rule, which takes them for numbers like any others."""
    name = str(node.target)
    if name in PARTS or name in FUNCTIONS:
        return name not in CONDITIONAL
    rule = AFFINE.get(name)
    if rule is None or (not rule.exact and node.meta["val"].dtype == torch.bool):  # which adds as "or" does
        return False
    return rule.applies is not PICK.applies or tuple(places) == (0,)  # data may also be the indices


def _in_kinds(function: Callable[..., Any], kinds: Sequence[torch.dtype | None]) -> Callable[..., Any]:
    """A function some of whose arguments are conditions or integers, which are kept as numbers."""

    def converted(*data: Tensor) -> Any:  # noqa: ANN401  # one tensor, or several
        pairs = zip(data, kinds, strict=True)
        return function(*(value if kind is None else value.to(kind) for value, kind in pairs))

    return converted


def _is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


def _holds_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
