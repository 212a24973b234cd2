"""Operators that change shapes, and those that make constants of shapes."""

import math
from collections.abc import Mapping

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, integers, operator, places
from bounds.onnx.values import Value, closed, constant, opened_value, whole_tensor

aten = torch.ops.aten


def _reshape(node: OnnxNode, x: Value, shape: Value | None = None) -> Value:
    wanted = integers(node, shape, "shape") or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    count = math.prod(x.shape)
    if -1 in wanted:
        known = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = count // known if known else 0
    if math.prod(wanted) != count or min(wanted, default=1) < 0:
        raise node.refused(f"cannot give {count} entries of shape {x.shape} the shape {wanted}")
    return x.viewed(wanted)


def _flatten(node: OnnxNode, x: Value) -> Value:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.viewed((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _transpose(node: OnnxNode, x: Value) -> Value:
    order = node.get("perm") or list(reversed(range(x.ndim)))
    order = places(node, order, x.ndim)
    if not x.is_data:
        return constant(aten.permute.default(x.tensor, order))
    if order == sorted(order):
        return x
    tensor, offset = x.opened([0] if order[0] != 0 else [])
    if offset == 0:
        return closed(aten.permute.default(tensor, order), 0, x)
    return opened_value(aten.permute.default(tensor, [0, *(place + 1 for place in order)]))


def _squeeze(node: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    given = integers(node, axes, "axes")
    gone = [i for i, size in enumerate(x.shape) if size == 1] if given is None else places(node, given, x.ndim)
    if any(x.shape[axis] != 1 for axis in gone):
        raise node.refused(f"takes away dimensions {gone} of shape {x.shape} that are not 1")
    return x.viewed([size for i, size in enumerate(x.shape) if i not in gone])


def _unsqueeze(node: OnnxNode, x: Value, axes: Value | None = None) -> Value:
    given = integers(node, axes, "axes") or []
    new = places(node, given, x.ndim + len(given))
    sizes = iter(x.shape)
    return x.viewed([1 if i in new else next(sizes) for i in range(x.ndim + len(given))])


def _shape(node: OnnxNode, x: Value) -> Value:
    return constant(torch.tensor(x.shape[slice(node.get("start", 0), node.get("end"))], dtype=torch.int64))


def _size(node: OnnxNode, x: Value) -> Value:
    return constant(torch.tensor(math.prod(x.shape)))


def _constant(node: OnnxNode) -> Value:
    for name, value in node.attributes.items():
        if name == "value":
            if value.is_floating_point() and value.isnan().any():
                raise node.refused("holds a number that is not a number")
            return constant(value)
        if name in ("value_float", "value_floats"):
            return constant(torch.tensor(value, dtype=torch.float32))
        if name in ("value_int", "value_ints"):
            return constant(torch.tensor(value, dtype=torch.int64))
    raise node.refused("holds no tensor")


def _constant_of_shape(node: OnnxNode, shape: Value) -> Value:
    value = node.get("value")
    value = torch.zeros(1) if value is None else value
    return constant(value.reshape(()).expand(integers(node, shape, "shape") or []).clone())


def _range(node: OnnxNode, start: Value, limit: Value, delta: Value) -> Value:
    constants_only(node, start=start, limit=limit, delta=delta)
    ends = [value.numbers().reshape(()).item() for value in (start, limit, delta)]
    return constant(torch.arange(*ends, dtype=start.dtype))


def _expand(node: OnnxNode, x: Value, shape: Value) -> Value:
    wanted = integers(node, shape, "shape") or []
    found = list(torch.broadcast_shapes(x.shape, tuple(wanted)))
    if not x.is_data:
        return constant(aten.expand.default(x.tensor, found))
    if tuple(found) == x.shape:
        return x
    if len(found) == x.ndim and found[0] == x.shape[0] == 1 and x.ndim > 1:
        return closed(aten.expand.default(x.tensor, [-1, *found[1:]]), 0, x)
    return opened_value(aten.expand.default(whole_tensor(x, len(found)), [-1, *found]))


def _tile(node: OnnxNode, x: Value, repeats: Value) -> Value:
    counts = integers(node, repeats, "repeats") or []
    if not x.is_data:
        return constant(aten.repeat.default(x.tensor, counts))
    if counts and counts[0] == 1 == x.shape[0] and x.ndim > 1:
        return closed(aten.repeat.default(x.tensor, [1, *counts[1:]]), 0, x)
    return opened_value(aten.repeat.default(whole_tensor(x), [1, *counts]))


def _depth_to_space(node: OnnxNode, x: Value) -> Value:
    size, (batch, channels, height, width) = node.get("blocksize"), x.shape
    left = channels // size**2
    if node.get("mode", "DCR") == "CRD":
        parts, order = x.viewed((batch, left, size, size, height, width)), [0, 1, 4, 2, 5, 3]
    else:
        parts, order = x.viewed((batch, size, size, left, height, width)), [0, 3, 4, 1, 5, 2]
    return _permuted(parts, order).viewed((batch, left, height * size, width * size))


def _space_to_depth(node: OnnxNode, x: Value) -> Value:
    size, (batch, channels, height, width) = node.get("blocksize"), x.shape
    parts = x.viewed((batch, channels, height // size, size, width // size, size))
    moved = _permuted(parts, [0, 3, 5, 1, 2, 4])
    return moved.viewed((batch, channels * size**2, height // size, width // size))


def _permuted(x: Value, order: list[int]) -> Value:
    tensor, offset = x.opened()
    moved = [0, *(place + 1 for place in order)] if offset else order
    return closed(aten.permute.default(tensor, moved), offset, x)


def _identity(node: OnnxNode, x: Value) -> Value:
    return x


def _one_hot(node: OnnxNode, indices: Value, depth: Value, values: Value) -> Value:
    constants_only(node, indices=indices, depth=depth, values=values)
    if node.get("axis", -1) != -1:
        raise node.refused("has another axis than the last")
    size = int(depth.numbers().reshape(()))
    off, on = values.numbers()
    place = indices.numbers().long().remainder(size)
    return constant(torch.where(torch.nn.functional.one_hot(place, size).bool(), on, off))


def _triangle(node: OnnxNode, x: Value, k: Value | None = None) -> Value:
    constants_only(node, k=k)
    diagonal = 0 if k is None else int(k.numbers().reshape(()))
    operation = aten.triu.default if node.get("upper", 1) else aten.tril.default
    tensor, offset = x.opened([0] if x.ndim < 3 else [])
    return closed(operation(tensor, diagonal), offset, x)


SHAPES: Mapping[str, Operator] = {
    "Constant": operator(_constant, "value value_float value_floats value_int value_ints"),
    "ConstantOfShape": operator(_constant_of_shape, "value"),
    "DepthToSpace": operator(_depth_to_space, "blocksize mode"),
    "Expand": operator(_expand),
    "Flatten": operator(_flatten, "axis"),
    "Identity": operator(_identity),
    "OneHot": operator(_one_hot, "axis"),
    "Range": operator(_range),
    "Reshape": operator(_reshape, "shape allowzero"),
    "Shape": operator(_shape, "start end"),
    "Size": operator(_size),
    "SpaceToDepth": operator(_space_to_depth, "blocksize"),
    "Squeeze": operator(_squeeze, "axes"),
    "Tile": operator(_tile),
    "Transpose": operator(_transpose, "perm"),
    "Trilu": operator(_triangle, "upper"),
    "Unsqueeze": operator(_unsqueeze, "axes"),
}
