"""A network as a graph of operations, captured by ``torch.export``: residual, branching, functional code, anything.

Every operation on the way from the input to the output is one node. An affine node needs no rule of its own to be
propagated through: it is evaluated, and its transpose is its vector-Jacobian product. Operations that are neither
affine nor scalar functions are first written as simpler ones, see :mod:`bounds.graph.decompositions`.
"""

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import UnsupportedLayer
from bounds.graph.decompositions import EXACT, REWRITES
from bounds.operations.affine import AFFINE
from bounds.operations.functions import FUNCTIONS
from bounds.operations.node import Node
from bounds.operations.products_and_conditions import CONDITIONAL, PARTS, in_parts

Source = nn.Module | torch.export.ExportedProgram


class Graph:
    """A captured network; weights stay those of the model, so that training changes both.

    Use :func:`capture` to make one.

    Attributes:
        program: the exported network.
        one_by_one: whether it was captured for one input at a time, because its code merges rows with others or does
            not take any number of rows; it is then mapped over the rows.
        inexact: operations that were written as others, so that they round in a way of their own.
        folded: operations on weights alone that have been met, such as those of weight normalisation.
    """

    def __init__(
        self, program: torch.export.ExportedProgram, *, one_by_one: bool = False, inexact: frozenset[str] = frozenset()
    ) -> None:
        self.program = program
        self.one_by_one = one_by_one
        self.inexact = inexact
        self.folded: set[str] = set()
        self._needed = _ancestors(program.graph)
        self._bound: dict[tuple[Any, ...], dict[str, Node]] = {}
        self._copies: list[Tensor] = []  # of the weights that were bound last

    @isolated
    def bind(self, x: Tensor) -> dict[str, Node]:
        """The nodes that lead from the input to the output, in order of evaluation.

        Constants are in the dtype and on the device of the inputs (N, *D). What was bound last is kept as long as
        shape, dtype and weights stay the same. Gradients reach the weights where they are enabled.
        """
        checks.not_empty(x)
        weights = [*self.program.state_dict.values(), *self.program.constants.values()]
        weights = [weight for weight in weights if isinstance(weight, Tensor)]
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return self._bind(x)
        versions = tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)
        key = (x.shape, x.dtype, x.device, versions)
        # Writes through ``weight.data`` leave no trace in versions.
        if key not in self._bound or not all(map(torch.equal, weights, self._copies)):
            with torch.no_grad():
                self._bound = {key: self._bind(x)}
                self._copies = [weight.clone() for weight in weights]
        return self._bound[key]

    def _bind(self, x: Tensor) -> dict[str, Node]:
        signature = self.program.graph_signature
        constants = {**self.program.state_dict, **self.program.constants}
        stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        example = x[:1] if self.one_by_one else x
        nodes: dict[str, Node] = {}
        known: dict[fx.Node, Any] = {}  # values of what is no data; data stand in `nodes`
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in stored:
                    constant = _as(constants[stored[node.name]], x)
                    constant = constant.clone() if constant.is_inference() else constant
                    known[node] = constant if torch.is_grad_enabled() else constant.detach()
                else:
                    nodes[node.name] = Node(node.name, "input", (), _same, (), {}, example, 0, "the input")
            elif node.op == "output":
                nodes["output"] = _renamed(nodes, node.args[0])
                nodes = _leading_to(nodes["output"], nodes)
            elif node in self._needed:
                self._add(node, nodes, known, x)
        if self.one_by_one:
            return {name: _mapped(node, len(x)) for name, node in nodes.items()}
        return nodes

    def _add(self, node: fx.Node, nodes: dict[str, Node], known: dict[fx.Node, Any], like: Tensor) -> None:
        """Evaluate one operation and file it as data, or as something else in the dtype of the inputs."""
        flat, spec = pytree.tree_flatten((node.args, node.kwargs))
        places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf.name in nodes]
        filled = [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]

        parents = tuple(flat[i].name for i in places)
        name = str(node.target)
        conditions = [name in CONDITIONAL and nodes[parent].truth for parent in parents]

        def function(*data: Tensor) -> Any:  # noqa: ANN401  # one tensor, or several
            leaves = list(filled)
            for place, value, condition in zip(places, data, conditions, strict=True):
                leaves[place] = value.bool() if condition else value
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function node has a function

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
            known[node] = _as(value, like) if isinstance(value, Tensor) else value
            if any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in filled):
                self.folded.add(str(node.target))
            return
        arguments = tuple(pytree.tree_map_only(fx.Node, lambda leaf: known.get(leaf), node.args))
        origin = _origin(node)
        if not isinstance(value, Tensor):
            known[node] = _Several(name, parents, function, arguments, value, origin)
            return
        truth = node.meta["val"].dtype == torch.bool
        value = value.detach().to(like.dtype if truth or value.is_floating_point() else value.dtype)
        made = Node(
            node.name, name, parents, function, arguments, node.kwargs, value, _batch(node), origin, truth=truth
        )
        for part in in_parts(made, nodes):
            nodes[part.name] = part


