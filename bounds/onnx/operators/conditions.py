"""Comparisons, conditions, choices, and changes of type."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from bounds.onnx.files import FLOATS, torch_dtype
from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, operator
from bounds.onnx.operators.elementwise import each_entry
from bounds.onnx.values import Value, aligned, constant, merged

aten = torch.ops.aten
INTEGERS = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}
WIDE = {torch.int32, torch.int64}  # of which data are kept as real numbers


def _pairwise(operation: Callable[[Any, Any], Any]) -> Operator:
    def make(node: OnnxNode, x: Value, y: Value) -> Value:
        tensors, full = aligned([x, y])
        return merged(operation(*tensors), full, x.is_data or y.is_data)

    return operator(make)


def _equal(x: Any, y: Any) -> Any:  # noqa: ANN401  # tensors or stand-ins
    """Equality as two inequalities, which have bounds."""
    return aten.logical_and.default(aten.ge.Tensor(x, y), aten.le.Tensor(x, y))


def _equality(node: OnnxNode, x: Value, y: Value) -> Value:
    tensors, full = aligned([x, y])
    data = x.is_data or y.is_data
    if data and (x.is_condition or y.is_condition):
        raise node.refused("compares conditions that depend on the input")
    return merged((_equal if data else aten.eq.Tensor)(*tensors), full, data)


def _where(node: OnnxNode, condition: Value, yes: Value, no: Value) -> Value:
    tensors, full = aligned([condition, yes, no])
    return merged(aten.where.self(*tensors), full, any(value.is_data for value in (condition, yes, no)))


def _not(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.logical_not.default(x.tensor))


def _cast(node: OnnxNode, x: Value) -> Value:
    """A change of type; of data, those that bounds can follow."""
    target = torch_dtype(int(node.get("to", 0)))
    if target is None:
        raise node.refused("casts to a type that torch does not have")
    if not x.is_data:
        return x if x.dtype == target else constant(aten._to_copy.default(x.tensor, dtype=target))
    if x.is_condition:
        if target == torch.bool:
            return x
        kind = target if target in FLOATS else torch.float32
        return replace(each_entry(x, aten._to_copy.default(x.tensor, dtype=kind)), whole=target in INTEGERS)
    if target == torch.bool:
        return each_entry(x, aten.logical_not.default(_equal(x.tensor, torch.zeros((), dtype=x.dtype))))
    if target in WIDE:
        return replace(x if x.whole else each_entry(x, aten.trunc.default(x.tensor)), whole=True)
    if target not in (torch.float32, torch.float64):
        raise node.refused(f"rounds what depends on the input to {target}")
    if x.whole or x.dtype == target:
        kept = x if x.dtype == target else each_entry(x, aten._to_copy.default(x.tensor, dtype=target))
        return replace(kept, whole=False)
    if (x.dtype, target) == (torch.float64, torch.float32):
        raise node.refused("rounds what depends on the input from float64 to float32")
    return each_entry(x, aten._to_copy.default(x.tensor, dtype=target))


CONDITIONS: Mapping[str, Operator] = {
    "And": _pairwise(aten.logical_and.default),
    "Cast": operator(_cast, "to saturate"),
    "Equal": operator(_equality),
    "Greater": _pairwise(lambda x, y: aten.gt.Tensor(x, y)),
    "GreaterOrEqual": _pairwise(lambda x, y: aten.ge.Tensor(x, y)),
    "Less": _pairwise(lambda x, y: aten.lt.Tensor(x, y)),
    "LessOrEqual": _pairwise(lambda x, y: aten.le.Tensor(x, y)),
    "Not": operator(_not),
    "Or": _pairwise(aten.logical_or.default),
    "Where": operator(_where),
}
