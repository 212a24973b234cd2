"""What bounds need to know of each operation: a table, which a caller may extend.

An affine operation is evaluated, transposed by its vector-Jacobian product, and needs one line here. What remains to be
said is how far its output moves with an interval, entry by entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.graph import Node, entries

Spread = Callable[[Node, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Affine:
    """An operation that is affine in its data.

    Attributes:
        spread: of a node and one non-negative tensor for each parent, how far the output moves at most if the parents
            move so far: the absolute values of the matrix times these.
        terms: of a node and the values of its parents, rounded operations behind one entry of the output, at most.
        offset: of a node and its value at zero, the size of what is added up for that value; None for the value.
        applies: of a node, whether it is affine there, with the data where they stand.
    """

    spread: Spread
    terms: Callable[[Node, tuple[Tensor, ...]], int]
    offset: Callable[[Node, Tensor], Tensor] | None = None
    applies: Callable[[Node], bool] = lambda node: True


def _one_factor(node: Node) -> bool:
    """Only one argument is data: a product with a constant."""
    return len(node.parents) == 1


def _first_alone(node: Node) -> bool:
    """Only the first argument is data, so that neither a weight nor a divisor is."""
    return len(node.parents) == 1 and node.arguments[0] is None


def _entrywise(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For matrices with one entry per row for each parent, or with none below 0: all moves, evaluated and added."""
    zeros = tuple(torch.zeros_like(part) for part in reach)
    start = node.function(*zeros)
    moves = [(node.function(*zeros[:i], part, *zeros[i + 1 :]) - start).abs() for i, part in enumerate(reach)]
    return torch.stack(moves).sum(0)


def _weighted(operation: Callable[..., Tensor]) -> Spread:
    """For an operation of (data, weight, bias, ...): the same with the absolute values of the weight."""

    def spread(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
        weight, *rest = node.arguments[1:]
        moved: Tensor = operation(reach[0], weight.abs(), None, *rest[1:])
        return moved

    return spread


def _matrix(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For a product with one constant factor."""
    first, second = (reach[0] if part is None else part.abs() for part in node.arguments[:2])
    return torch.matmul(first, second)


def _few(node: Node, parents: tuple[Tensor, ...]) -> int:
    """A move, a factor or a sum of the parents; transposed, a sum over the places that an entry was copied to."""
    return 4 + len(parents) + max(entries(node.value) // max(1, entries(parent)) for parent in parents)


def _fan_in(node: Node, parents: tuple[Tensor, ...]) -> int:
    """Of a weight (out, in, ...), or of a transposed one, whichever is more, and the bias."""
    weight: Tensor = node.arguments[1]
    return max(weight[0].numel(), weight[:, 0].numel()) + 1


def _all(node: Node, parents: tuple[Tensor, ...]) -> int:
    """A sum over all entries of a row, or over fewer; transposed likewise."""
    return max(entries(parents[0]), entries(node.value)) + 2


def _normalization_offset(node: Node, start: Tensor) -> Tensor:
    """Mean times scale and the bias, which may cancel."""
    weight, bias, mean, variance = node.arguments[1:5]
    size: Tensor = mean.abs() / (variance + node.arguments[6]).sqrt()
    if weight is not None:
        size = size * weight.abs()
    if bias is not None:
        size = size + bias.abs()
    return size.view(-1, *[1] * (start.ndim - 2)).expand_as(start)


ENTRYWISE, REDUCTION = Affine(_entrywise, _few), Affine(_entrywise, _all)
SCALING, MATRIX = Affine(_entrywise, _few, applies=_one_factor), Affine(_matrix, _all, applies=_one_factor)
QUOTIENT = Affine(_entrywise, _few, applies=_first_alone)


def _layer(operation: Callable[..., Tensor]) -> Affine:
    """A linear layer or a convolution."""
    return Affine(_weighted(operation), _fan_in, applies=_first_alone)


# One line for each operation. Names are those of ATen; a caller may add to a copy.
AFFINE: Mapping[str, Affine] = {
    **{
        f"aten.{name}": ENTRYWISE
        for name in (
            *("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "clone.default"),
            *("permute.default", "transpose.int", "t.default", "contiguous.default", "alias.default", "detach.default"),
            *(
                "unsqueeze.default",
                "squeeze.dim",
                "squeeze.dims",
                "squeeze.default",
                "expand.default",
                "repeat.default",
            ),
            *("slice.Tensor", "select.int", "split.Tensor", "split_with_sizes.default", "chunk.default"),
            *("unbind.int", "cat.default", "stack.default", "flip.default", "roll.default", "index.Tensor"),
            *("constant_pad_nd.default", "pad.default", "neg.default", "add.Tensor", "sub.Tensor", "rsub.Scalar"),
            "dropout.default",
        )
    },
    **{
        f"aten.{name}": REDUCTION
        for name in (
            *("mean.dim", "mean.default", "sum.dim_IntList", "sum.default"),
            *("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default", "adaptive_avg_pool1d.default"),
            *("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default"),
        )
    },
    "aten._native_batch_norm_legit_no_training.default": Affine(
        _entrywise, lambda node, parents: 10, _normalization_offset
    ),
    "aten.linear.default": _layer(F.linear),
    "aten.conv1d.default": _layer(F.conv1d),
    "aten.conv2d.default": _layer(F.conv2d),
    "aten.conv3d.default": _layer(F.conv3d),
    "aten.conv_transpose1d.default": _layer(F.conv_transpose1d),
    "aten.conv_transpose2d.input": _layer(F.conv_transpose2d),
    "aten.conv_transpose3d.input": _layer(F.conv_transpose3d),
    "aten.mul.Tensor": SCALING,
    "aten.mul.Scalar": SCALING,
    "aten.div.Tensor": QUOTIENT,
    "aten.div.Scalar": QUOTIENT,
    "aten.matmul.default": MATRIX,
    "aten.mm.default": MATRIX,
    "aten.bmm.default": MATRIX,
}


def affine(node: Node, table: Mapping[str, Affine] = AFFINE) -> Affine | None:
    """The entry of a node, or None if it is not affine in its data."""
    entry = table.get(node.operation)
    return entry if entry is not None and entry.applies(node) else None
