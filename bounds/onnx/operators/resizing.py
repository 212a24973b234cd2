"""Resizing of images, as picked entries or as products with constant matrices."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, operator, places
from bounds.onnx.values import Value, closed

aten = torch.ops.aten
Number = TypeVar("Number", Fraction, np.float32)
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
        ratios = [Fraction(size, x.shape[axis]) for size, axis in zip(new, axes, strict=True)]
    elif factors:
        new = [_new_size(node, x.shape[axis], factor) for axis, factor in zip(axes, factors, strict=True)]
        ratios = [Fraction(factor) for factor in factors]
    else:
        raise node.refused("has neither scales nor sizes")
    for axis, size, factor in zip(axes, new, ratios, strict=True):
        x = _resized(node, x, axis, size, factor)
    return x


def _new_size(node: OnnxNode, old: int, factor: float) -> int:
    """The size of a dimension after a factor, if it is the same in single precision, in which runtimes compute it."""
    exact, single = math.floor(old * Fraction(factor)), math.floor(np.float32(old) * np.float32(factor))
    if exact != single:
        raise node.refused(f"makes {exact} or {single} entries of {old}, as runtimes round: give sizes")
    return exact


def _upsample(node: OnnxNode, x: Value, scales: Value | None = None) -> Value:
    given = node.get("scales")
    factors = scales if scales is not None else Value(torch.tensor(given), (len(given),))
    return _resize(node, x, factors)


def _resized(node: OnnxNode, x: Value, axis: int, new: int, factor: Fraction) -> Value:
    """The value with another size of one dimension."""
    old = x.shape[axis]
    if new == old and factor == 1:
        return x
    mode = node.get("mode", "nearest")
    tensor, offset = x.opened([axis])
    if mode == "nearest":
        return closed(aten.index_select.default(tensor, axis + offset, _picked(node, old, new, factor)), offset, x)
    exact = [float(_place(node, old, new, factor, place)) for place in range(new)]
    places = torch.tensor(exact, dtype=torch.float64, device="cpu")
    if mode == "linear":
        weights = _linear_weights(places.clamp(0, old - 1), old)
    elif mode == "cubic":
        weights = _cubic_weights(places, old, node.get("cubic_coeff_a", -0.75))
    else:
        raise node.refused(f"has mode {mode!r}")
    moved: Any = aten.movedim.int(tensor, axis + offset, -1)
    return closed(aten.movedim.int(aten.matmul.default(moved, weights.to(x.dtype)), -1, axis + offset), offset, x)


def _place(node: OnnxNode, old: int, new: int, factor: Number, place: int) -> Number:
    """The place of an entry of the new dimension in the old one, in the arithmetic of the factor."""
    number = type(factor)
    mode = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= WITH_COORDINATES else "asymmetric")
    if mode == "asymmetric":
        return number(place) / factor
    if mode == "align_corners":
        return number(place * (old - 1)) / number(max(new - 1, 1))
    if mode == "pytorch_half_pixel" and new == 1:
        return number(0)
    half = number(1) / number(2)
    centre = (number(place) + half) / factor - half
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return centre
    if mode == "half_pixel_symmetric":
        return number(old) * half * (number(1) - number(new) / (factor * number(old))) + centre
    raise node.refused(f"has coordinate_transformation_mode {mode!r}")


def _nearest(node: OnnxNode, place: Number, mode: str) -> int:
    """The entry that is nearest to a place."""
    half = type(place)(1) / type(place)(2)
    rounded = {
        "round_prefer_floor": lambda: math.ceil(place - half),
        "round_prefer_ceil": lambda: math.floor(place + half),
        "floor": lambda: math.floor(place),
        "ceil": lambda: math.ceil(place),
    }
    if mode not in rounded:
        raise node.refused(f"has nearest_mode {mode!r}")
    return rounded[mode]()


def _picked(node: OnnxNode, old: int, new: int, factor: Fraction) -> Tensor:
    """The old entry of each new one (new,), if it is the same in single precision, in which runtimes compute it."""
    if node.opset >= WITH_COORDINATES:
        modes = [node.get("nearest_mode", "round_prefer_floor")]
    else:  # which does not say it: onnxruntime rounds up where an image becomes smaller
        modes = ["floor", "ceil"] if factor < 1 else ["floor"]
    single = np.float32(float(factor))
    others = [_entries(node, old, new, factor, mode) for mode in modes]
    others += [_entries(node, old, new, single, mode) for mode in modes]
    exact = others[0]
    if any(other != exact for other in others):
        raise node.refused(f"resizes {old} entries to {new}, of which some are others as runtimes round: use 2 or 1/2")
    return torch.tensor(exact, dtype=torch.int64, device="cpu")


def _entries(node: OnnxNode, old: int, new: int, factor: Number, mode: str) -> list[int]:
    places = (_place(node, old, new, factor, place) for place in range(new))
    return [min(max(_nearest(node, place, mode), 0), old - 1) for place in places]


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
