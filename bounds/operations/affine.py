"""The table of affine operations, with all that bounds need to know of them; a caller may extend it.

An affine operation is evaluated, transposed by its vector-Jacobian product, and needs one line here. What remains to be
said is how far its output moves with an interval, entry by entry. A transpose of its own, from
:mod:`bounds.operations.transposes`, makes it fast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations import moved_windows, transposes
from bounds.operations.complex_numbers import FOURIER, OF_COMPLEX, fourier_spread, fourier_terms, split_spread
from bounds.operations.node import LARGEST_KEPT, Node, entries
from bounds.operations.transposes import Transpose

# The matrix of an operation without a closed form is kept as long as it has no more entries, N times.
LARGEST_MATRIX = 2**24
CUBIC = 2  # the mode of grid_sampler

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
        product: of a layer, which adds a bias to a product with a weight, its third and second argument: the product of
            data with any weight of this shape; None where it is no layer.
        rises: of a node, whether no entry of its output falls when an entry of its data rises.
    """

    spread: Spread
    terms: Callable[[Node, tuple[Tensor, ...]], int]
    applies: Callable[[Node], bool] = lambda node: True
    exact: bool = False
    transposed_terms: Callable[[Node, tuple[Tensor, ...]], int] | None = None
    transpose: Transpose = transposes.none
    product: Callable[[Node, Tensor, Tensor], Tensor] | None = None
    rises: Callable[[Node], bool] = lambda node: False

    @property
    def layer(self) -> bool:
        """Whether it adds a bias to a product with a weight."""
        return self.product is not None

    def moved(self, node: Node, reach: tuple[Tensor, ...]) -> Tensor:
        """The largest move of the output if the parents move by ``reach``, at least 0."""
        single = node.single
        if single is None:
            return self.spread(node, reach)
        moved: Tensor = torch.func.vmap(lambda *part: self.spread(single, part))(*reach)
        return moved

    def at_zero(self, node: Node, parents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The value where parents of the given shapes are 0, and the size of what is added up for it."""

        def make() -> tuple[Tensor, Tensor]:
            if self.layer and node.single is None:  # a pass through the layer would cost as much as that of the data
                return _bias(node)
            start = node.function(*(torch.zeros_like(part) for part in parents))
            return start, start.abs()

        found: tuple[Tensor, Tensor] = node.cached("at_zero", make)
        return found


def _bias(node: Node) -> tuple[Tensor, Tensor]:
    """The bias of a layer in the shape of its values, and its size; both without memory of that shape."""
    weight, *rest = node.arguments[1:]
    bias = rest[0] if rest and rest[0] is not None else node.value.new_zeros(())
    per_channel = bias if bias.ndim == 0 else bias.view(-1, *[1] * (weight.ndim - 2))
    return per_channel.expand(node.value.shape), per_channel.abs().expand(node.value.shape)


def _one_factor(node: Node) -> bool:
    """Only one argument is data: a product with a constant."""
    return len(node.parents) == 1


def _first_alone(node: Node) -> bool:
    """Only the first argument is data, so that neither a weight nor a divisor is."""
    return len(node.parents) == 1 and node.arguments[0] is None


def _data_at(*places: int) -> Callable[[Node], bool]:
    """Only the arguments at these places are data, so that neither an index nor a condition is."""

    def applies(node: Node) -> bool:
        data = [place for place in places if place < len(node.arguments) and node.arguments[place] is None]
        return len(node.parents) == len(data)

    return applies


def _constant_condition(node: Node) -> bool:
    """The condition is no data."""
    return node.arguments[0] is not None


def _entrywise(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For matrices with one entry per row for each parent, or with none below 0: all moves, evaluated and added."""
    zeros = tuple(torch.zeros_like(part) for part in reach)
    start = node.function(*zeros)
    moves = [(node.function(*zeros[:i], part, *zeros[i + 1 :]) - start).abs() for i, part in enumerate(reach)]
    return torch.stack(moves).sum(0)


def linear_part(node: Node, parents: tuple[Tensor, ...]) -> Tensor:
    """The value of an affine operation at some parents without its constants, which round nothing here.

    It is the transpose of the transpose: a difference of two values would lose what is small next to the constants, and
    forward derivatives would compile a part of torch first.
    """
    start, transpose, *_ = torch.func.vjp(node.function, *(torch.zeros_like(part) for part in parents))
    _, linear, *_ = torch.func.vjp(transpose, torch.zeros_like(start))
    found: Tensor = linear(parents)[0]
    return found


def _summed(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For sums, of data or of data and constants: moves that are small next to the constants count too."""
    return _entrywise(node, reach) if len(reach) > 1 else linear_part(node, reach).abs()


def _signed(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For any matrix of one parent, from its columns; for operations without a cheaper way."""
    (moves,) = reach
    # Not zeros_like: what is kept must not belong to the vmap around this.
    start = node.function(torch.zeros(moves.shape, dtype=moves.dtype, device=moves.device))
    whole = entries(moves) * start.numel() <= LARGEST_MATRIX
    size = entries(moves) if whole else max(1, LARGEST_MATRIX // max(1, start.numel()))

    def columns(first: int) -> Tensor:
        """Sizes of some columns, (columns, N, *shape)."""
        unit = torch.eye(entries(moves), dtype=start.dtype, device=start.device)[first : first + size]
        unit = unit.view(len(unit), 1, *moves.shape[1:]).expand(-1, *moves.shape)
        found: Tensor = torch.func.vmap(lambda one: (node.function(one) - start).abs())(unit)
        return found

    total = torch.zeros_like(start)
    for first, part in zip(range(0, entries(moves), size), moves.flatten(1).split(size, 1), strict=True):
        column = node.cached("sizes of columns", lambda: columns(0)) if whole else columns(first)
        total = total + (part.T.reshape(*part.T.shape, *[1] * (start.ndim - 1)) * column).sum(0)
    return total


def _sampled(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For samples of a map at given places: only cubic interpolation has weights below 0."""
    return _signed(node, reach) if node.arguments[2] == CUBIC else _entrywise(node, reach)


def _weighted(operation: Callable[..., Tensor]) -> Spread:
    """For an operation of (data, weight, bias, ...): the same with the absolute values of the weight."""

    def spread(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
        weight, *rest = node.arguments[1:]
        anew = weight.ndim > 2 and weight.numel() > LARGEST_KEPT  # hardly any time next to a convolution
        size = weight.abs() if anew else node.cached("size", weight.abs)
        moved: Tensor = operation(reach[0], size, None, *rest[1:])
        return moved

    return spread


def _product(operation: Callable[..., Tensor]) -> Callable[[Node, Tensor, Tensor], Tensor]:
    """An operation of (data, weight, bias, ...) on other data, with another weight and without a bias."""

    def product(node: Node, x: Tensor, weight: Tensor) -> Tensor:
        return operation(x, weight, None, *node.arguments[3:])

    return product


def _matrix(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For a product with one constant factor."""
    first, second = (reach[0] if part is None else part.abs() for part in node.arguments[:2])
    return torch.matmul(first, second)


def _few(node: Node, parents: tuple[Tensor, ...]) -> int:
    """A move, a factor or a sum of the parents; transposed, a sum over the places that an entry was copied to."""
    return 4 + len(parents) + max(entries(node.value) // max(1, entries(parent)) for parent in parents)


def _copies(node: Node, parents: tuple[Tensor, ...]) -> int:
    """As :func:`_few` where entries are picked, some of them many times."""

    def make() -> int:
        value, transpose, *_ = torch.func.vjp(node.function, *(torch.zeros_like(part) for part in parents))
        return max(int(part.max()) if part.numel() else 0 for part in transpose(torch.ones_like(value)))

    copies: int = node.cached("copies", make)
    return 4 + len(parents) + copies


def _fan_in(node: Node, parents: tuple[Tensor, ...]) -> int:
    """Terms summed for an output of a weight (out, in, ...) or of a transposed one, whichever is more, and the bias."""
    weight: Tensor = node.arguments[1]
    return max(weight[0].numel(), weight[:, 0].numel()) + 1


def _fan_out(node: Node, parents: tuple[Tensor, ...]) -> int:
    """Terms summed for one input by the transpose of a weight (out, in, ...)."""
    weight: Tensor = node.arguments[1]
    return weight[:, 0].numel()


def _all(node: Node, parents: tuple[Tensor, ...]) -> int:
    """A sum over all entries of a row, or over fewer; transposed likewise."""
    return max(entries(parents[0]), entries(node.value)) + 2


ENTRYWISE, REDUCTION = Affine(_entrywise, _few), Affine(_entrywise, _all)
MOVE = Affine(_entrywise, _few, exact=True)
PICK = Affine(_entrywise, _few, applies=_data_at(0), exact=True, transposed_terms=_copies)
COPY_INTO = Affine(_entrywise, _few, applies=_data_at(0, 1), exact=True)
ORDER = replace(MOVE, transpose=transposes.permuted, rises=lambda node: True)
TOTAL = replace(REDUCTION, transpose=transposes.totalled)
MEANS = replace(REDUCTION, transpose=moved_windows.averaged)
RESHAPE = Affine(_entrywise, _few, exact=True, transpose=transposes.reshaped)
SUM = Affine(_summed, _few, transpose=transposes.summed, rises=lambda node: not node.options)
DIFFERENCE = Affine(_summed, _few, transpose=transposes.subtracted)
ACCUMULATION = Affine(_summed, _all)
SCALING = Affine(_entrywise, _few, applies=_one_factor, transpose=transposes.multiplied)
QUOTIENT = Affine(_entrywise, _few, applies=_first_alone, transpose=transposes.divided)
MATRIX = Affine(_matrix, _all, applies=_one_factor)
SELECTION = Affine(_entrywise, _few, applies=_constant_condition, exact=True)


def _layer(operation: Callable[..., Tensor], transpose: Transpose = transposes.none) -> Affine:
    """A linear layer or a convolution."""
    behind = None if transpose is transposes.none else _fan_out
    return Affine(
        _weighted(operation),
        _fan_in,
        applies=_first_alone,
        transposed_terms=behind,
        transpose=transpose,
        product=_product(operation),
    )


def _turned(operation: Callable[..., Tensor], transpose: Transpose) -> Affine:
    """A transposed convolution.

    Its weight is (in, out, ...), of which the transpose sums over the entries that the operation itself does not.
    """
    return Affine(_weighted(operation), _fan_in, applies=_first_alone, transpose=transpose, product=_product(operation))


def _lines(entry: Affine, *names: str) -> dict[str, Affine]:
    return {f"aten.{name}": entry for name in names}


def _complex_lines(entry: Affine, *names: str) -> dict[str, Affine]:
    return {f"aten.{name}{OF_COMPLEX}": entry for name in names}


# Of complex numbers, kept as pairs.
COMPLEX: Mapping[str, Affine] = {
    FOURIER: Affine(fourier_spread, fourier_terms),
    **_complex_lines(MOVE, "view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default"),
    **_complex_lines(MOVE, "permute.default", "transpose.int", "slice.Tensor", "select.int", "cat.default"),
    **_complex_lines(MOVE, "expand.default", "roll.default", "flip.default", "clone.default", "squeeze.dim"),
    **_complex_lines(MOVE, "constant_pad_nd.default"),
    **_complex_lines(MOVE, "view_as_real.default", "view_as_complex.default", "complex.default", "_conj.default"),
    **_complex_lines(MOVE, "neg.default", "stack.default", "movedim.int", "index.Tensor"),
    **_complex_lines(SUM, "add.Tensor"),
    **_complex_lines(DIFFERENCE, "sub.Tensor"),
    **_complex_lines(REDUCTION, "sum.dim_IntList", "mean.dim"),
    **_complex_lines(replace(ENTRYWISE, spread=split_spread, applies=_one_factor), "mul.Tensor"),
    **_complex_lines(replace(ENTRYWISE, spread=split_spread, applies=_first_alone), "div.Tensor"),
    **_complex_lines(Affine(_signed, _all, applies=_one_factor), "matmul.default", "mm.default", "bmm.default"),
}

# One line for each operation. Names are those of ATen; a caller may add to a copy.
AFFINE: Mapping[str, Affine] = {
    **COMPLEX,
    **_lines(RESHAPE, "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints"),
    **_lines(RESHAPE, "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default", "unflatten.int"),
    **_lines(RESHAPE, "clone.default", "contiguous.default", "alias.default", "detach.default", "dropout.default"),
    **_lines(ORDER, "permute.default", "transpose.int"),
    **_lines(MOVE, "t.default", "movedim.int", "expand.default", "tile.default"),
    **_lines(MOVE, "repeat.default", "broadcast_tensors.default", "slice.Tensor", "select.int", "narrow.default"),
    **_lines(MOVE, "split.Tensor", "split_with_sizes.default", "chunk.default", "unbind.int"),
    **_lines(replace(MOVE, transpose=moved_windows.joined), "cat.default"),
    **_lines(replace(MOVE, transpose=moved_windows.with_margins), "constant_pad_nd.default"),
    **_lines(MOVE, "stack.default", "hstack.default", "vstack.default", "dstack.default"),
    **_lines(MOVE, "flip.default", "fliplr.default", "flipud.default", "rot90.default", "roll.default"),
    **_lines(MOVE, "diagonal.default", "diag_embed.default", "neg.default"),
    **_lines(MOVE, "pixel_shuffle.default", "pixel_unshuffle.default", "channel_shuffle.default"),
    **_lines(MOVE, "tril.default", "triu.default", "masked_fill.Scalar"),
    **_lines(PICK, "index.Tensor", "index_select.default", "gather.default", "take_along_dim.default"),
    **_lines(replace(PICK, transpose=moved_windows.with_margins), "pad.default"),
    **_lines(PICK, "repeat_interleave.self_int", "repeat_interleave.self_Tensor", "im2col.default"),
    **_lines(PICK, "reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default"),
    **_lines(PICK, "replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default"),
    **_lines(PICK, "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec"),
    **_lines(PICK, "max_unpool2d.default", "max_unpool3d.default", "index_fill.int_Scalar", "scatter.value"),
    **_lines(COPY_INTO, "select_scatter.default", "diagonal_scatter.default"),
    **_lines(replace(MOVE, applies=_data_at(0, 3)), "scatter.src", "index_copy.default"),
    **_lines(replace(ACCUMULATION, applies=_data_at(0, 2)), "index_put.default"),
    **_lines(replace(ACCUMULATION, applies=_data_at(0, 3)), "index_add.default", "scatter_add.default"),
    **_lines(replace(ENTRYWISE, spread=_summed), "rsub.Scalar"),
    **_lines(ENTRYWISE, "full_like.default", "zeros_like.default", "ones_like.default"),
    **_lines(ENTRYWISE, "new_zeros.default", "new_ones.default", "new_full.default", "zero.default"),
    **_lines(replace(ENTRYWISE, applies=_data_at(0)), "fill.Scalar", "fill.Tensor"),
    **_lines(SUM, "add.Tensor"),
    **_lines(replace(SUM, spread=_entrywise, rises=lambda node: False), "_to_copy.default"),
    **_lines(DIFFERENCE, "sub.Tensor"),
    **_lines(SELECTION, "where.self", "where.ScalarOther", "where.ScalarSelf"),
    **_lines(TOTAL, "mean.dim", "sum.dim_IntList"),
    **_lines(REDUCTION, "mean.default", "sum.default", "cumsum.default"),
    **_lines(REDUCTION, "avg_pool1d.default", "avg_pool3d.default", "col2im.default"),
    **_lines(MEANS, "avg_pool2d.default", "adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default"),
    **_lines(REDUCTION, "upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec"),
    **_lines(REDUCTION, "adaptive_avg_pool1d.default", "adaptive_avg_pool3d.default"),
    **_lines(Affine(_sampled, _all, applies=_data_at(0)), "grid_sampler.default"),
    **_lines(_layer(F.linear, transposes.linear), "linear.default"),
    **_lines(_layer(F.conv1d, moved_windows.convolved_along), "conv1d.default", "conv1d.padding"),
    **_lines(_layer(F.conv2d, transposes.convolved), "conv2d.default"),
    **_lines(_layer(F.conv2d, transposes.convolved), "conv2d.padding"),
    **_lines(_layer(F.conv3d, moved_windows.convolved_along), "conv3d.default", "conv3d.padding"),
    **_lines(_turned(F.conv_transpose1d, moved_windows.conv_transposed_along), "conv_transpose1d.default"),
    **_lines(_turned(F.conv_transpose2d, transposes.conv_transposed), "conv_transpose2d.input"),
    **_lines(_turned(F.conv_transpose3d, moved_windows.conv_transposed_along), "conv_transpose3d.input"),
    **_lines(SCALING, "mul.Tensor", "mul.Scalar"),
    **_lines(QUOTIENT, "div.Tensor", "div.Scalar"),
    **_lines(MATRIX, "matmul.default", "mm.default", "bmm.default", "mv.default", "dot.default"),
}


def affine(node: Node, table: Mapping[str, Affine] = AFFINE) -> Affine | None:
    """The entry of a node, or None if it is not affine in its data."""
    entry = table.get(node.operation)
    return entry if entry is not None and entry.applies(node) else None


def with_more_terms(rule: Affine, units: int) -> Affine:
    """A rule whose constants have a relative error: as if each were the result of so many more operations."""
    behind = rule.transposed_terms or rule.terms
    return replace(
        rule,
        terms=lambda node, parents: rule.terms(node, parents) + units,
        transposed_terms=lambda node, parents: behind(node, parents) + units,
        exact=False,
    )