@dataclass(frozen=True, eq=False)
class _Several:
    """An operation on data with several results, until one of them is picked."""

    operation: str
    parents: tuple[str, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    value: Sequence[Tensor]
    origin: str


@isolated
def capture(model: Source | Graph, x: Tensor) -> Graph:
    """The graph of a network in evaluation mode, of whatever code it is made.

    Args:
        model: maps (N, *D) to (N, K), a module or a program that ``torch.export.export`` or ``torch.export.load``
            returned; a graph comes back as it is.
        x: an input or several, (N, *D).

    Raises:
        UnsupportedLayer: ``torch.export`` cannot follow the code, with its reason; or answers depend on other rows.
        InvalidInput: N is 0.
    """
    if isinstance(model, Graph):
        return model
    module = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    modes = [(part, part.training) for part in module.modules()]
    weight = next(module.parameters(), None)
    example = checks.not_empty(x)[:1].detach().to(x.dtype if weight is None else weight.dtype)
    try:
        for part, _ in modes:
            part.training = False
        graph, reason = _captured(module, example.expand(2, *x.shape[1:]).contiguous(), one_by_one=False)
        if graph is None or _merges_rows(graph, example):
            single, _ = _captured(module, example.contiguous(), one_by_one=True)
            if single is None:
                raise UnsupportedLayer(
                    f"torch.export does not capture the model for any number of rows: {reason}; write its forward "
                    f"pass without branches on values and with sizes taken from x.shape"
                )
            graph = single
        _refuse_coupled_rows(module, example)
    finally:
        for part, training in modes:
            part.training = training
    return graph


def _captured(module: nn.Module, example: Tensor, *, one_by_one: bool) -> tuple[Graph | None, str]:
    """The graph, or None and why there is none."""
    shapes = None if one_by_one else ({0: torch.export.Dim.DYNAMIC},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
            met = {node.target for node in program.graph.nodes if node.op == "call_function"}
            replaced = met & (REWRITES.keys() - EXACT.keys())
            if not all(_is_simple(target) for target in met):
                program = program.run_decompositions(dict(REWRITES))  # no operation in place is left
    except Exception as error:  # torch.export raises anything
        return None, (str(error).strip() or type(error).__name__).splitlines()[0]
    return Graph(program, one_by_one=one_by_one, inexact=frozenset(str(target) for target in replaced)), ""


def _is_simple(target: object) -> bool:
    """An operation that has a rule as it is; to look for others among its parts takes most of the time of a capture."""
    if not isinstance(target, torch._ops.OpOverload) or target in REWRITES or target._schema.is_mutable:
        return False
    return any(str(target) in known for known in (AFFINE, FUNCTIONS, PARTS))


def _refuse_coupled_rows(module: nn.Module, example: Tensor) -> None:
    """A model has to answer for an input alone as it does among others; to turn rows over leaves no trace in shapes."""
    step = torch.linspace(0.05, 0.15, example.numel(), dtype=example.dtype, device=example.device)
    pair = torch.cat([example, example + step.view_as(example)])
    with torch.no_grad():
        try:
            together = module(pair.clone())
        except Exception:  # it takes one input only
            return
        alone = torch.cat([module(row.clone()) for row in pair.split(1)])
    same = together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-3, atol=1e-3, equal_nan=True)
    if not same:
        raise UnsupportedLayer(
            "the model mixes the dimension of inputs with others, so that its answer for an input depends on the rest "
            "of the batch: remove batch statistics"
        )


def _merges_rows(graph: Graph, example: Tensor) -> bool:
    with torch.no_grad():
        return any(node.batch != 0 for node in graph.bind(example).values())


def _ancestors(graph: fx.Graph) -> set[fx.Node]:
    """What the output is made of."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    found, waiting = set(), [output]
    while waiting:
        for parent in waiting.pop().all_input_nodes:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _mapped(node: Node, count: int) -> Node:
    """A node for one input as one for several, with a dimension for them in front."""
    value = node.value.unsqueeze(0).expand(count, *node.value.shape)
    function = torch.func.vmap(node.function) if node.parents else node.function
    return Node(
        node.name, node.operation, node.parents, function, node.arguments, node.options, value, 0, node.origin, node
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


def _renamed(nodes: dict[str, Node], outputs: Any) -> Node:  # noqa: ANN401  # whatever the model returns
    output = outputs[0] if isinstance(outputs, tuple | list) and len(outputs) == 1 else outputs
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


def _origin(node: fx.Node) -> str:
    """The line of source code that an operation comes from."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    files = [i for i, line in enumerate(lines) if line.startswith("File ")]
    return " ".join(lines[files[-1] :]) if files else "unknown"


def _holds_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
