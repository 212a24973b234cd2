"""A recorded graph, recorded once more with operations written as those that bounds have rules for."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bounds.onnx.recording import ROWS, Recorder

aten = torch.ops.aten


def decomposed(graph: fx.Graph, stored: Mapping[str, Tensor]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """A recorded graph with operations that bounds have no rule for written as simpler ones, and its constants."""
    recorder, made = Recorder(rewrites=True), dict[fx.Node, Any]()
    for node in graph.nodes:
        recorder.origin = node.meta.get("stack_trace", "")
        if node.op == "placeholder" and node.name in stored:
            made[node] = recorder.weight(node.name, stored[node.name])
        elif node.op == "placeholder":
            value = node.meta["val"]
            made[node] = recorder.input(tuple(value.shape[1:]), value.dtype)
        elif node.op == "output":
            recorder.end(made[node.args[0]])
        elif node.target is aten.sym_size.int:
            made[node] = ROWS
        elif node.target is operator.getitem:
            made[node] = made[node.args[0]][node.args[1]]
        else:
            args, kwargs = pytree.tree_map_only(fx.Node, made.__getitem__, (node.args, node.kwargs))
            made[node] = recorder.call(node.target, *args, **kwargs)
    return recorder.graph, recorder.stored
