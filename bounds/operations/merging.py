"""Layers merged with the shifts and factors behind them, as of batch normalisation: fewer nodes, the same function.

A merged weight is rounded once more, so that this serves bounds that leave rounding out.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations.node import LARGEST_KEPT, Node

CONVOLUTIONS = ("aten.conv2d.default", "aten.conv2d.padding")
LAYERS = ("aten.linear.default", *CONVOLUTIONS)


def with_merged_layers(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes of a network, with layers merged that nothing else takes; each has the name of the last one in it."""
    taken: dict[str, int] = {}
    for node in nodes.values():
        for parent in node.parents:
            taken[parent] = taken.get(parent, 0) + 1
    found: dict[str, Node] = {}
    for name, node in nodes.items():
        before = found.get(node.parents[0]) if len(node.parents) == 1 else None
        if before is not None and taken[before.name] == 1 and _mergeable(before, node):
            del found[before.name]
            node = before.cached(f"merged with {name}", partial(_with, before, node))
        found[name] = node
    return found


def _mergeable(layer: Node, node: Node) -> bool:
    """Whether a node shifts or scales the channels of a layer."""
    if layer.operation not in LAYERS or layer.single is not None or node.options or len(node.arguments) != 2:
        return False
    if node.operation not in ("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor"):
        return False
    first, other = node.arguments
    if first is not None and node.operation in ("aten.sub.Tensor", "aten.div.Tensor"):
        return False
    constant = other if first is None else first
    if not isinstance(constant, Tensor) or node.value.shape != layer.value.shape:
        return False
    behind = 2 if layer.operation in CONVOLUTIONS else 0  # dimensions behind the channels
    channels = len(layer.arguments[1])
    by_channel = constant.ndim > behind and constant.shape[constant.ndim - 1 - behind] == channels
    unbatched = layer.value.ndim != (4 if behind else 2)
    if unbatched or constant.numel() != channels or not by_channel:
        return False
    # A large weight would be kept twice, and a factor behind it costs next to nothing.
    shifts = node.operation in ("aten.add.Tensor", "aten.sub.Tensor")
    return shifts or layer.arguments[1].numel() <= LARGEST_KEPT


def _with(layer: Node, node: Node) -> Node:
    """A layer that is followed by a shift or a factor, as one."""
    weight, *rest = layer.arguments[1:]
    bias, *settings = rest or [None]
    first, other = node.arguments
    constant = (other if first is None else first).reshape(-1)
    bias = torch.zeros_like(constant) if bias is None else bias
    if node.operation in ("aten.add.Tensor", "aten.sub.Tensor"):
        bias = bias + constant if node.operation == "aten.add.Tensor" else bias - constant
    else:
        factor = constant if node.operation == "aten.mul.Tensor" else 1 / constant
        weight, bias = weight * factor.view(-1, *[1] * (weight.ndim - 1)), bias * factor
    operation = F.conv2d if layer.operation in CONVOLUTIONS else F.linear

    def function(x: Tensor) -> Tensor:
        return operation(x, weight, bias, *settings)

    return replace(
        layer,
        name=node.name,
        function=function,
        arguments=(None, weight, bias, *settings),
        value=node.value,
        batch=node.batch,
        cache={},
    )
