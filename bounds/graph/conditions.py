"""Obstacles to bounds in a captured program: random numbers, and inputs that depend on each other."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from bounds.models import TORCH, draws

# Operations that carry the dimension of inputs along: their arguments name it without working on what lies along it.
CARRIERS = {"transpose", "permute", "movedim", "unsqueeze", "squeeze", "t", "swapaxes", "moveaxis", "numpy_T", "mT"}
# Tensors of the shape of another one, whose values do not matter to them.
MADE = ("new_", "zeros_like", "ones_like", "empty_like", "full_like")
# Numbers that tell a place in the batch, and parts of a constant, one for each place.
PLACES = {"arange", "linspace", "logspace", "eye"}
PARTS = {"slice", "narrow", "index", "index_select", "gather"}
FAR = 2**62  # the end of a slice that has none


@dataclass(frozen=True)
class Refusal:
    """An operation with which a program has no bounds.

    Attributes:
        operation: of ATen.
        origin: the line of source code that it comes from.
        reason: a sentence with the remedy.
    """

    operation: str
    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operation} {self.reason}; it stands at {self.origin}"


def refusals(program: torch.export.ExportedProgram) -> list[Refusal]:
    """Operations of an exported program that draw random numbers or mix inputs, in order."""
    found = []
    for part in program.graph_module.modules():  # branches, and what runs without gradients, are programs of their own
        if isinstance(part, fx.GraphModule):
            wanted = ancestors(part.graph, _values)
            for node in part.graph.nodes:
                reason = _randomness(node) or (_mixing(node) if node in wanted else "")
                if reason:
                    found.append(Refusal(str(node.target), origin_of(node), reason))
    return found


def _randomness(node: fx.Node) -> str:
    """Why the node is random, or nothing. What writes into a tensor need not be an ancestor of the output."""
    if not draws(node.target, node.args, node.kwargs):
        return ""
    return (
        "draws random numbers, and a bound speaks of a deterministic function: switch it off in evaluation mode "
        "(training=False, p=0), or keep the numbers in a buffer"
    )


def _mixing(node: fx.Node) -> str:
    """Why the answer for an input would depend on others of its batch, or on its place there; or nothing."""
    name = _name(node)
    if not (name and _shapes(node)):
        return ""
    sources = [parent for parent in node.all_input_nodes if _batch_places(parent)]
    if sources:
        mixes = not name.startswith(MADE) and (_along(node, name, sources[0]) or _is_one_for_all(node))
    else:
        parts = name in PARTS and any(_shapes(parent) for parent in node.all_input_nodes)
        mixes = bool(_batch_places(node)) and (parts or (name in PLACES and not all(map(_counts_rows, node.users))))
    if not mixes:
        return ""
    return (
        "works along the dimension of inputs, so that the answer for an input depends on the rest of the batch: "
        "remove batch statistics, and what moves or counts inputs"
    )


def _along(node: fx.Node, name: str, source: fx.Node) -> bool:
    """Whether the operation works along the dimension of inputs, which stays as long as it is."""
    places, values = _batch_places(source), _arguments(node)
    if len(places) != 1 or name in CARRIERS or (_is_longer(node) and not _batch_places(node)):
        return False
    batch, ndim = places[0], source.meta["val"].ndim
    if "batch_norm" in name and (values.get("training") or values.get("running_mean", ...) is None):
        return True
    if name in ("roll", "flip") and values.get("dims") == []:
        return True  # of all entries in a row
    if name == "stack":
        return False  # a new dimension
    if name in ("tile", "repeat"):  # of which the numbers are counts of copies, the last of the last dimension
        counts = next(values[key] for key in ("dims", "repeats") if key in values)
        ahead = len(counts) - ndim + batch  # type: ignore[arg-type]  # a list
        return ahead >= 0 and bool(counts[ahead] != 1)  # type: ignore[index]
    if name == "slice" and values.get("start") in (None, 0) and values.get("step") == 1:
        end = values.get("end")
        if end is None or (isinstance(end, int) and end >= FAR):
            return False  # all of it
    if name == "index":
        indices = list(values["indices"])  # type: ignore[call-overload]  # a list
        place = indices[batch] if batch < len(indices) else None
        return source is node.args[0] and place is not None and _name(place) != "arange"
    given = [values[key] for key in ("dim", "dims") if values.get(key) is not None]
    dims = [dim for value in given for dim in (value if isinstance(value, list | tuple) else [value])]
    return any(isinstance(dim, int) and dim % ndim == batch for dim in dims)


def _is_one_for_all(node: fx.Node) -> bool:
    """Whether the result is as large for any number of inputs."""
    return bool(_shapes(node)) and not _is_longer(node)


def _counts_rows(user: fx.Node) -> bool:
    """Whether numbers of rows pick from each row, as in ``x[torch.arange(len(x)), k]``."""
    return _name(user) == "index"


def _name(node: fx.Node) -> str:
    """The name of an operation without its overload."""
    return node.target._schema.name.split("::")[-1] if isinstance(node.target, torch._ops.OpOverload) else ""


def _arguments(node: fx.Node) -> dict[str, object]:
    """The arguments of a node by name, with defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an operation of ATen
    values: dict[str, object] = {part.name: part.default_value for part in schema if part.has_default_value()}
    values |= {part.name: value for part, value in zip(schema, node.args, strict=False)}
    return values | dict(node.kwargs)


def _shapes(node: fx.Node) -> list[torch.Size]:
    """Shapes of the tensor, or of several, that a node is."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [part.shape for part in values if isinstance(part, torch.Tensor)]


def _is_longer(node: fx.Node) -> bool:
    """Whether its size grows with the number of inputs."""
    return any(not str(size).isdigit() for shape in _shapes(node) for size in shape)


def _batch_places(node: fx.Node) -> list[int]:
    """Dimensions whose size is that of the batch, by the symbols that export found."""
    shapes = _shapes(node)
    sizes = map(str, shapes[0] if shapes else ())
    return [i for i, size in enumerate(sizes) if size.isidentifier() and not size.startswith("u")]  # u0: of a mask


def _values(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values matter to one, not their shape or type alone."""
    if _name(node).startswith(MADE):
        return []
    return node.all_input_nodes[:1] if _name(node).endswith("_as") else node.all_input_nodes


def ancestors(
    graph: fx.Graph, parents: Callable[[fx.Node], list[fx.Node]] = lambda node: node.all_input_nodes
) -> set[fx.Node]:
    """Nodes that the output is made of, by the parents of nodes."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    found, waiting = set(), [output]
    while waiting:
        for parent in parents(waiting.pop()):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def origin_of(node: fx.Node) -> str:
    """The line of source code that an operation comes from, in the user's files if it can be; or its module."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    files = [i for i, line in enumerate(lines) if line.startswith("File ")]
    if files:
        own = [i for i in files if TORCH not in lines[i]]
        start = (own or files)[-1]
        return " ".join(lines[start : next((i for i in files if i > start), len(lines))])
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return f"module {modules[-1][0] or '(the model itself)'} of type {modules[-1][1]}" if modules else "unknown"
