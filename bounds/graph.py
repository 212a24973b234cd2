"""A network as a graph of operations, captured by ``torch.export``: residual, branching, functional code, anything.

Every operation on the way from the input to the output is one node. An affine node needs no rule of its own to be
propagated through: it is evaluated, and its transpose is its vector-Jacobian product.
"""

import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from bounds.errors import UnsupportedLayer

Function = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation on data, with everything else already filled in.

    Attributes:
        name: unique in its graph.
        operation: name of the ATen operation, such as ``"aten.conv2d.default"``; ``"input"`` for the input.
        parents: names of the nodes it takes data from, in the order in which ``function`` takes them.
        function: the operation as a function of its data alone, row by row.
        arguments: the arguments of the operation by position, None in the places of data.
        options: its arguments by name.
        value: its value at the inputs that the graph was bound to.
        batch: the dimension of its value that counts inputs; None where rows are merged with others.
        origin: where in the source code it stands.
    """

    name: str
    operation: str
    parents: tuple[str, ...]
    function: Function
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    value: Tensor
    batch: int | None
    origin: str


class Graph:
    """A captured network; weights stay those of the model, so that training changes both.

    Use :func:`capture` to make one.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program

    def bind(self, x: Tensor) -> dict[str, Node]:
        """The nodes that depend on the input, in order of evaluation, at the inputs (N, *D) and in their dtype."""
        signature = self.program.graph_signature
        constants = {**self.program.state_dict, **self.program.constants}
        stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        nodes: dict[str, Node] = {}
        known: dict[fx.Node, Any] = {}  # values of what is no data; data stand in `nodes`
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in stored:
                    known[node] = _as(constants[stored[node.name]].detach(), x)
                else:
                    nodes[node.name] = Node(node.name, "input", (), _same, (), {}, x, 0, "the input")
            elif node.op == "output":
                (output,) = node.args[0]
                nodes["output"] = _renamed(nodes, output)
            else:
                self._add(node, nodes, known)
        return nodes

    def _add(self, node: fx.Node, nodes: dict[str, Node], known: dict[fx.Node, Any]) -> None:
        """Evaluate one operation and file it as data or as something else."""
        flat, spec = pytree.tree_flatten((node.args, node.kwargs))
        places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf.name in nodes]
        filled = [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]

        def function(*data: Tensor) -> Any:  # noqa: ANN401  # one tensor, or several
            leaves = list(filled)
            for place, value in zip(places, data, strict=True):
                leaves[place] = value
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function node has a function

        parents = tuple(flat[i].name for i in places)
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node) and node.args[0] in known:
            source = known[node.args[0]]
            if isinstance(source, _Several):  # one of several results of an operation on data
                index = int(str(node.args[1]))
                nodes[node.name] = Node(
                    node.name,
                    source.operation,
                    source.parents,
                    lambda *data: source.function(*data)[index],
                    source.arguments,
                    {},
                    source.value[index],
                    _batch(node),
                    source.origin,
                )
                return
        value = function(*(nodes[name].value for name in parents))
        if not parents or not _holds_tensors(value):  # constants, and sizes
            known[node] = value
            return
        arguments = tuple(pytree.tree_map_only(fx.Node, lambda leaf: known.get(leaf), node.args))
        origin = (node.meta.get("stack_trace") or "unknown").strip().replace("\n", " ")
        name = str(node.target)
        if isinstance(value, Tensor):
            nodes[node.name] = Node(
                node.name, name, parents, function, arguments, node.kwargs, value, _batch(node), origin
            )
        else:
            known[node] = _Several(name, parents, function, arguments, value, origin)


@dataclass(frozen=True, eq=False)
class _Several:
    """An operation on data with several results, until one of them is picked."""

    operation: str
    parents: tuple[str, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    value: Sequence[Tensor]
    origin: str


def capture(model: nn.Module | Graph, x: Tensor) -> Graph:
    """The graph of a network in evaluation mode, of whatever code it is made.

    Args:
        model: maps (N, *D) to (N, K) for every N >= 1; a graph comes back as it is.
        x: an input or several, (N, *D).

    Raises:
        UnsupportedLayer: ``torch.export`` cannot follow the code, with its reason.
    """
    if isinstance(model, Graph):
        return model
    modes = [(module, module.training) for module in model.modules()]
    weight = next(model.parameters(), None)
    example = x[:1].detach().expand(2, *x.shape[1:]).to(x.dtype if weight is None else weight.dtype).contiguous()
    try:
        for module, _ in modes:
            module.training = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
            program = program.run_decompositions({})  # no operation in place is left
    except Exception as error:  # torch.export raises anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedLayer(
            f"torch.export does not capture the model for any number of rows: {reason}; write its forward pass without "
            f"branches on values and with sizes taken from x.shape"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    return Graph(program)


def _same(x: Tensor) -> Tensor:
    return x


def _renamed(nodes: dict[str, Node], output: object) -> Node:
    if not isinstance(output, fx.Node) or output.name not in nodes:
        raise UnsupportedLayer("the output of the model does not depend on its input, or is no single tensor")
    last = nodes[output.name]
    return Node("output", "aten.clone.default", (last.name,), _same, (None,), {}, last.value, last.batch, last.origin)


def _as(value: Tensor, like: Tensor) -> Tensor:
    """A constant on the device of the input, floating ones in its dtype."""
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)


def _batch(node: fx.Node) -> int | None:
    """The dimension whose size is that of the batch, by the symbols that export found."""
    sizes = [str(size) for size in node.meta["val"].shape]
    symbolic = [i for i, size in enumerate(sizes) if not size.isdigit()]
    return symbolic[0] if len(symbolic) == 1 and sizes[symbolic[0]].isidentifier() else None


def _holds_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def entries(value: Tensor) -> int:
    """Entries of one row."""
    return math.prod(value.shape[1:])
