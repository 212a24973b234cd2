"""Transposes of means over windows, padding, concatenation, and of convolutions of other than maps.

Like those of :mod:`bounds.operations.transposes`, of whose kind they are, with None where they do not serve.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bounds.operations.node import Node
from bounds.operations.transposes import Shapes, Transposed
from bounds.relaxations.windows import Geometry
from bounds.rows import AnyRows, DenseRows, PatchRows


def _pair(values: int | Sequence[int]) -> tuple[int, int]:
    return (values, values) if isinstance(values, int) else (values[0], values[-1])


def _filled(node: Node, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an operation behind the data, by position; those that are left out have defaults."""
    given = node.arguments[1:]
    return (*given, *defaults[len(given) :])


def averaged(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For means over windows of maps that all count the same entries."""
    shape = tuple(shapes[0][1:])
    if node.single is not None or len(shape) != 3 or node.options:
        return None
    if "adaptive" in node.operation:
        counts = _pair(node.arguments[1])
        if any(size % count for size, count in zip(shape[1:], counts, strict=True)):
            return None
        kernel = shape[1] // counts[0], shape[2] // counts[1]
        geometry, divisor = Geometry(kernel, kernel, (0, 0)), None
    else:
        size, steps, pads, ceil, padding_counts, divisor = _filled(node, (None, (), (0, 0), False, True, None))
        kernel = _pair(size)
        geometry = Geometry(kernel, _pair(steps) if steps else kernel, _pair(pads))
        if ceil or (any(geometry.padding) and not padding_counts):
            return None
    whole = rows.expanded().cleaned()
    share = whole.values / (divisor or kernel[0] * kernel[1])
    blocks = geometry.blocks(share)
    for there in geometry.at_places(blocks, tuple(share.shape[-2:])):
        there += share
    return (geometry.before(whole, blocks, shape),)


def with_margins(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For maps with a constant around them."""
    margins: Sequence[int] = node.arguments[1] if len(node.arguments) > 1 else ()  # none for imaginary parts of 0
    shape = tuple(shapes[0][1:])
    mode = node.arguments[2] if node.operation == "aten.pad.default" and len(node.arguments) > 2 else "constant"
    whole = rows.expanded()
    if (
        mode != "constant"
        or node.single is not None
        or len(shape) != 3
        or len(margins) != 4
        or not isinstance(whole, PatchRows)
    ):
        return None
    padding = whole.padding[0] + margins[2], whole.padding[1] + margins[0]
    return (replace(whole.cleaned(), padding=padding, shape=shape, clean=False).compact(),)


def joined(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For data that are joined along a dimension other than that of inputs."""
    given, dim = node.arguments[0], node.arguments[1] if len(node.arguments) > 1 else node.options.get("dim", 0)
    dim = dim % node.value.ndim
    if node.single is not None or dim == 0 or any(part is not None for part in given):
        return None
    sizes, whole = [shape[dim] for shape in shapes], rows.expanded()
    if not isinstance(whole, PatchRows):
        return tuple(DenseRows(part) for part in whole.values.split(sizes, dim + 1))
    if dim != 1:
        return None
    parts = whole.values.split(sizes, 4)
    return tuple(replace(whole, values=part, shape=tuple(shape[1:])) for part, shape in zip(parts, shapes, strict=True))


Operation = Callable[..., Tensor]
_CONVOLUTIONS: Mapping[int, tuple[Operation, Operation]] = {
    1: (F.conv1d, F.conv_transpose1d),
    3: (F.conv3d, F.conv_transpose3d),
}


def convolved_along(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For convolutions over one or three dimensions."""
    weight, shape = node.arguments[1], shapes[0]
    count = weight.ndim - 2
    if node.single is not None or len(shape) != weight.ndim:
        return None
    _, _, stride, padding, dilation, groups = _filled(node, (None, None, 1, 0, 1, 1))
    stride, dilation = (_each(values, count) for values in (stride, dilation))
    spans = [gap * (size - 1) for gap, size in zip(dilation, weight.shape[2:], strict=True)]
    if isinstance(padding, str):
        padding = [span // 2 if padding == "same" else 0 for span in spans]
    padding = _each(padding, count)
    values = rows.expanded().dense()
    whole = _CONVOLUTIONS[count][1](values.flatten(0, 1), weight, None, stride, 0, 0, groups, dilation)
    margins = [
        (-pad, size + pad - length) for pad, size, length in zip(padding, shape[2:], whole.shape[2:], strict=True)
    ]
    moved = F.pad(whole, [margin for pair in reversed(margins) for margin in pair])
    return (DenseRows(moved.unflatten(0, values.shape[:2])),)


def conv_transposed_along(node: Node, rows: AnyRows, shapes: Shapes) -> Transposed | None:
    """For transposed convolutions over one or three dimensions: ordinary ones of the coefficients."""
    weight, shape = node.arguments[1], shapes[0]
    count = weight.ndim - 2
    if node.single is not None or len(shape) != weight.ndim:
        return None
    _, _, stride, padding, _, groups, dilation = _filled(node, (None, None, 1, 0, 0, 1, 1))
    values = rows.expanded().dense()
    moved = _CONVOLUTIONS[count][0](values.flatten(0, 1), weight, None, stride, padding, dilation, groups)
    for place, size in enumerate(shape[2:], 2):
        moved = moved.narrow(place, 0, size)
    return (DenseRows(moved.unflatten(0, values.shape[:2])),)


def _each(values: int | Sequence[int], count: int) -> list[int]:
    values = [values] if isinstance(values, int) else list(values)
    return values * count if len(values) == 1 else values
