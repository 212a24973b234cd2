"""Operations on constants alone, evaluated in float64 while a network is bound."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bounds.graph.conditions import origin_of
from bounds.operations.constants import STORED, Constant

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def with_arguments(
    target: Callable[..., Any], arguments: Sequence[Any], spec: pytree.TreeSpec, places: Sequence[int]
) -> Callable[..., Any]:
    """An operation as a function of its arguments at some places, with all others filled in."""
    args, kwargs = pytree.tree_unflatten(list(arguments), spec)
    numbered, _ = pytree.tree_unflatten(list(range(len(arguments))), spec)
    positions = {place: i for i, place in enumerate(numbered) if isinstance(place, int)}
    if all(place in positions for place in places):  # none in a list: to fill lists takes longer than most operations

        def direct(*parts: Any) -> Any:  # noqa: ANN401  # one tensor, or several
            filled = list(args)
            for place, part in zip(places, parts, strict=True):
                filled[positions[place]] = part
            return target(*filled, **kwargs)

        return direct

    def function(*parts: Any) -> Any:  # noqa: ANN401  # one tensor, or several
        leaves = list(arguments)
        for place, part in zip(places, parts, strict=True):
            leaves[place] = part
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return target(*args, **kwargs)

    return function


def folded(
    node: fx.Node,
    flat: Sequence[Any],
    spec: pytree.TreeSpec,
    known: Mapping[fx.Node, Any],
    fixed: Mapping[fx.Node, Constant],
) -> Constant:
    """An operation on constants alone, whose arguments are given in a row, evaluated in float64."""
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, fx.Node) and leaf in fixed]
    parents = [fixed[flat[i]] for i in places]
    name = "getitem" if node.target is operator.getitem else str(node.target)
    as_stored = name == "aten._to_copy.default" and parents[0].operation == STORED  # a cast is made as the program says
    filled = [known.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf for leaf in flat]
    if not as_stored:
        parents = [parent.wide() for parent in parents]
        filled = [torch.float64 if isinstance(leaf, torch.dtype) and leaf in FLOATING else leaf for leaf in filled]
    assert callable(node.target)  # of a call_function node
    function = with_arguments(node.target, filled, spec, places)
    value = function(*(parent.value for parent in parents))
    if as_stored:
        return Constant(value)
    arguments = tuple(pytree.tree_map_only(fx.Node, lambda leaf: None if leaf in fixed else known.get(leaf), node.args))
    return Constant(value, name, function, tuple(parents), arguments, node.kwargs, origin_of(node))


def in_dtype_of(value: Tensor, like: Tensor) -> Tensor:
    """A constant on the device of the input, floating ones in its dtype."""
    if value.is_complex():
        return value.to(like.device, like.dtype.to_complex())
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
