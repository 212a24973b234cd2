"""What bounds need to know of each affine operation: a table, which a caller may extend.

An affine operation is evaluated, transposed by its vector-Jacobian product, and needs one line here. What remains to be
said is how far its output moves with an interval, entry by entry. A transpose of its own, from
:mod:`bounds.operations.transposes`, makes it fast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations import transposes
from bounds.operations.node import Node, entries
from bounds.operations.transposes import Transpose

Spread = Callable[[Node, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Affine:
    """An operation that is affine in its data.

    Attributes:
        spread: of a node and one non-negative tensor for each parent, how far the output moves at most if the parents
            move so far: the absolute values of the matrix times these.
        terms: of a node and the values of its parents, rounded operations behind one entry of the output, at most.
        applies: of a node, whether it is affine there, with the data where they stand.
        exact: whether it moves entries about without rounding.
        transposed_terms: as ``terms``, behind one coefficient that its transpose has moved; None for the same.
        transpose: the transpose of its matrix on the rows that linear bounds carry backward; None where it does not
            serve, and always for the vector-Jacobian product.
    """

    spread: Spread
    terms: Callable[[Node, tuple[Tensor, ...]], int]
    applies: Callable[[Node], bool] = lambda node: True
    exact: bool = False
    transposed_terms: Callable[[Node, tuple[Tensor, ...]], int] | None = None
    transpose: Transpose = transposes.none

    def moved(self, node: Node, reach: tuple[Tensor, ...]) -> Tensor:
        """How far the output moves at most if the parents move by ``reach``, at least 0."""
        single = node.single
        if single is None:
            return self.spread(node, reach)
        moved: Tensor = torch.func.vmap(lambda *part: self.spread(single, part))(*reach)
        return moved

    def at_zero(self, node: Node, parents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The value where parents of the given shapes are 0, and the size of what is added up for it."""

        def make() -> tuple[Tensor, Tensor]:
            start = node.function(*(torch.zeros_like(part) for part in parents))
            return start, start.abs()

        found: tuple[Tensor, Tensor] = node.cached("at_zero", make)
        return found


def _one_factor(node: Node) -> bool:
    """Only one argument is data: a product with a constant."""
    return len(node.parents) == 1


def _first_alone(node: Node) -> bool:
    """Only the first argument is data, so that neither a weight nor a divisor is."""
    return len(node.parents) == 1 and node.arguments[0] is None


def _constant_condition(node: Node) -> bool:
    """The condition is no data."""
    return node.arguments[0] is not None


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
        moved: Tensor = operation(reach[0], node.cached("size", weight.abs), None, *rest[1:])
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


def _fan_out(node: Node, parents: tuple[Tensor, ...]) -> int:
    """Of a weight (out, in, ...)."""
    weight: Tensor = node.arguments[1]
    return weight[:, 0].numel()


def _all(node: Node, parents: tuple[Tensor, ...]) -> int:
    """A sum over all entries of a row, or over fewer; transposed likewise."""
    return max(entries(parents[0]), entries(node.value)) + 2


ENTRYWISE, REDUCTION = Affine(_entrywise, _few), Affine(_entrywise, _all)
MOVE = Affine(_entrywise, _few, exact=True)
RESHAPE = Affine(_entrywise, _few, exact=True, transpose=transposes.reshaped)
SUM = Affine(_entrywise, _few, transpose=transposes.summed)
DIFFERENCE = Affine(_entrywise, _few, transpose=transposes.subtracted)
SCALING = Affine(_entrywise, _few, applies=_one_factor, transpose=transposes.multiplied)
QUOTIENT = Affine(_entrywise, _few, applies=_first_alone, transpose=transposes.divided)
MATRIX = Affine(_matrix, _all, applies=_one_factor)
SELECTION = Affine(_entrywise, _few, applies=_constant_condition, exact=True)


def _layer(operation: Callable[..., Tensor], transpose: Transpose = transposes.none) -> Affine:
    """A linear layer or a convolution."""
    behind = None if transpose is transposes.none else _fan_out
    return Affine(_weighted(operation), _fan_in, applies=_first_alone, transposed_terms=behind, transpose=transpose)


def _lines(entry: Affine, *names: str) -> dict[str, Affine]:
    return {f"aten.{name}": entry for name in names}


# One line for each operation. Names are those of ATen; a caller may add to a copy.
AFFINE: Mapping[str, Affine] = {
    **_lines(RESHAPE, "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints"),
    **_lines(RESHAPE, "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default", "unflatten.int"),
    **_lines(RESHAPE, "clone.default", "contiguous.default", "alias.default", "detach.default", "dropout.default"),
    **_lines(MOVE, "permute.default", "transpose.int", "t.default", "movedim.int", "expand.default"),
    **_lines(MOVE, "repeat.default", "broadcast_tensors.default", "slice.Tensor", "select.int", "narrow.default"),
    **_lines(MOVE, "split.Tensor", "split_with_sizes.default", "chunk.default", "unbind.int", "cat.default"),
    **_lines(MOVE, "stack.default", "flip.default", "roll.default", "index.Tensor", "index_select.default"),
    **_lines(MOVE, "constant_pad_nd.default", "pad.default", "neg.default", "pixel_shuffle.default"),
    **_lines(ENTRYWISE, "rsub.Scalar", "full_like.default", "zeros_like.default", "ones_like.default"),
    **_lines(MOVE, "tril.default", "triu.default", "masked_fill.Scalar", "upsample_nearest2d.vec"),
    **_lines(SUM, "add.Tensor", "_to_copy.default"),
    **_lines(DIFFERENCE, "sub.Tensor"),
    **_lines(SELECTION, "where.self", "where.ScalarOther", "where.ScalarSelf"),
    **_lines(REDUCTION, "mean.dim", "mean.default", "sum.dim_IntList", "sum.default", "cumsum.default"),
    **_lines(REDUCTION, "avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default", "upsample_bilinear2d.vec"),
    **_lines(REDUCTION, "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default"),
    **_lines(REDUCTION, "_adaptive_avg_pool2d.default"),
    **_lines(_layer(F.linear, transposes.linear), "linear.default"),
    **_lines(_layer(F.conv1d), "conv1d.default", "conv1d.padding"),
    **_lines(_layer(F.conv2d, transposes.convolved), "conv2d.default"),
    **_lines(_layer(F.conv2d), "conv2d.padding"),
    **_lines(_layer(F.conv3d), "conv3d.default", "conv3d.padding"),
    **_lines(_layer(F.conv_transpose1d), "conv_transpose1d.default"),
    **_lines(_layer(F.conv_transpose2d), "conv_transpose2d.input"),
    **_lines(_layer(F.conv_transpose3d), "conv_transpose3d.input"),
    **_lines(SCALING, "mul.Tensor", "mul.Scalar"),
    **_lines(QUOTIENT, "div.Tensor", "div.Scalar"),
    **_lines(MATRIX, "matmul.default", "mm.default", "bmm.default"),
}


def affine(node: Node, table: Mapping[str, Affine] = AFFINE) -> Affine | None:
    """The entry of a node, or None if it is not affine in its data."""
    entry = table.get(node.operation)
    return entry if entry is not None and entry.applies(node) else None
