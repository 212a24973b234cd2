"""Normalisations: by stored statistics, and by those of the input itself."""

from collections.abc import Mapping
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, operator, places
from bounds.onnx.operators.elementwise import ELEMENTWISE
from bounds.onnx.operators.windows import each_image
from bounds.onnx.values import Value, closed

aten = torch.ops.aten
EPSILON = 1e-5
BY_CHANNEL = 21  # the opset from which groups are scaled channel by channel


def _batch_norm(node: OnnxNode, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Value:
    constants_only(node, scale=scale, bias=bias, mean=mean, variance=variance)
    if node.get("training_mode", 0):
        raise node.refused("normalises by the statistics of the batch: export the network in evaluation mode")
    if any(node.outputs[1:]):  # before opset 14 these say that it is in training mode
        raise node.refused("has outputs of statistics, as in training mode: export the network in evaluation mode")
    if node.get("spatial", 1) != 1:
        raise node.refused("has spatial = 0")
    epsilon = node.get("epsilon", EPSILON)
    rest = (scale.tensor, bias.tensor, mean.tensor, variance.tensor, False, 0.0, epsilon, False)
    return each_image(x, lambda tensor: aten.batch_norm.default(tensor, *rest))


def _instance_norm(node: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    constants_only(node, scale=scale, bias=bias)
    rest = (scale.tensor, bias.tensor, None, None, True, 0.0, node.get("epsilon", EPSILON), False)
    return each_image(x, lambda tensor: aten.instance_norm.default(tensor, *rest))


def _group_norm(node: OnnxNode, x: Value, scale: Value, bias: Value) -> Value:
    constants_only(node, scale=scale, bias=bias)
    groups, epsilon = node.get("num_groups"), node.get("epsilon", EPSILON)

    def of_channels(part: Value) -> Any:  # noqa: ANN401  # a tensor or a stand-in
        if node.opset >= BY_CHANNEL:
            return part.tensor
        return aten.repeat_interleave.self_int(part.tensor, x.shape[1] // groups)

    weights = of_channels(scale), of_channels(bias)
    return each_image(x, lambda tensor: aten.group_norm.default(tensor, groups, *weights, epsilon, False))


def _layer_norm(node: OnnxNode, x: Value, scale: Value, bias: Value | None = None) -> Value:
    node.only_first_output()
    constants_only(node, scale=scale, bias=bias)
    axis = places(node, [node.get("axis", -1)], x.ndim)[0]
    over, epsilon = x.shape[axis:], node.get("epsilon", EPSILON)
    tensor, offset = x.opened(range(axis, x.ndim))
    if scale.shape == over and (bias is None or bias.shape == over):
        shift = None if bias is None else bias.tensor
        return closed(aten.layer_norm.default(tensor, list(over), scale.tensor, shift, epsilon, False), offset, x)
    plain = closed(aten.layer_norm.default(tensor, list(over), None, None, epsilon, False), offset, x)
    scaled = ELEMENTWISE["Mul"].make(node, plain, scale)
    return scaled if bias is None else ELEMENTWISE["Add"].make(node, scaled, bias)  # type: ignore[return-value]


def _rms_norm(node: OnnxNode, x: Value, scale: Value) -> Value:
    constants_only(node, scale=scale)
    axis = places(node, [node.get("axis", -1)], x.ndim)[0]
    tensor, offset = x.opened(range(axis, x.ndim))
    weight = scale.tensor if scale.shape == x.shape[axis:] else None
    epsilon = node.get("epsilon", EPSILON)
    plain = closed(aten.rms_norm.default(tensor, list(x.shape[axis:]), weight, epsilon), offset, x)
    return plain if weight is not None else ELEMENTWISE["Mul"].make(node, plain, scale)  # type: ignore[return-value]


NORMALISATION: Mapping[str, Operator] = {
    "BatchNormalization": operator(_batch_norm, "epsilon momentum spatial training_mode"),
    "GroupNormalization": operator(_group_norm, "epsilon num_groups stash_type"),
    "InstanceNormalization": operator(_instance_norm, "epsilon"),
    "LayerNormalization": operator(_layer_norm, "axis epsilon stash_type"),
    "RMSNormalization": operator(_rms_norm, "axis epsilon stash_type"),
}
