"""Operations on several data as parts that are affine, or functions of few numbers: products, quotients, conditions.

A condition is the number 0 or 1 here. What is chosen by it is bounded by both, unless it is known which one it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations.affine import AFFINE
from bounds.operations.complex_numbers import COMPLEX_PARTS
from bounds.operations.masks import softmax_parts
from bounds.operations.node import Node, part_of

Nodes = Mapping[str, Node]
Side = Node | float | Tensor  # data, or a constant
MOST_EXPONENTS = 16  # in one tensor

POSITIVE, NOT_NEGATIVE, CHOICE = (f"certify_bounds.{name}.default" for name in ("positive", "not_negative", "choice"))


def in_parts(node: Node, nodes: Nodes) -> list[Node]:
    """The parts of a node, of which the last one has its name; the node itself where it needs none."""
    make = PARTS.get(node.operation)
    if make in (_negated, _both, _either) and not all(nodes[parent].truth for parent in node.parents):
        return _without_rule(node, "of numbers")
    if make is not None:
        return make(node, nodes)
    if node.truth and not (node.operation in AFFINE and AFFINE[node.operation].exact):
        return _without_rule(node, "of conditions")
    return [node]


def _without_rule(node: Node, what: str) -> list[Node]:
    """The node under a name that says why no rule serves."""
    return [replace(node, operation=f"{node.operation} {what}")]


def _sides(node: Node, nodes: Nodes) -> list[Any]:
    """The arguments, with nodes where data stand."""
    parents = iter(node.parents)
    return [nodes[next(parents)] if argument is None else argument for argument in node.arguments]


# --------------------------------------------------------------------------------------------- products and quotients


def _multiplied(node: Node, nodes: Nodes) -> list[Node]:
    if len(node.parents) == 1:
        return [node]
    left, right = (nodes[parent] for parent in node.parents)
    for condition, factor in ((left, right), (right, left)):
        if condition.truth and (slope := _slope_below(condition, factor, 0.0, nodes)) is not None:
            return [_as_relu(node, factor, slope)]
    return _product(node, left, right, "")


def _divided(node: Node, nodes: Nodes) -> list[Node]:
    if node.arguments[-1] is not None:
        return [node]
    divisor = nodes[node.parents[-1]]
    inverse = part_of(node, "inverse", "aten.reciprocal.default", (divisor,), torch.reciprocal, (None,))
    if len(node.parents) == 1:
        factor = node.arguments[0]
        return [inverse, part_of(node, "", "aten.mul.Tensor", (inverse,), lambda y: factor * y, (factor, None))]
    return [inverse, *_product(node, nodes[node.parents[0]], inverse, "")]


def _product(node: Node, left: Node, right: Node, suffix: str) -> list[Node]:
    """The product of entries, of factors with one number of dimensions: in front of them may come one for inputs."""
    if left is right:
        return [part_of(node, suffix, "aten.square.default", (left,), torch.square, (None,))]
    factors = [left, right]
    ndim = max(left.value.ndim, right.value.ndim)
    aligned = []
    for i, (factor, side) in enumerate(zip(factors, ("left", "right"), strict=True)):
        if factor.value.ndim < ndim:
            shape = (1,) * (ndim - factor.value.ndim) + tuple(factor.value.shape)
            view = partial(torch.reshape, shape=shape)
            factors[i] = part_of(node, f"{suffix}{side} aligned", "aten.view.default", (factor,), view, (None, shape))
            aligned.append(factors[i])
    return [*aligned, part_of(node, suffix, "aten.mul.Tensor", (factors[0], factors[1]), torch.mul, (None, None))]


def _matrix_product(node: Node, nodes: Nodes) -> list[Node]:
    """All products of entries, and sums of them."""
    if len(node.parents) == 1:
        return [node]
    left, right = (nodes[parent] for parent in node.parents)
    if left.value.ndim < 2 or right.value.ndim < 2:
        return [node]
    columns = part_of(node, "left", "aten.unsqueeze.default", (left,), lambda x: x.unsqueeze(-1), (None, -1))
    rows = part_of(node, "right", "aten.unsqueeze.default", (right,), lambda y: y.unsqueeze(-3), (None, -3))
    products = _product(node, columns, rows, "products")
    total = part_of(node, "", "aten.sum.dim_IntList", (products[-1],), lambda z: z.sum(-2), (None, [-2]))
    return [columns, rows, *products, total]


def _power(node: Node, nodes: Nodes) -> list[Node]:
    """A power of two tensors, of which one may be constant."""
    base, exponent = _sides(node, nodes)
    if not isinstance(exponent, Node):
        return _constant_powers(node, base, exponent)
    if isinstance(base, Node):
        logarithm = part_of(node, "logarithm", "aten.log.default", (base,), torch.log, (None,))
        parts = [logarithm, *_product(node, logarithm, exponent, "product")]
    elif (base > 0).all():
        rate = base.log()
        parts = [part_of(node, "product", "aten.mul.Tensor", (exponent,), lambda y: rate * y, (rate, None))]
    else:
        return _without_rule(node, "of a base that is not above 0")
    return [*parts, part_of(node, "", "aten.exp.default", (parts[-1],), torch.exp, (None,))]


def _constant_powers(node: Node, x: Node, exponent: Tensor) -> list[Node]:
    """For each of few exponents the entries that have it, and the sum of these powers."""
    values = exponent.unique().tolist()
    if len(values) > MOST_EXPONENTS:
        return _without_rule(node, f"with {len(values)} different exponents")
    parts: list[Node] = []
    for i, value in enumerate(values):
        here = exponent == value
        chosen, raise_ = partial(_where_constant, here, other=1.0), partial(torch.pow, exponent=value)
        base = part_of(node, f"base {i}", "aten.where.self", (x,), chosen, (here, None, 1.0))
        power = part_of(node, f"power {i}", "aten.pow.Tensor_Scalar", (base,), raise_, (None, value))
        kept, suffix = partial(_where_constant, here, other=0.0), "" if len(values) == 1 else f"kept {i}"
        own = part_of(node, suffix, "aten.where.self", (power,), kept, (here, None, 0.0))
        last = "" if i == len(values) - 1 else f"sum {i}"
        added = [part_of(node, last, "aten.add.Tensor", (parts[-1], own), torch.add, (None, None))] if parts else []
        parts = [*parts, base, power, own, *added]
    return parts


def _where_constant(here: Tensor, x: Tensor, *, other: float) -> Tensor:
    return torch.where(here, x, other)


# ------------------------------------------------------------------------------------------------------------ selection


def _selected(node: Node, nodes: Nodes) -> list[Node]:
    """An entry of stacked data is one of these: networks that hand on their last state keep to one row."""
    parent, (_, dim, index) = nodes[node.parents[0]], node.arguments
    dim = dim % parent.value.ndim
    if parent.operation == "aten.stack.default":
        stacked = parent.arguments[0]
        along = (parent.arguments[1] if len(parent.arguments) > 1 else 0) % parent.value.ndim
        if along == dim and all(part is None for part in stacked):
            source = nodes[parent.parents[index % len(stacked)]]
            return [part_of(node, "", "aten.alias.default", (source,), torch.clone, (None,))]
    if parent.operation == "aten.transpose.int" and dim == 0:
        places = {place % parent.value.ndim for place in parent.arguments[1:3]}
        if places == {0, 1}:  # what is left has the order of dimensions that it had
            source, pick = nodes[parent.parents[0]], partial(torch.select, dim=1, index=index)
            return [part_of(node, "", "aten.select.int", (source,), pick, (None, 1, index))]
    return [node]


# ---------------------------------------------------------------------------------------------------------- conditions


def _compared(node: Node, nodes: Nodes) -> list[Node]:
    """Whether the difference of both sides is above 0, or at least 0."""
    name = node.operation.split(".")[1]
    sides = _sides(node, nodes)
    larger, smaller = sides if name in ("gt", "ge") else sides[::-1]
    parts = []
    if isinstance(larger, Node) and not isinstance(smaller, Node | Tensor) and smaller == 0:
        difference = larger
    else:
        difference = _difference(node, larger, smaller)
        parts.append(difference)
    operation, function = (POSITIVE, _positive) if name in ("gt", "lt") else (NOT_NEGATIVE, _not_negative)
    return [*parts, part_of(node, "", operation, (difference,), function, (None,))]


def _positive(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _not_negative(x: Tensor) -> Tensor:
    return (x >= 0).to(x.dtype)


def _difference(node: Node, larger: Side, smaller: Side) -> Node:
    def subtract(*data: Tensor) -> Tensor:
        values = iter(data)
        first, second = (next(values) if isinstance(side, Node) else side for side in (larger, smaller))
        return first - second  # type: ignore[return-value]  # one of them is data

    parents = tuple(side for side in (larger, smaller) if isinstance(side, Node))
    arguments = tuple(None if isinstance(side, Node) else side for side in (larger, smaller))
    return part_of(node, "difference", "aten.sub.Tensor", parents, subtract, arguments)


def _opposite(node: Node, condition: Side, suffix: str) -> Side:
    """1 where a condition is 0, and 0 where it is 1."""
    if isinstance(condition, Node):
        return part_of(node, suffix, "aten.rsub.Scalar", (condition,), lambda c: 1 - c, (None, 1))
    return 1 - torch.as_tensor(condition, dtype=node.value.dtype, device=node.value.device)


def _negated(node: Node, nodes: Nodes) -> list[Node]:
    (condition,) = _sides(node, nodes)
    return [_opposite(node, condition, "")]  # type: ignore[list-item]  # of data


def _both(node: Node, nodes: Nodes) -> list[Node]:
    left, right = _sides(node, nodes)
    return _conjunction(node, left, right, "")


def _either(node: Node, nodes: Nodes) -> list[Node]:
    left, right = _sides(node, nodes)
    not_left, not_right = _opposite(node, left, "not left"), _opposite(node, right, "not right")
    neither = _conjunction(node, not_left, not_right, "neither")
    made = [side for side in (not_left, not_right) if isinstance(side, Node)]
    return [*made, *neither, _opposite(node, neither[-1], "")]  # type: ignore[list-item]  # of data


def _conjunction(node: Node, left: Side, right: Side, suffix: str) -> list[Node]:
    if isinstance(left, Node) and isinstance(right, Node):
        return _product(node, left, right, suffix)
    condition, mask = (left, right) if isinstance(left, Node) else (right, left)
    factor = torch.as_tensor(mask, dtype=node.value.dtype, device=node.value.device)
    return [part_of(node, suffix, "aten.mul.Tensor", (condition,), lambda c: c * factor, (None, factor))]  # type: ignore[arg-type]


def _where(node: Node, nodes: Nodes) -> list[Node]:
    return _chosen(node, nodes, *_sides(node, nodes))


def _filled(node: Node, nodes: Nodes) -> list[Node]:
    x, condition, value = _sides(node, nodes)
    return _chosen(node, nodes, condition, value, x)


def _chosen(node: Node, nodes: Nodes, condition: Side, yes: Side, no: Side) -> list[Node]:
    """A rectifier where it is one; else both sides, of the shape of the result, and the choice between them."""
    if not isinstance(condition, Node):
        return [node]
    if (slope := _slope_below(condition, yes, no, nodes)) is not None:
        return [_as_relu(node, nodes[_operand(condition, nodes)[0]], slope)]
    shape = tuple(node.value.shape)
    sides = []
    for side, name in ((condition, "condition"), (yes, "yes"), (no, "no")):
        if not isinstance(side, Node):
            constant = torch.as_tensor(side, dtype=node.value.dtype, device=node.value.device).expand(shape)
            fill = partial(_constant, constant)
            side = part_of(node, name, "aten.full_like.default", (condition,), fill, (None, constant))
        elif side.value.shape != node.value.shape:
            side = part_of(
                node, name, "aten.expand.default", (side,), partial(torch.broadcast_to, size=shape), (None, shape)
            )
        sides.append(side)
    made = [side for side in sides if side.name not in nodes]
    choice = part_of(node, "", CHOICE, tuple(sides), lambda c, a, b: torch.where(c > 0.5, a, b), (None, None, None))
    return [*made, choice]


def _constant(value: Tensor, like: Tensor) -> Tensor:
    return value + torch.zeros_like(like)


def _slope_below(condition: Node, yes: Side, no: Side, nodes: Nodes) -> float | None:
    """The slope below 0 of the leaky ReLU that a choice is, ``where(x > 0, x, slope * x)``; None if it is none."""
    operand, turned = _operand(condition, nodes)
    above, below = (no, yes) if turned else (yes, no)
    if not isinstance(above, Node) or above.name != operand:
        return None
    if isinstance(below, Node) and below.operation == "aten.zeros_like.default":
        return 0.0
    if not isinstance(below, Node):
        return None if torch.as_tensor(below).any() else 0.0
    if below.operation not in ("aten.mul.Tensor", "aten.mul.Scalar") or below.parents != (operand,):
        return None
    first, second = below.arguments[:2]
    factor = torch.as_tensor(second if first is None else first, device=below.value.device)
    return float(factor) if factor.numel() == 1 and 0 <= float(factor) <= 1 else None


def _operand(condition: Node, nodes: Nodes) -> tuple[str, bool]:
    """The name of x in a condition ``x > 0`` or ``x < 0``, and whether it is the latter; an empty name of others."""
    while condition.operation == "aten._to_copy.default":
        condition = nodes[condition.parents[0]]
    if condition.operation not in (POSITIVE, NOT_NEGATIVE):
        return "", False
    difference = nodes[condition.parents[0]]
    constant = difference.arguments[0] if difference.operation == "aten.sub.Tensor" else None
    if len(difference.parents) == 1 and isinstance(constant, int | float) and constant == 0:
        return difference.parents[0], True
    return difference.name, False


def _as_relu(node: Node, x: Node, slope: float) -> Node:
    function = partial(F.leaky_relu, negative_slope=slope)
    return part_of(node, "", "aten.leaky_relu.default", (x,), function, (None, slope))


def _cast(node: Node, nodes: Nodes) -> list[Node]:
    """The numbers as they are, unless a cast makes others of them."""
    (x,) = (nodes[parent] for parent in node.parents)
    kind = node.options.get("dtype")
    if not x.truth and not (x.value.is_floating_point() and kind in (None, torch.float32, torch.float64)):
        return _without_rule(node, f"from {x.value.dtype} to {kind}")
    return [replace(part_of(node, "", "aten._to_copy.default", (x,), lambda y: y, (None,)), truth=x.truth)]


Maker = Callable[[Node, Nodes], list[Node]]


def _lines(make: Maker, *names: str) -> dict[str, Maker]:
    return {f"aten.{name}": make for name in names}


PARTS: Mapping[str, Maker] = {
    **COMPLEX_PARTS,
    **_lines(_multiplied, "mul.Tensor"),
    **_lines(_divided, "div.Tensor", "div.Scalar"),
    **_lines(_matrix_product, "matmul.default", "mm.default", "bmm.default"),
    **_lines(_power, "pow.Tensor_Tensor"),
    **_lines(_selected, "select.int"),
    "certify_bounds.shares.default": softmax_parts,
    **_lines(_compared, "gt.Scalar", "gt.Tensor", "ge.Scalar", "ge.Tensor"),
    **_lines(_compared, "lt.Scalar", "lt.Tensor", "le.Scalar", "le.Tensor"),
    **_lines(_negated, "logical_not.default", "bitwise_not.default"),
    **_lines(_both, "logical_and.default", "bitwise_and.Tensor", "__and__.Tensor"),
    **_lines(_either, "logical_or.default", "bitwise_or.Tensor", "__or__.Tensor"),
    **_lines(_where, "where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar"),
    **_lines(_filled, "masked_fill.Scalar", "masked_fill.Tensor"),
    **_lines(_cast, "_to_copy.default"),
}
# Of these, the data that are conditions are taken as such, not as numbers.
CONDITIONAL = {name for name, make in PARTS.items() if make in (_negated, _both, _either, _where, _filled)}
