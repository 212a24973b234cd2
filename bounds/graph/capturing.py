"""Capturing a network by ``torch.export``, and what is tried on the model before bounds may speak of it."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.decompositions.table import EXACT, REWRITES
from bounds.errors import InvalidModel, UnsupportedLayer
from bounds.graph.captured import Captured, Graph, Source
from bounds.graph.conditions import refusals
from bounds.graph.values import refuse_other_values
from bounds.models import PROBE_ROWS, agree, answer, evaluation_mode, mixes_rows, require_module, tolerance
from bounds.operations.affine import AFFINE
from bounds.operations.functions import FUNCTIONS
from bounds.operations.node import Node
from bounds.operations.products_and_conditions import PARTS


@isolated
def capture(model: Source | Graph, x: Tensor) -> Graph:
    """The graph of a network in evaluation mode, of whatever code it is made.

    Args:
        model: maps (N, *D) to (N, K), a module or a program that ``torch.export.export`` or ``torch.export.load``
            returned; a graph comes back as it is.
        x: an input or several, (N, *D).

    Raises:
        UnsupportedLayer: ``torch.export`` cannot follow the code, with its reason; an operation draws random numbers;
            answers depend on other rows; or the graph computes other answers than the model at an input.
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
    if isinstance(model, Captured):
        return model.graph
    module = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    module = without_compiler(module)
    weight = next(module.parameters(), None)
    example = checks.not_empty(x)[:1].detach().to(x.dtype if weight is None else weight.dtype)
    with evaluation_mode(module):
        rows, together = _first_answers(module, example)
        graph, reason = _captured(module, example.expand(2, *x.shape[1:]).contiguous(), one_by_one=False)
        nodes = _nodes(graph, rows)
        if graph is None or not (graph.refusals or _keeps_rows(nodes)):
            single, _ = _captured(module, example.contiguous(), one_by_one=True)
            if single is None:
                raise UnsupportedLayer(
                    f"torch.export does not capture the model for any number of rows: {reason}; write its forward "
                    f"pass without branches on values and with sizes taken from x.shape"
                )
            graph, nodes = single, _nodes(single, rows)
        if not graph.refusals:
            allowed = tolerance(module, together)
            _refuse_other_functions(module, rows, together, allowed)
            refuse_other_values(graph, nodes, rows, together, allowed)
    return graph


def without_compiler(module: nn.Module) -> nn.Module:
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


def _refuse_other_functions(module: nn.Module, rows: Tensor, together: Tensor, allowed: float) -> None:
    """A bound speaks of one function of one input: tried, for what leaves no trace in the captured program."""
    with torch.no_grad():
        again = answer(module, rows.clone())
        repeats = agree(again, together)  # bit by bit
        if not repeats and not agree(again, together, allowed):
            raise UnsupportedLayer(
                "two forward passes of the model over the same inputs differ, and a bound speaks of a deterministic "
                "function: remove the random numbers of Python or NumPy, and what changes with every call"
            )
        mixed = mixes_rows(module, rows, together, 0.0 if repeats else allowed)
        alone = torch.stack([answer(module, row.clone()) for row in (rows[:1], rows[-1:])])
    if mixed or not agree(alone, torch.stack([together[:1], together[-1:]]), allowed):
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


def _nodes(graph: Graph | None, rows: Tensor) -> dict[str, Node]:
    """The nodes of a graph at inputs; none of what has no bounds."""
    with torch.no_grad():
        return {} if graph is None or graph.refusals else graph.nodes_at(rows)


def _keeps_rows(nodes: Mapping[str, Node]) -> bool:
    """Whether no node merges the dimension of inputs with another one."""
    return all(node.batch == 0 for node in nodes.values())
