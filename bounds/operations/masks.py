"""Softmax as differences, exponentials, a sum and its reciprocal; what constant masks hide takes no part in it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bounds.errors import UnsupportedLayer
from bounds.operations.node import Node, part_of

FAINT = -1e3  # a constant summand that is no larger is taken to hide an entry, up to an error that is bounded
LEAKING = "certify_bounds.leaking.default"

Nodes = Mapping[str, Node]
_MOVES = {
    f"aten.{name}"
    for name in (
        *("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unsqueeze.default"),
        *("squeeze.dim", "squeeze.dims", "squeeze.default", "clone.default", "contiguous.default", "alias.default"),
        *("detach.default", "dropout.default", "permute.default", "transpose.int", "movedim.int", "expand.default"),
        "_to_copy.default",
    )
}


class _Masked(NamedTuple):
    """Exponents behind a mask.

    Attributes:
        node: the same exponents with other, moderate numbers where they are hidden.
        hidden: bool, where they are minus infinity.
        faint: bool, where a large number was taken from them.
    """

    node: Node
    hidden: Tensor
    faint: Tensor


def softmax_parts(node: Node, nodes: Nodes) -> list[Node]:
    """Softmax over the last dimension, ``1 / sum_j exp(x_j - x_i)``; both data that are hidden and sums are parts."""
    x, may_be_empty = nodes[node.parents[0]], bool(node.arguments[1])
    made: list[Node] = []
    masked = _behind(node, x, nodes, made)
    if masked is not None and masked.faint.any() and _empty(masked, x):
        made = []  # in a row of nothing else, large numbers are no mask
        masked = _behind(node, x, nodes, made, -torch.inf)
    if masked is None:
        return _parts(node, x, "")
    shape = torch.broadcast_shapes(masked.hidden.shape, masked.faint.shape, x.value.shape[-1:])
    faint = masked.faint.expand(shape)
    allowed = ~(masked.hidden.expand(shape) | faint)
    if not may_be_empty and not allowed.any(-1).all():
        raise UnsupportedLayer(
            f"a softmax has rows in which all entries are masked by minus infinity, so that it is NaN; it stands at "
            f"{node.origin}: leave at least one entry"
        )
    leaking = bool(faint.any())
    parts = _parts(node, masked.node, "masked" if leaking else "", allowed)
    if leaking:
        parts.append(part_of(node, "", LEAKING, (parts[-1], x), lambda weights, x: x.softmax(-1), (None, None, faint)))
    return [*made, *parts]


def _empty(masked: _Masked, x: Node) -> bool:
    """Whether there are rows in which nothing is left."""
    out = masked.hidden | masked.faint
    return bool(out.expand(torch.broadcast_shapes(out.shape, x.value.shape[-1:])).all(-1).any())


def _parts(node: Node, x: Node, suffix: str, allowed: Tensor | None = None) -> list[Node]:
    """The parts of softmax; of allowed entries alone if a mask is given."""
    prefix = f"{suffix} " if suffix else ""
    parts = [x]

    def add(name: str, operation: str, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        data = (parts[1], parts[2]) if name == "difference" else (x,) if name in ("over", "under") else (parts[-1],)
        parts.append(part_of(node, f"{prefix}{name}" if name else suffix, operation, data, function, arguments))

    count, like = x.value.shape[-1], x.value
    apart = 1 - torch.eye(count, dtype=like.dtype, device=like.device)
    if allowed is not None:  # no difference matters with an entry that takes no part
        open_ = allowed.to(like.dtype)
        apart = apart * open_.unsqueeze(-2) * open_.unsqueeze(-1)
    add("over", "aten.unsqueeze.default", lambda z: z.unsqueeze(-2), (None, -2))
    add("under", "aten.unsqueeze.default", lambda z: z.unsqueeze(-1), (None, -1))
    add("difference", "aten.sub.Tensor", torch.sub, (None, None))
    # Exactly 0 where both are the same entry, for intervals as well.
    add("apart", "aten.mul.Tensor", lambda z: z * apart, (None, apart))
    add("ratios", "aten.exp.default", torch.exp, (None,))
    if allowed is not None:
        over = open_.unsqueeze(-2)
        add("masked ratios", "aten.mul.Tensor", lambda z: z * over, (None, over))
    add("sum", "aten.sum.dim_IntList", lambda z: z.sum(-1), (None, [-1]))
    add("inverse", "aten.reciprocal.default", torch.reciprocal, (None,))
    known = "certify_bounds.within.default"
    if allowed is not None:
        add("weights", known, torch.clone, (None, 0.0, 1.0))
        add("", "aten.mul.Tensor", lambda z: z * open_, (None, open_))
    else:
        add("", known, torch.clone, (None, 0.0, 1.0))
    return parts[1:]


def _behind(owner: Node, x: Node, nodes: Nodes, made: list[Node], least: float = FAINT) -> _Masked | None:
    """The node behind the constant masks on the way to a node; nodes on that way are made anew."""
    moved, filled = x.operation in _MOVES or _scales(x), _filled(x)
    before = _behind(owner, nodes[x.parents[0]], nodes, made, least) if moved or filled is not None else None
    if moved:
        return None if before is None else _moved(owner, x, nodes[x.parents[0]].value, before, made)
    if filled is None:
        return None
    where, value = torch.broadcast_tensors(*filled[:2])
    masks = [_of_one_row(where & out, x.value.ndim) for out in (value == -torch.inf, value <= least)]
    hidden, out = masks  # all that is hidden is out
    if hidden is None or out is None or (before is None and not out.any()):
        return None
    moderate, parent, faint = torch.where(out, torch.zeros_like(value), value), nodes[x.parents[0]], out
    if before is not None:
        still = torch.ones_like(where) if filled[2] else ~where
        parent, hidden, faint = before.node, hidden | (before.hidden & still), out | (before.faint & still)
    if filled[2]:
        other = part_of(owner, f"with {x.name}", "aten.add.Tensor", (parent,), lambda z: z + moderate, (None, moderate))
    else:
        fill = partial(_filled_with, where, moderate)
        other = part_of(owner, f"with {x.name}", "aten.where.self", (parent,), fill, (where, moderate, None))
    made.append(other)
    return _Masked(other, hidden, faint & ~hidden)


def _moved(owner: Node, x: Node, like: Tensor, before: _Masked, made: list[Node]) -> _Masked | None:
    """The masks behind a node that moves entries, or multiplies all of them with a constant above 0."""
    masks: list[Tensor | None] = [before.hidden, before.faint]
    if x.operation in _MOVES:
        masks = [_of_one_row(x.function(mask.to(like.dtype).expand_as(like)) > 0, x.value.ndim) for mask in before[1:]]
    hidden, faint = masks
    if hidden is None or faint is None:
        return None
    name, value = f"{owner.name}/{x.name}", x.function(before.node.value)
    made.append(replace(x, name=name, parents=(before.node.name,), value=value, cache={}))
    return _Masked(made[-1], hidden, faint)


def _filled_with(where: Tensor, value: Tensor, x: Tensor) -> Tensor:
    return torch.where(where, value, x)


def _of_one_row(mask: Tensor, ndim: int) -> Tensor | None:
    """A mask that is the same for all inputs, as that of one; None if it is not."""
    if mask.ndim < ndim or len(mask) <= 1:
        return mask
    return mask[:1] if bool((mask == mask[:1]).all()) else None


def _scales(x: Node) -> bool:
    """Whether a node multiplies with one constant above 0."""
    if x.operation not in ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar"):
        return False
    constant = x.arguments[1] if x.arguments[0] is None else x.arguments[0]
    if len(x.parents) != 1 or constant is None or ("div" in x.operation and x.arguments[0] is not None):
        return False
    return torch.as_tensor(constant).numel() == 1 and bool((torch.as_tensor(constant) > 0).all())


def _filled(x: Node) -> tuple[Tensor, Tensor, bool] | None:
    """Entries with a constant in place of the parent, or added to it; the constants, and whether they are added."""
    like, (first, *rest) = x.value, (*x.arguments, None)[:4]

    def tensor(value: Any) -> Tensor:  # noqa: ANN401  # a number or a tensor
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    if len(x.parents) != 1:
        return None
    if x.operation.startswith("aten.masked_fill") and first is None and isinstance(rest[0], Tensor):
        return rest[0], tensor(rest[1]), False
    if x.operation.startswith("aten.where") and isinstance(first, Tensor):
        yes, no = rest[:2]
        return (~first, tensor(no), False) if yes is None else (first, tensor(yes), False)
    if x.operation == "aten.add.Tensor" and not x.options:
        constant = rest[0] if first is None else first
        value = tensor(constant)
        return torch.ones_like(value, dtype=torch.bool), value, True
    return None
