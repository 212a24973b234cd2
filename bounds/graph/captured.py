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
from torch.export.graph_signature import ExportGraphSignature, OutputKind
from torch.utils import _pytree as pytree

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput, InvalidModel, UnsupportedLayer
from bounds.graph.conditions import Refusal, ancestors, origin_of, refusals
from bounds.graph.decompositions import EXACT, REWRITES
from bounds.models import PROBE_ROWS, agree, answer, evaluation_mode, mixes_rows, require_module, tolerance
from bounds.operations.affine import AFFINE
from bounds.operations.complex_numbers import OF_COMPLEX, in_pairs
from bounds.operations.constants import STORED, Constant
from bounds.operations.functions import FUNCTIONS
from bounds.operations.node import Node
from bounds.operations.products_and_conditions import CONDITIONAL, PARTS, in_parts

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Source = nn.Module | torch.export.ExportedProgram

aten = torch.ops.aten
# Views fit the layout in memory that tensors of the network have; those of bounds may have another one.
ANY_LAYOUT: Mapping[Any, Any] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}


class Graph:
    """A captured network; weights stay those of the model, so that training changes both.

    Use :func:`capture` to make one.

    Attributes:
        program: the exported network.
        one_by_one: whether it was captured for one input at a time, because its code merges rows with others or does
            not take any number of rows; it is then mapped over the rows.
        inexact: operations that were written as others, so that they round in a way of their own.
        refusals: operations that draw random numbers or mix inputs, for which there are no bounds.
        batch_norm: whether there are batch normalisations, whose order of operations depends on where they run.
        input_shape: of one input.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        *,
        one_by_one: bool = False,
        inexact: frozenset[str] = frozenset(),
        refusals: tuple[Refusal, ...] = (),
        batch_norm: bool = False,
    ) -> None:
        self.program = program
        self.one_by_one = one_by_one
        self.inexact = inexact
        self.refusals = refusals
        self.batch_norm = batch_norm
        self.input_shape = _input_shape(program)
        self._needed = ancestors(program.graph)
        self._bound: dict[tuple[Any, ...], dict[str, Node]] = {}
        self._copies: list[Tensor] = []  # of the weights that were bound last

    @isolated
    def bind(self, x: Tensor) -> dict[str, Node]:
        """The nodes that lead from the input to the output, in order of evaluation.

        Constants are in the dtype and on the device of the inputs (N, *D). What was bound last is kept as long as
        shape, dtype and weights stay the same. Gradients reach the weights where they are enabled.
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
        fixed: dict[fx.Node, Constant] = {}  # the tensors among them, as exact as they can be had
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in stored:
                    constant = _as(constants[stored[node.name]], x)
                    constant = constant.clone() if constant.is_inference() else constant
                    known[node] = constant if torch.is_grad_enabled() else constant.detach()
                    fixed[node] = Constant(constants[stored[node.name]])
                elif not isinstance(node.meta["val"], Tensor):
                    raise UnsupportedLayer(
                        f"the forward pass uses {node.name}, which is no tensor but such as a random generator: "
                        f"keep what it makes in a buffer"
                    )
                else:
                    nodes[node.name] = Node(node.name, "input", (), _same, (), {}, example, 0, "the input")
            elif node.op == "output":
                nodes["output"] = _renamed(nodes, _returned(signature, node.args[0]))
                nodes = _leading_to(nodes["output"], nodes)
            elif node in self._needed:
                self._add(node, nodes, known, fixed, x)
        if self.one_by_one:
            return {name: _mapped(node, len(x)) for name, node in nodes.items()}
        return nodes

    def _add(
        self,
        node: fx.Node,
        nodes: dict[str, Node],
        known: dict[fx.Node, Any],
        fixed: dict[fx.Node, Constant],
        like: Tensor,
    ) -> None:
        """Evaluate one operation and file it as data, or as something else in the dtype of the inputs."""
        flat, spec = pytree.tree_flatten((node.args, node.kwargs))
        places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf.name in nodes]
        filled = [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]
        if not places and any(isinstance(leaf, fx.Node) and leaf in fixed for leaf in flat):
            fixed[node] = _folded(node, known, fixed)
            known[node] = pytree.tree_map_only(Tensor, lambda part: _as(part, like), fixed[node].value)
            return
        filled = [like.dtype if isinstance(leaf, torch.dtype) and leaf in FLOATING else leaf for leaf in filled]
        constants = tuple(fixed[leaf] for leaf in flat if isinstance(leaf, fx.Node) and leaf in fixed)
        parents = tuple(flat[i].name for i in places)
        name = str(node.target)
        target = ANY_LAYOUT.get(node.target, node.target)
        conditions = [name in CONDITIONAL and nodes[parent].truth for parent in parents]
        pairs = [flat[i].meta["val"].is_complex() for i in places]

        def function(*data: Tensor) -> Any:  # noqa: ANN401  # one tensor, or several
            leaves = list(filled)
            for place, value, condition in zip(places, data, conditions, strict=True):
                leaves[place] = value.bool() if condition else value
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            return target(*args, **kwargs)

        if parents and (any(pairs) or _is_complex(node)):
            name, function = f"{name}{OF_COMPLEX}", in_pairs(function, pairs)
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
                    constants=source.constants,
                )
                return
        value = function(*(nodes[name].value for name in parents))
        if not parents or not _holds_tensors(value):  # constants, and sizes
            known[node] = _as(value, like) if isinstance(value, Tensor) else value
            if isinstance(value, Tensor) and not parents:  # what a factory makes
                fixed[node] = Constant(value)
            return
        arguments = tuple(pytree.tree_map_only(fx.Node, lambda leaf: known.get(leaf), node.args))
        origin = origin_of(node)
        if not isinstance(value, Tensor):
            known[node] = _Several(name, parents, function, arguments, value, origin, constants)
            return
        truth = node.meta["val"].dtype == torch.bool
        value = value.detach().to(like.dtype if truth or value.is_floating_point() else value.dtype)
        made = Node(
            node.name,
            name,
            parents,
            function,
            arguments,
            node.kwargs,
            value,
            _batch(node),
            origin,
            truth=truth,
            constants=constants,
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
    constants: tuple[Constant, ...]


def _folded(node: fx.Node, known: Mapping[fx.Node, Any], fixed: Mapping[fx.Node, Constant]) -> Constant:
    """An operation on constants alone, evaluated in float64."""
    flat, spec = pytree.tree_flatten((node.args, node.kwargs))
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf in fixed]
    parents = [fixed[flat[i]] for i in places]
    name = "getitem" if node.target is operator.getitem else str(node.target)
    as_stored = name == "aten._to_copy.default" and parents[0].operation == STORED  # a cast is made as the program says
    filled = [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]
    if not as_stored:
        parents = [parent.wide() for parent in parents]
        filled = [torch.float64 if isinstance(leaf, torch.dtype) and leaf in FLOATING else leaf for leaf in filled]

    def function(*parts: Any) -> Any:  # noqa: ANN401  # one tensor, or several
        leaves = list(filled)
        for place, part in zip(places, parts, strict=True):
            leaves[place] = part
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function node has a function

    value = function(*(parent.value for parent in parents))
    if as_stored:
        return Constant(value)
    arguments = tuple(pytree.tree_map_only(fx.Node, lambda leaf: None if leaf in fixed else known.get(leaf), node.args))
    return Constant(value, name, function, tuple(parents), arguments, node.kwargs, origin_of(node))


