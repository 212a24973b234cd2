"""Transposes of the commonest affine operations, on the rows that linear bounds carry backward.

Each takes a node, rows of its coefficients and the shapes (N, *shape) of its parents' values, and returns the rows of
every parent, or None where it does not serve; the vector-Jacobian product serves always.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations.node import Node
from bounds.operations.transposed_convolution import transposed_convolution
from bounds.rows import AnyRows, DenseRows, PatchRows, UnitRows

Shapes = tuple[torch.Size, ...]
Transposed = tuple[AnyRows, ...]
Transpose = Callable[[Node, AnyRows, Shapes], Transposed | None]

# Windows of convolutions are transposed by one product with a matrix as long as it has no more entries.
LARGEST_MATRIX = 2**21
SPARSE = 4  # times the size of the kernel: matrices of larger windows would be 0 almost everywhere


def none(node: Node, rows: AnyRows, shapes: Shapes) -> None:
    """For operations without a transpose of their own."""
    return None


def reshaped(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For operations that keep all entries in their order."""
    if node.single is not None:
        return None
    shape = tuple(shapes[0][1:])
    if shape == tuple(node.value.shape[1:]):
        return (rows,)
    if isinstance(rows, UnitRows):
        return (UnitRows(rows.index, shape, rows.like),)
    whole = rows.dense()  # only here are inputs and rows the first two dimensions
    return (DenseRows(whole.reshape(*whole.shape[:2], *shape)),)


