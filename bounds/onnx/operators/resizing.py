"""Resizing of images, as picked entries or as products with constant matrices."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, operator, places
from bounds.onnx.values import Value, closed

aten = torch.ops.aten
WITH_COORDINATES = 11  # the opset from which a node states how places are computed


def _resize(
    node: OnnxNode, x: Value, region: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Value:
    if node.opset < WITH_COORDINATES:  # whose second input is that of the factors
        region, scales = None, region
    constants_only(node, roi=region, scales=scales, sizes=sizes)
    if (
        node.get("antialias", 0)
        or node.get("exclude_outside", 0)
        or node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise node.refused("has antialias, exclude_outside or keep_aspect_ratio_policy")
    axes = places(node, node.get("axes") or list(range(x.ndim)), x.ndim)
    factors = None if scales is None else [float(each) for each in scales.numbers().flatten().tolist()]
    if not factors and sizes is not None:
        new = [int(each) for each in sizes.numbers().flatten().tolist()]
        factors = [size / x.shape[axis] for size, axis in zip(new, axes, strict=True)]
    elif factors:
        new = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        raise node.refused("has neither scales nor sizes")
    for axis, size, factor in zip(axes, new, factors, strict=True):
        x = _resized(node, x, axis, size, factor)
    return x


def _upsample(node: OnnxNode, x: Value, scales: Value | None = None) -> Value:
    given = node.get("scales")
    factors = scales if scales is not None else Value(torch.tensor(given), (len(given),))
    return _resize(node, x, factors)


def _resized(node: OnnxNode, x: Value, axis: int, new: int, factor: float) -> Value:
    """The value with another size of one dimension."""
    old = x.shape[axis]
    if new == old and factor == 1:
        return x
    places = _places(node, old, new, factor)
    mode = node.get("mode", "nearest")
    tensor, offset = x.opened([axis])
    if mode == "nearest":
        index = _nearest(node, places).clamp(0, old - 1)
        return closed(aten.index_select.default(tensor, axis + offset, index), offset, x)
    if mode == "linear":
        weights = _linear_weights(places.clamp(0, old - 1), old)
    elif mode == "cubic":
        weights = _cubic_weights(places, old, node.get("cubic_coeff_a", -0.75))
    else:
        raise node.refused(f"has mode {mode!r}")
    moved: Any = aten.movedim.int(tensor, axis + offset, -1)
    return closed(aten.movedim.int(aten.matmul.default(moved, weights.to(x.dtype)), -1, axis + offset), offset, x)


def _places(node: OnnxNode, old: int, new: int, factor: float) -> Tensor:
    """The place of each new entry in the old dimension."""
    place = torch.arange(new, dtype=torch.float64)
    mode = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= WITH_COORDINATES else "asymmetric")
    if mode == "asymmetric":
        return place / factor
    if mode == "align_corners":
        return place * (old - 1) / (new - 1) if new > 1 else place * 0
    if mode == "pytorch_half_pixel" and new == 1:
        return place * 0
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (place + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = new / (factor * old)
        return old / 2 * (1 - adjustment) + (place + 0.5) / factor - 0.5
    raise node.refused(f"has coordinate_transformation_mode {mode!r}")


def _nearest(node: OnnxNode, places: Tensor) -> Tensor:
    mode = node.get("nearest_mode", "round_prefer_floor" if node.opset >= WITH_COORDINATES else "floor")
    rounded = {
        "round_prefer_floor": lambda: (places - 0.5).ceil(),
        "round_prefer_ceil": lambda: (places + 0.5).floor(),
        "floor": places.floor,
        "ceil": places.ceil,
    }
    if mode not in rounded:
        raise node.refused(f"has nearest_mode {mode!r}")
    return rounded[mode]().long()


def _linear_weights(places: Tensor, old: int) -> Tensor:
    """Shares (old, new) of the two entries around each place."""
    entries = torch.arange(old, dtype=torch.float64)[:, None]
    return (1 - (entries - places).abs()).clamp(min=0)


def _cubic_weights(places: Tensor, old: int, a: float) -> Tensor:
    """Shares (old, new) of the four entries around each place; those outside count for the entries at the ends."""
    weights = torch.zeros(old, len(places), dtype=torch.float64)
    first = places.floor()
    for step in (-1, 0, 1, 2):
        t = (places - first - step).abs()
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        share = torch.where(t <= 1, near, far)
        index = (first + step).long().clamp(0, old - 1)
        weights.scatter_add_(0, index[None], share[None])
    return weights


RESIZING: Mapping[str, Operator] = {
    "Resize": operator(
        _resize,
        "antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside extrapolation_value "
        "keep_aspect_ratio_policy mode nearest_mode",
    ),
    "Upsample": operator(_upsample, "mode scales"),
}