@isolated
def capture(model: Source | Graph, x: Tensor) -> Graph:
    """The graph of a network in evaluation mode, of whatever code it is made.

    Args:
        model: maps (N, *D) to (N, K), a module or a program that ``torch.export.export`` or ``torch.export.load``
            returned; a graph comes back as it is.
        x: an input or several, (N, *D).

    Raises:
        UnsupportedLayer: ``torch.export`` cannot follow the code, with its reason; an operation draws random numbers;
            or answers depend on other rows.
        InvalidModel: no module; the model does not accept the input, or returns no single tensor.
        InvalidInput: N is 0.
    """
    graph = capture_any(model, x)
    for refusal in graph.refusals:
        raise UnsupportedLayer(str(refusal))
    return graph


def capture_any(model: Source | Graph, x: Tensor) -> Graph:
    """Like :func:`capture`, for a network with operations that make bounds impossible as well."""
    if isinstance(model, Graph):
        return model
    module = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    module = _without_compiler(module)
    weight = next(module.parameters(), None)
    example = checks.not_empty(x)[:1].detach().to(x.dtype if weight is None else weight.dtype)
    with evaluation_mode(module):
        rows, together = _first_answers(module, example)
        graph, reason = _captured(module, example.expand(2, *x.shape[1:]).contiguous(), one_by_one=False)
        if graph is None or not (graph.refusals or _keeps_rows(graph, example)):
            single, _ = _captured(module, example.contiguous(), one_by_one=True)
            if single is None:
                raise UnsupportedLayer(
                    f"torch.export does not capture the model for any number of rows: {reason}; write its forward "
                    f"pass without branches on values and with sizes taken from x.shape"
                )
            graph = single
        if not graph.refusals:
            _refuse_other_functions(module, rows, together)
    return graph