def summed(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For sums of terms, without factors."""
    if node.options or node.single is not None:
        return None
    parts = [_unrepeated(rows, node.value.shape, shape) for shape in shapes]
    return None if any(part is None for part in parts) else tuple(part for part in parts if part is not None)


def subtracted(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For data from which a constant or other data are taken away."""
    if node.arguments[0] is not None:
        return None
    parts = summed(node, rows, shapes)
    if parts is None or len(parts) == 1:
        return parts
    taken = parts[1].expanded()
    return parts[0], taken.with_values(-taken.values)


def _unrepeated(rows: AnyRows, whole: torch.Size, shape: torch.Size) -> AnyRows | None:
    """Rows of a part with a shape that was repeated for a whole: sums over the places of each entry."""
    if shape == whole:
        return rows
    if len(shape) != len(whole) or shape[0] != whole[0]:
        return None
    values = rows.expanded().dense()
    repeated = [i + 1 for i, (own, size) in enumerate(zip(shape, whole, strict=True)) if own != size]
    return DenseRows(values.sum(repeated, keepdim=True))


def permuted(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For two dimensions that change places, or dimensions in another order; inputs stay the first."""
    count, given = node.value.ndim, node.arguments[1:]
    if node.operation == "aten.transpose.int":
        order = list(range(count))
        first, second = (place % count for place in given)
        order[first], order[second] = second, first
    else:
        order = [place % count for place in given[0]]
    if node.single is not None or order[0] != 0:
        return None
    back = sorted(range(1, count), key=lambda place: order[place])
    return (DenseRows(rows.expanded().dense().permute(0, 1, *(place + 1 for place in back))),)


def totalled(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For sums and means over some dimensions."""
    _, dims, keepdim, *rest = (*node.arguments, False)[: max(3, len(node.arguments))]
    count, given = len(shapes[0]), [dims] if isinstance(dims, int) else dims
    if node.single is not None or node.options or any(rest) or not given or not all(place % count for place in given):
        return None
    values = rows.expanded().dense()
    places = sorted(place % count for place in given)
    if not keepdim:
        for place in places:
            values = values.unsqueeze(place + 1)
    if node.operation.startswith("aten.mean"):
        values = values / math.prod(shapes[0][place] for place in places)
    return (DenseRows(values.expand(*values.shape[:2], *shapes[0][1:])),)


def multiplied(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For a product with constants, entry by entry."""
    first, second = node.arguments[:2]
    return _times(node, rows, shapes[0], second if first is None else first)


def divided(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For a quotient by constants, entry by entry."""
    return _times(
        node, rows, shapes[0], 1 / torch.as_tensor(node.arguments[1], dtype=node.value.dtype, device=node.value.device)
    )


def _times(node: Node, rows: AnyRows, shape: torch.Size, factor: float | Tensor) -> Transposed | None:
    factor = torch.as_tensor(factor, dtype=node.value.dtype, device=node.value.device)
    per_row = factor.ndim == node.value.ndim and len(factor) > 1
    if node.single is not None or node.value.shape != shape or per_row:
        return None
    return (rows.expanded().scaled(factor.expand(1, *shape[1:])),)


def linear(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For a linear layer."""
    weight: Tensor = node.arguments[1]
    if isinstance(rows, UnitRows) and len(rows.shape) == 1:
        return (DenseRows(_picked(weight, rows.index)),)
    return (DenseRows(rows.expanded().dense() @ weight),)


def _picked(weight: Tensor, index: Tensor) -> Tensor:
    """``weight[index]``, which takes several times as long on a CPU."""
    return weight.index_select(0, index.flatten()).view(*index.shape, *weight.shape[1:])


def convolved(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For a convolution of maps, (C, H, W)."""
    shape = shapes[0]
    if node.single is not None or len(shape) != 4:
        return None
    weight: Tensor = node.arguments[1]
    stride, padding, dilation, groups = settings_of(node, weight)
    if isinstance(rows, UnitRows) and groups == 1 and dilation == (1, 1):
        channel, place = rows.split()
        grid = (rows.shape[1], rows.shape[2])
        return (
            PatchRows(
                _picked(weight, channel)[:, None], place, grid, stride, padding, tuple(shape[1:]), False
            ).compact(),
        )
    whole = rows.expanded()
    if isinstance(whole, PatchRows):
        patches = whole.cleaned()
        values = _full_transpose(node, patches.values.flatten(0, 3), weight, stride, dilation, groups)
        moved = replace(
            patches,
            values=values.unflatten(0, patches.values.shape[:4]),
            stride=(patches.stride[0] * stride[0], patches.stride[1] * stride[1]),
            padding=(patches.padding[0] * stride[0] + padding[0], patches.padding[1] * stride[1] + padding[1]),
            shape=tuple(shape[1:]),
            clean=False,
        )
        return (moved.compact(),)
    values = whole.values.flatten(0, 1)
    spans = [gap * (size - 1) + 1 for gap, size in zip(dilation, weight.shape[2:], strict=True)]
    extra = [
        size - ((count - 1) * step - 2 * pad + span)
        for size, count, step, pad, span in zip(shape[2:], values.shape[2:], stride, padding, spans, strict=True)
    ]
    more = [max(0, size) for size in extra]  # less than none where "same" has an odd number of zeros to share
    values = transposed_convolution(node, values, weight, (stride, padding, more, groups, dilation))
    return (DenseRows(values[..., : shape[2], : shape[3]].unflatten(0, whole.values.shape[:2])),)


def settings_of(node: Node, weight: Tensor) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """Stride, padding on top and on the left, dilation and groups of a convolution."""
    defaults: tuple[Any, ...] = (None, (1, 1), (0, 0), (1, 1), 1)
    given = node.arguments[2:]
    _, *settings, groups = (*given, *defaults[len(given) :])
    if isinstance(settings[1], str):
        around = [gap * (size - 1) // 2 for gap, size in zip(_pair(settings[2]), weight.shape[2:], strict=True)]
        settings[1] = around if settings[1] == "same" else (0, 0)
    stride, padding, dilation = map(_pair, settings)
    return stride, padding, dilation, groups


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[-1]


def conv_transposed(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For a transposed convolution of maps: an ordinary one of the coefficients."""
    shape = shapes[0]
    if node.single is not None or len(shape) != 4:
        return None
    weight: Tensor = node.arguments[1]
    defaults: tuple[Any, ...] = (None, (1, 1), (0, 0), (0, 0), 1, (1, 1))
    given = node.arguments[2:]
    _, *settings = (*given, *defaults[len(given) :])
    stride, padding, dilation, groups = _pair(settings[0]), _pair(settings[1]), _pair(settings[4]), settings[3]
    whole = rows.expanded()
    if isinstance(whole, DenseRows):
        values = F.conv2d(whole.values.flatten(0, 1), weight, None, stride, padding, dilation, groups)
        return (DenseRows(values[..., : shape[2], : shape[3]].unflatten(0, whole.values.shape[:2])),)
    spans = [gap * (size - 1) for gap, size in zip(dilation, weight.shape[2:], strict=True)]
    patches, (down, right) = whole.cleaned(), _aligned(whole, stride, padding, spans)
    blocks = _shifted(_shifted(patches.values, 5, down.shift, down.length), 6, right.shift, right.length)
    moved = PatchRows(
        F.conv2d(blocks.flatten(0, 3), weight, None, stride, 0, dilation, groups).unflatten(0, blocks.shape[:4]),
        place=down.place * right.count + right.place,
        grid=(down.count, right.count),
        stride=(down.step, right.step),
        padding=(down.padding, right.padding),
        shape=tuple(shape[1:]),
        clean=False,
    )
    return (moved.compact(),)


@dataclass(frozen=True)
class _Aligned:
    """Windows along one direction, in blocks that begin at a multiple of the stride of a transposed convolution.

    Attributes:
        place: (N, P), the new window of each group.
        shift: (N, P), where the old window begins in its block.
        length: of a block.
        count: new windows.
        step: from one of them to the next.
        padding: how far the first one begins before the map.
    """

    place: Tensor
    shift: Tensor
    length: int
    count: int
    step: int
    padding: int


def _aligned(
    rows: PatchRows, stride: tuple[int, int], padding: tuple[int, int], spans: Sequence[int]
) -> tuple[_Aligned, _Aligned]:
    """Both directions; the span is the reach of a kernel beyond its first entry."""
    found = []
    places = rows.place.div(rows.grid[1], rounding_mode="floor"), rows.place % rows.grid[1]
    for axis, (place, step, span) in enumerate(zip(places, stride, spans, strict=True)):
        # A window begins at "place * rows.stride - rows.padding"; the first entry before the operation that reaches it
        # is the quotient of this number and the step.
        begin = padding[axis] - rows.padding[axis] - span
        first = place * rows.stride[axis] + begin
        low, least = first.div(step, rounding_mode="floor"), begin // step
        whole = rows.stride[axis] % step == 0
        last = ((rows.grid[axis] - 1) * rows.stride[axis] + begin) // step
        reach = (step - 1 + span + rows.values.shape[5 + axis] - 1) // step
        found.append(
            _Aligned(
                place=place if whole else low - least,
                shift=first - low * step + span,
                length=reach * step + span + 1,
                count=rows.grid[axis] if whole else last - least + 1,
                step=rows.stride[axis] // step if whole else 1,
                padding=-least,
            )
        )
    return found[0], found[1]


def _shifted(values: Tensor, axis: int, shift: Tensor, length: int) -> Tensor:
    """Entries along an axis moved to where a block has them, zeros around; ``shift`` (N, P) by group."""
    size = values.shape[axis]
    source = torch.arange(length, device=shift.device) - shift[..., None]  # (N, P, length)
    source = source.where((source >= 0) & (source < size), size)
    shape = [1] * values.ndim
    shape[0], shape[2], shape[axis] = source.shape
    extended = F.pad(values, (0, 1) if axis == values.ndim - 1 else (0, 0, 0, 1))
    return extended.gather(axis, source.view(shape).expand(*values.shape[:axis], length, *values.shape[axis + 1 :]))


def _full_transpose(
    node: Node, values: Tensor, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> Tensor:
    """Coefficients before a convolution, from blocks (M, C, h, w) behind it, without any padding."""
    entries = values.shape[1:].numel()
    spans = [
        (count - 1) * step + gap * (size - 1) + 1
        for count, step, gap, size in zip(values.shape[2:], stride, dilation, weight.shape[2:], strict=True)
    ]
    size, kernel = spans[0] * spans[1], weight.shape[2:].numel()
    if entries * weight.shape[1] * groups * size > LARGEST_MATRIX or size > SPARSE * kernel:
        return transposed_convolution(node, values, weight, (stride, (0, 0), [0, 0], groups, dilation))

    def make() -> Tensor:
        unit = torch.eye(entries, dtype=values.dtype, device=values.device).view(entries, *values.shape[1:])
        return F.conv_transpose2d(unit, weight, None, stride, 0, 0, groups, dilation).flatten(1)

    matrix: Tensor = node.cached(f"matrix of {tuple(values.shape[2:])}", make)
    moved: Tensor = (values.flatten(1) @ matrix).unflatten(1, (weight.shape[1] * groups, *spans))
    return moved
