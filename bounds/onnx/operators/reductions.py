"""Sums, means, maxima and norms over dimensions; softmax."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, integers, operator, places
from bounds.onnx.operators.elementwise import each_entry
from bounds.onnx.values import Value, closed, constant

aten = torch.ops.aten
Reduce = Callable[[Any, list[int]], Any]
BY_DIMENSIONS = 13  # the opset from which softmax is over one dimension


def _reduction(reduce: Reduce) -> Operator:
    """An operator that reduces dimensions, given as an attribute or an input, and keeps them as 1 or not."""

    def make(node: OnnxNode, x: Value, axes: Value | None = None) -> Value:
        given = integers(node, axes, "axes")
        if not given:
            if node.get("noop_with_empty_axes", 0):  # what else it does it does to each entry: ReduceL1 gives |x|
                alone = make(node, x.viewed((*x.shape, 1)), constant(torch.tensor([x.ndim])))
                return alone.viewed(x.shape)
            given = list(range(x.ndim))
        gone = sorted(places(node, given, x.ndim))
        kept = [1 if i in gone else size for i, size in enumerate(x.shape)]
        tensor, offset = x.opened(gone)
        found = closed(reduce(tensor, [axis + offset for axis in gone]), offset, x) if gone else x
        return (
            found if node.get("keepdims", 1) else found.viewed([size for i, size in enumerate(kept) if i not in gone])
        )

    return operator(make, "axes keepdims noop_with_empty_axes")


def _mean(x: Any, dims: Sequence[int]) -> Any:  # noqa: ANN401  # a tensor or a stand-in
    return aten.mean.dim(x, dims, True)


def _sum(x: Any, dims: Sequence[int]) -> Any:  # noqa: ANN401
    return aten.sum.dim_IntList(x, dims, True)


def _max(x: Any, dims: Sequence[int]) -> Any:  # noqa: ANN401
    return aten.amax.default(x, dims, True)


def _min(x: Any, dims: Sequence[int]) -> Any:  # noqa: ANN401
    return aten.amin.default(x, dims, True)


def _product(x: Any, dims: Sequence[int]) -> Any:  # noqa: ANN401
    for dim in dims:
        x = aten.prod.dim_int(x, dim, True)
    return x


def _softmax(operation: Callable[..., Any]) -> Operator:
    def make(node: OnnxNode, x: Value) -> Value:
        if node.opset >= BY_DIMENSIONS:
            axis = places(node, [node.get("axis", -1)], x.ndim)[0]
            tensor, offset = x.opened([axis])
            return closed(operation(tensor, axis + offset), offset, x)
        axis = places(node, [node.get("axis", 1)], x.ndim)[0]  # over all entries from there on
        flat = x.viewed((1, math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return each_entry(flat, operation(flat.tensor, 2)).viewed(x.shape)

    return operator(make, "axis")


def _lp_normalization(node: OnnxNode, x: Value) -> Value:
    axis = places(node, [node.get("axis", -1)], x.ndim)[0]
    tensor, offset = x.opened([axis])
    order = node.get("p", 2)
    size = aten.linalg_vector_norm.default(tensor, order, [axis + offset], True)
    return closed(aten.div.Tensor(tensor, size), offset, x)


REDUCTIONS: Mapping[str, Operator] = {
    "LogSoftmax": _softmax(aten.log_softmax.int),
    "LpNormalization": operator(_lp_normalization, "axis p"),
    "ReduceL1": _reduction(lambda x, dims: _sum(aten.abs.default(x), dims)),
    "ReduceL2": _reduction(lambda x, dims: aten.linalg_vector_norm.default(x, 2, dims, True)),
    "ReduceLogSum": _reduction(lambda x, dims: aten.log.default(_sum(x, dims))),
    "ReduceLogSumExp": _reduction(lambda x, dims: aten.logsumexp.default(x, dims, True)),
    "ReduceMax": _reduction(_max),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_min),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, dims: _sum(aten.pow.Tensor_Scalar(x, 2), dims)),
    "Softmax": _softmax(aten.softmax.int),
}