def _without_compiler(module: nn.Module) -> nn.Module:
    """The module behind ``torch.compile``, which computes the same; TorchScript hides its code."""
    require_module(module)
    module = getattr(module, "_orig_mod", module)
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise UnsupportedLayer(
            "a TorchScript model has no Python code to capture: pass the nn.Module that it was made from, or a program "
            "of torch.export.export"
        )
    return module


def _first_answers(module: nn.Module, example: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows and the answers for them; one row alone where the model takes no more."""
    step = torch.linspace(0.05, 0.15, example.numel(), dtype=example.dtype, device=example.device).view_as(example)
    rows = torch.cat([example + count * step for count in range(PROBE_ROWS)])
    with torch.no_grad():
        try:
            return rows, answer(module, rows.clone())
        except InvalidModel:
            return example, answer(module, example.clone())  # which says what is wrong otherwise


def _refuse_other_functions(module: nn.Module, rows: Tensor, together: Tensor) -> None:
    """A bound speaks of one function of one input: tried, for what leaves no trace in the captured program."""
    with torch.no_grad():
        allowed = tolerance(module, together)
        again = answer(module, rows.clone())
        if not agree(again, together, allowed):
            raise UnsupportedLayer(
                "two forward passes of the model over the same inputs differ, and a bound speaks of a deterministic "
                "function: remove the random numbers of Python or NumPy, and what changes with every call"
            )
        repeats = agree(again, together)  # bit by bit
        mixed = mixes_rows(module, rows, together, 0.0 if repeats else allowed)
        ends = ((rows[place:][:1], together[place:][:1]) for place in (0, len(rows) - 1))
    if mixed or not all(agree(answer(module, row.clone()), found, allowed) for row, found in ends):
        raise UnsupportedLayer(
            "the model mixes the dimension of inputs with others, so that its answer for an input depends on the rest "
            "of the batch: remove batch statistics, and what moves or counts inputs"
        )


def _captured(module: nn.Module, example: Tensor, *, one_by_one: bool) -> tuple[Graph | None, str]:
    """The graph, or None and why there is none."""
    shapes = None if one_by_one else ({0: torch.export.Dim.DYNAMIC},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
            refused = tuple(refusals(program))
            met = {node.target for node in program.graph.nodes if node.op == "call_function"}
            replaced = met & (REWRITES.keys() - EXACT.keys())
            normalised = any("batch_norm" in str(target) for target in met)
            if not all(_is_simple(target) for target in met):
                program = program.run_decompositions(dict(REWRITES))  # no operation in place is left
    except Exception as error:  # torch.export raises anything
        return None, (str(error).strip() or type(error).__name__).splitlines()[0]
    inexact = frozenset(str(target) for target in replaced)
    graph = Graph(program, one_by_one=one_by_one, inexact=inexact, refusals=refused, batch_norm=normalised)
    return graph, ""


def _is_simple(target: object) -> bool:
    """An operation that has a rule as it is; to look for others among its parts takes most of the time of a capture."""
    if not isinstance(target, torch._ops.OpOverload) or target in REWRITES or target._schema.is_mutable:
        return False
    return any(str(target) in known for known in (AFFINE, FUNCTIONS, PARTS))


def _input_shape(program: torch.export.ExportedProgram) -> torch.Size:
    (name,) = program.graph_signature.user_inputs
    (value,) = (node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
    return torch.Size(value.shape[1:])


def _keeps_rows(graph: Graph, example: Tensor) -> bool:
    """Whether no node merges the dimension of inputs with another one."""
    with torch.no_grad():
        return all(node.batch == 0 for node in graph.bind(example).values())


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


def _leading_to(node: Node, nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The input and the nodes that a node is made of, in their order: some were written as others."""
    wanted = {node.name}
    for name, before in reversed(list(nodes.items())):
        if name in wanted:
            wanted.update(before.parents)
    return {name: before for name, before in nodes.items() if name in wanted or before.operation == "input"}


def _same(x: Tensor) -> Tensor:
    return x


def _returned(signature: ExportGraphSignature, outputs: Any) -> Any:  # noqa: ANN401  # whatever the model returns
    """What the model returns, without what it writes to its input."""
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


def _as(value: Tensor, like: Tensor) -> Tensor:
    """A constant on the device of the input, floating ones in its dtype."""
    if value.is_complex():
        return value.to(like.device, like.dtype.to_complex())
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)


def _batch(node: fx.Node) -> int | None:
    """The dimension whose size is that of the batch, by the symbols that export found."""
    sizes = [str(size) for size in node.meta["val"].shape]
    symbolic = [i for i, size in enumerate(sizes) if not size.isdigit()]
    return symbolic[0] if len(symbolic) == 1 and sizes[symbolic[0]].isidentifier() else None


def _is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


def _holds_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
