"""Operations on constants alone, evaluated in float64 while a network is bound."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bounds.graph.calls import Call
from bounds.operations.constants import STORED, Constant

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def folded(call: Call, known: Mapping[fx.Node, Any], fixed: Mapping[fx.Node, Constant]) -> Constant:
    """An operation on constants alone, evaluated in float64."""
    node, flat = call.node, call.flat
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf in fixed]
    parents = [fixed[flat[i]] for i in places]
    name = "getitem" if node.target is operator.getitem else str(node.target)
    as_stored = name == "aten._to_copy.default" and parents[0].operation == STORED  # a cast is made as the program says
    filled = [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]
    if not as_stored:
        parents = [parent.wide() for parent in parents]
        filled = [torch.float64 if isinstance(leaf, torch.dtype) and leaf in FLOATING else leaf for leaf in filled]
    assert callable(node.target)  # of a call_function node
    function = call.function(node.target, filled, places)
    value = function(*(parent.value for parent in parents))
    if as_stored:
        return Constant(value)
    others = [(None if leaf in fixed else known.get(leaf)) if isinstance(leaf, fx.Node) else leaf for leaf in flat]
    arguments, _ = call.filled(others)
    return Constant(value, name, function, tuple(parents), arguments, node.kwargs, call.origin)


def in_dtype_of(value: Tensor, like: Tensor) -> Tensor:
    """A constant on the device of the input, floating ones in its dtype."""
    if value.is_complex():
        return value.to(like.device, like.dtype.to_complex())
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
