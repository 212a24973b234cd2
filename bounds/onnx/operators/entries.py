"""Operators that pick entries, put parts together, take them apart, or surround them."""

from collections.abc import Mapping
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, integers, number, operator, places
from bounds.onnx.values import Value, closed, constant, opened_value, repeated, whole_tensor

aten = torch.ops.aten
UNBOUNDED = (2**31 - 1, 2**63 - 1)  # ends that stand for all that is left


def _concat(node: OnnxNode, *values: Value) -> Value:
    axis = places(node, [node.get("axis", 1)], values[0].ndim)[0]
    if not any(value.is_data for value in values):
        return constant(aten.cat.default([value.tensor for value in values], axis))
    values = tuple(value for value in values if 0 not in value.shape) or values[:1]
    if len(values) == 1:
        return values[0]
    full = axis == 0 or values[0].shape[0] != 1 or values[0].ndim < 2
    like = next(value.tensor for value in values if value.is_data)
    parts: list[Any] = []
    for value in values:
        if value.is_data:
            parts.append(whole_tensor(value) if full else value.tensor)
        else:
            parts.append(repeated(value.viewed(value.shape if full else value.shape[1:]).tensor, like))
    joined = aten.cat.default(parts, axis + full)
    return opened_value(joined) if full else Value(joined, (1, *joined.shape[1:]))


def _split(node: OnnxNode, x: Value, sizes: Value | None = None) -> tuple[Value, ...]:
    axis = places(node, [node.get("axis", 0)], x.ndim)[0]
    parts = integers(node, sizes, "split")
    if parts is None:
        count = node.get("num_outputs", len(node.outputs))
        most = -(-x.shape[axis] // count)
        parts = [min(most, x.shape[axis] - i * most) for i in range(count)]
    if sum(parts) != x.shape[axis] or min(parts) < 0:
        raise node.refused(f"cannot split {x.shape[axis]} entries into {parts}")
    tensor, offset = x.opened([axis])
    ends = [sum(parts[: i + 1]) for i in range(len(parts))]
    return tuple(
        closed(aten.slice.Tensor(tensor, axis + offset, end - size, end), offset, x)
        for size, end in zip(parts, ends, strict=True)
    )


def _slice(
    node: OnnxNode,
    x: Value,
    starts: Value | None = None,
    ends: Value | None = None,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    first, last = integers(node, starts, "starts") or [], integers(node, ends, "ends") or []
    along = places(node, integers(node, axes, "axes") or list(range(len(first))), x.ndim)
    strides = integers(node, steps, "steps") or [1] * len(first)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        if step == 0:
            raise node.refused("has a step of 0")
        if step < 0 and end in UNBOUNDED:
            raise node.refused(f"goes back to the end {end}, which runtimes read in different ways: write {-end}")
        x = _sliced(
            x, axis, range(x.shape[axis])[slice(start, end, step)] if step > 0 else _back(x, axis, start, end, step)
        )
    return x


def _back(x: Value, axis: int, start: int, end: int, step: int) -> range:
    """Places of a slice with a step below 0: it starts at an entry, and ends far below 0 are in front of the first."""
    size = x.shape[axis]
    start = max(min(start + size if start < 0 else start, size - 1), 0)
    end = max(end + size if end < 0 else end, -1)
    return range(start, end, step)


def _sliced(x: Value, axis: int, chosen: range) -> Value:
    if chosen == range(x.shape[axis]):
        return x
    tensor, offset = x.opened([axis])
    if len(chosen) and chosen.step > 0:
        tensor = aten.slice.Tensor(tensor, axis + offset, chosen[0], chosen[-1] + 1, chosen.step)
    else:
        tensor = aten.index_select.default(tensor, axis + offset, torch.tensor(list(chosen), dtype=torch.int64))
    return closed(tensor, offset, x)


def _gather(node: OnnxNode, x: Value, indices: Value) -> Value:
    constants_only(node, indices=indices)
    axis = places(node, [node.get("axis", 0)], x.ndim)[0]
    index, size = indices.numbers().long(), x.shape[axis]
    if index.numel() and not -size <= int(index.min()) <= int(index.max()) < size:
        raise node.refused(f"picks places outside of {size}")
    index = index.remainder(size) if size else index
    if index.ndim == 0:
        kept = [each for i, each in enumerate(x.shape) if i != axis]
        return _sliced(x, axis, range(int(index), int(index) + 1)).viewed(kept)
    tensor, offset = x.opened([axis])
    picked = closed(aten.index_select.default(tensor, axis + offset, index.flatten()), offset, x)
    return picked.viewed((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _gather_elements(node: OnnxNode, x: Value, indices: Value) -> Value:
    constants_only(node, indices=indices)
    axis = places(node, [node.get("axis", 0)], x.ndim)[0]
    index = indices.numbers().long().remainder(x.shape[axis])
    if not x.is_data:
        return constant(aten.gather.default(x.tensor, axis, index))
    tensor = whole_tensor(x)
    return opened_value(aten.gather.default(tensor, axis + 1, repeated(index, tensor)))


def _pad(
    node: OnnxNode, x: Value, pads: Value | None = None, fill: Value | None = None, axes: Value | None = None
) -> Value:
    mode, sizes = node.get("mode", "constant"), integers(node, pads, "pads") or []
    along = places(node, integers(node, axes, "axes") or list(range(len(sizes) // 2)), x.ndim)
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(along):
        before[axis], after[axis] = sizes[i], sizes[i + len(along)]
    value = number(node, fill, "value", 0.0) or 0.0
    moved = [axis for axis in range(x.ndim) if before[axis] or after[axis]]
    if mode != "constant" or min(*before, *after, 0) < 0:
        return _picked(node, x, mode, before, after)
    if not moved:
        return x
    tensor, offset = x.opened(moved)
    flat = [
        size for axis in reversed(range(1 - offset if x.is_data else 0, x.ndim)) for size in (before[axis], after[axis])
    ]
    return closed(aten.constant_pad_nd.default(tensor, flat, value), offset, x)


def _picked(node: OnnxNode, x: Value, mode: str, before: list[int], after: list[int]) -> Value:
    """Padding by entries of the value itself, one dimension after another."""
    if mode not in ("reflect", "edge", "wrap") or min(*before, *after) < 0:
        raise node.refused(f"pads in mode {mode!r} by {before} and {after}")
    for axis, size in enumerate(x.shape):
        place = torch.arange(-before[axis], size + after[axis])
        if mode == "edge":
            place = place.clamp(0, size - 1)
        elif mode == "wrap":
            place = place.remainder(size)
        elif size > 1:
            place = (place.remainder(2 * size - 2) - (size - 1)).abs().neg() + size - 1
        if len(place) != size:
            tensor, offset = x.opened([axis])
            x = closed(aten.index_select.default(tensor, axis + offset, place), offset, x)
    return x


ENTRIES: Mapping[str, Operator] = {
    "Concat": operator(_concat, "axis"),
    "Gather": operator(_gather, "axis"),
    "GatherElements": operator(_gather_elements, "axis"),
    "Pad": operator(_pad, "mode pads value"),
    "Slice": operator(_slice, "starts ends axes"),
    "Split": operator(_split, "axis split num_outputs"),
}
