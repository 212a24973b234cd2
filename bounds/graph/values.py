"""Whether a captured graph computes what its model computes, tried at some inputs.

Every proof rests on the graph: where it computes something else, bounds are of another network, and nothing tells.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from bounds.errors import UnsupportedLayer
from bounds.graph.captured import Graph
from bounds.models import agree
from bounds.operations.node import Node

TRIALS = 8  # evaluations of a graph with its numbers moved by rounding
MARGIN = 16  # by which rounding may exceed the largest change in these


def refuse_other_values(graph: Graph, nodes: Mapping[str, Node], rows: Tensor, answers: Tensor, allowed: float) -> None:
    """Refuse a graph whose values are others than the answers of its model, unless rounding explains that.

    Args:
        graph: captured from the model.
        nodes: of the graph at the rows.
        rows: (B, *D), in the dtype of the model.
        answers: of the model for the rows.
        allowed: absolute difference that does not count.

    Raises:
        UnsupportedLayer: they differ.
    """
    with torch.no_grad():
        if agree(_values(graph, nodes, rows, like=answers), answers, allowed):
            return
        if not _knows_its_constants(nodes, answers.dtype):
            return  # bounds of the deployed model refuse these, and others are about real arithmetic
        # In float64 the graph neither overflows nor rounds: the model may do both, and at a step rounding decides.
        rows, answers = rows.double(), answers.double()
        nodes = graph.nodes_at(rows)
        values = _values(graph, nodes, rows, like=answers)
        known = values.isfinite() & answers.isfinite()  # where it is not, nothing is proved
        distance = torch.where(known, (values - answers).abs(), 0.0).flatten()
        if bool((distance <= allowed + MARGIN * _moved_by_rounding(graph, nodes, rows, values)).all()):
            return
        place = int(distance.argmax())
        expected, found = float(answers.flatten()[place]), float(values.flatten()[place])
    raise UnsupportedLayer(
        f"the captured graph is another function than the model, so that bounds would be of another network: for the "
        f"same input the model answers {expected:.6g} and the graph {found:.6g}, which rounding does not explain; "
        f"capture parts of the model to find the operation, and write it as others"
    )


def _knows_its_constants(nodes: Mapping[str, Node], dtype: torch.dtype) -> bool:
    """Whether what the model computes from its weights alone keeps its digits in a dtype."""
    try:
        for node in nodes.values():
            for constant in node.constants:
                constant.units(torch.float64, dtype)
    except UnsupportedLayer:
        return False
    return True


def _values(graph: Graph, nodes: Mapping[str, Node], x: Tensor, *, like: Tensor) -> Tensor:
    """The answers that bounds are about, in the shape of those of the model."""
    # Nodes for one input at a time hold values of the first one.
    found = _evaluated(nodes, x) if graph.one_by_one else nodes["output"].value
    return found.reshape(like.shape)


def _evaluated(nodes: Mapping[str, Node], x: Tensor, unit: float = 0.0, generator: Generator | None = None) -> Tensor:
    """The output at inputs, with each number on the way moved by up to a unit of the largest one of its node."""
    found: dict[str, Tensor] = {}
    for name, node in nodes.items():
        if node.operation == "input":
            value = x.reshape(len(x), *node.value.shape[1:])
        else:
            value = node.function(*(found[parent] for parent in node.parents)).to(node.value.dtype)
        if unit and value.numel() and value.is_floating_point() and not node.truth:
            size = value.abs().nan_to_num(nan=0.0, posinf=0.0).max()
            share = 2 * torch.rand(value.shape, generator=generator, dtype=value.dtype) - 1
            value = value + unit * size * share.to(value.device)
        found[name] = value
    return found["output"]


def _moved_by_rounding(graph: Graph, nodes: Mapping[str, Node], x: Tensor, values: Tensor) -> float:
    """The largest change of values by numbers that are moved, in the coarsest precision of the program."""
    met = [node.meta.get("val") for node in graph.program.graph.nodes]
    dtypes = {value.dtype for value in met if isinstance(value, Tensor) and value.is_floating_point()}
    unit = max(2.0**-10 if x.is_cuda else 0.0, *(torch.finfo(dtype).eps for dtype in dtypes))  # TensorFloat-32
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for _ in range(TRIALS):
        change = (_evaluated(nodes, x, unit, generator).reshape(values.shape) - values).abs()
        largest = max(largest, float(change.nan_to_num(nan=0.0, posinf=0.0).max()))
    return largest
