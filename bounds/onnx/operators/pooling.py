"""Maxima and means over windows."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, operator
from bounds.onnx.operators.windows import Windows, each_image, require_known_places, surrounded, windows_of
from bounds.onnx.values import Value

aten = torch.ops.aten
LARGEST = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}
MEANS = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}


def _counts(sizes: tuple[int, ...], windows: Windows, ceil: bool) -> list[int]:
    """Windows along each dimension; with ``ceil`` also those that end behind the padding but start before it."""
    counts = []
    for i, span in enumerate(windows.spans()):
        room = sizes[i] + windows.before[i] + windows.after[i] - span
        count = (-(-room // windows.strides[i]) if ceil else room // windows.strides[i]) + 1
        if ceil and (count - 1) * windows.strides[i] >= sizes[i] + windows.before[i]:
            count -= 1
        counts.append(count)
    return counts


def _max_pool(node: OnnxNode, x: Value) -> Value:
    node.only_first_output()
    sizes = x.shape[2:]
    windows, ceil = windows_of(node, sizes), bool(node.get("ceil_mode", 0))
    require_known_places(node, sizes, windows)
    operation = LARGEST.get(len(sizes))
    if operation is None:
        raise node.refused(f"pools over {len(sizes)} dimensions")
    if windows.symmetric and all(2 * pad <= size for pad, size in zip(windows.before, windows.kernel, strict=True)):
        options = (windows.kernel, windows.strides, windows.before, windows.gaps, ceil)
        return each_image(x, lambda tensor: operation(tensor, *options))
    places = _places(node, sizes, windows, _counts(sizes, windows, ceil))
    counts = list(places.shape[:-1])

    def layer(tensor: Any) -> Any:  # noqa: ANN401  # a tensor or a stand-in
        flat = aten.flatten.using_ints(tensor, 2)
        picked = aten.index_select.default(flat, 2, places.flatten())
        return aten.amax.default(aten.unflatten.int(picked, 2, [*counts, places.shape[-1]]), [-1])

    return each_image(x, layer)


def _places(node: OnnxNode, sizes: tuple[int, ...], windows: Windows, counts: list[int]) -> torch.Tensor:
    """Entries of all windows, in a last dimension; for those in the padding, another one of the same window."""
    flat = torch.zeros((), dtype=torch.int64)
    for i, size in enumerate(sizes):
        start = torch.arange(counts[i]) * windows.strides[i] - windows.before[i]
        place = start[:, None] + torch.arange(windows.kernel[i]) * windows.gaps[i]
        inside = (place >= 0) & (place < size)
        if not inside.any(1).all():
            raise node.refused("has windows that lie in the padding alone")
        first = place.gather(1, inside.long().argmax(1, keepdim=True))
        along = torch.where(inside, place, first)
        shape = [1] * (2 * len(sizes))
        shape[i], shape[len(sizes) + i] = along.shape
        flat = flat * size + along.view(shape)
    return flat.flatten(len(sizes))


def _average_pool(node: OnnxNode, x: Value) -> Value:
    sizes = x.shape[2:]
    windows, ceil = windows_of(node, sizes), bool(node.get("ceil_mode", 0))
    require_known_places(node, sizes, windows)
    operation = MEANS.get(len(sizes))
    if operation is None or any(gap != 1 for gap in windows.gaps):
        raise node.refused(f"pools over {len(sizes)} dimensions with dilations {windows.gaps}")
    counts = _counts(sizes, windows, ceil)
    if counts == _counts(sizes, windows, False) and windows.symmetric:
        pads, padding = windows.before, bool(node.get("count_include_pad", 0))
        if all(2 * pad <= size for pad, size in zip(pads, windows.kernel, strict=True)):
            options = (windows.kernel, windows.strides, pads, False, padding)
            return each_image(x, lambda tensor: operation(tensor, *options))
    return _padded_mean(node, x, windows, counts)


def _padded_mean(node: OnnxNode, x: Value, windows: Windows, counts: list[int]) -> Value:
    """The sum over each window, over the number of its entries that count."""
    sizes, operation = x.shape[2:], MEANS[x.ndim - 2]
    ends = [
        (count - 1) * step + size for count, step, size in zip(counts, windows.strides, windows.kernel, strict=True)
    ]
    beyond = [max(0, end - size - pad) for end, size, pad in zip(ends, sizes, windows.before, strict=True)]
    wide = Windows(windows.kernel, windows.strides, windows.gaps, windows.before, beyond)
    inside = torch.ones(1, 1, *sizes, dtype=torch.float64)
    if node.get("count_include_pad", 0):  # the padding counts, what lies behind it does not
        inside = surrounded(inside, windows, 1.0)
        lost = [most - end for most, end in zip(beyond, windows.after, strict=True)]
        flat = [size for most in reversed(lost) for size in (0, most)]
        inside = aten.constant_pad_nd.default(inside, flat)
    else:
        inside = surrounded(inside, wide)
    count = math.prod(windows.kernel)
    share = operation(inside, windows.kernel, windows.strides) * count
    counted = share.round().to(x.dtype)

    def layer(tensor: Any) -> Any:  # noqa: ANN401  # a tensor or a stand-in
        mean = operation(surrounded(tensor, wide), windows.kernel, windows.strides)
        return aten.div.Tensor(aten.mul.Tensor(mean, count), counted)

    return each_image(x, layer)


def _global_average_pool(node: OnnxNode, x: Value) -> Value:
    dims = list(range(2, x.ndim))
    return each_image(x, lambda tensor: aten.mean.dim(tensor, dims, True))


def _global_max_pool(node: OnnxNode, x: Value) -> Value:
    dims = list(range(2, x.ndim))
    return each_image(x, lambda tensor: aten.amax.default(tensor, dims, True))


POOLING: Mapping[str, Operator] = {
    "AveragePool": operator(_average_pool, "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides"),
    "GlobalAveragePool": operator(_global_average_pool),
    "GlobalMaxPool": operator(_global_max_pool),
    "MaxPool": operator(_max_pool, "auto_pad ceil_mode dilations kernel_shape pads storage_order strides"),
}
