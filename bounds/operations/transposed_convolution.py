"""The transpose of a convolution of maps: what linear bounds of convolutional networks spend most of their time on.

On a CPU it is one matrix product with rows as the last dimension, and one addition for each place of the kernel: memory
is read in order, where a library's own kernel copies the entries of every row about. Results keep that order in memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations.node import Node

# Stride, padding, extra size, groups and dilation, as of ``conv_transpose2d``.
Geometry = tuple[tuple[int, int], tuple[int, int], list[int], int, tuple[int, int]]

# In float32, libraries are quicker for kernels with more channels, and at stride 1 unless these are as few.
MANY_ENTRIES, FEW_CHANNELS = 2**12, 4
LARGEST_MIRRORED = 2**18  # entries of kernels that have a mirrored copy; larger ones gain nothing by theirs
AT_ONCE = 2**20  # products that are held before they are added up


def transposed_convolution(node: Node, values: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Coefficients (M, C, H, W) before a convolution, from those behind it."""
    stride, padding, extra, groups, dilation = geometry
    if weight.requires_grad:
        return F.conv_transpose2d(values, weight, None, stride, padding, extra, groups, dilation)
    mirrored = None
    if (
        values.device.type == "cpu"
        and values.dtype == torch.float32
        and (groups, stride, extra) == (1, (1, 1), [0, 0])
        and weight.shape[1] > FEW_CHANNELS
        and weight.numel() <= LARGEST_MIRRORED
        and min(_mirrored_padding(weight, padding, dilation)) >= 0
    ):
        mirrored = node.cached("mirrored", lambda: weight.flip(2, 3).transpose(0, 1).contiguous())
    moved: Tensor = _Transposed.apply(values, weight, geometry, mirrored)  # type: ignore[no-untyped-call]  # torch's
    return moved


class _Transposed(torch.autograd.Function):
    """Transposed convolution with a constant kernel; in float64, torch's own backward pass is 50 times slower."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, geometry: Geometry, mirrored: Tensor | None) -> Tensor:  # noqa: ANN401
        """The coefficients; a mirrored kernel is for an ordinary convolution in its place."""
        ctx.save_for_backward(weight)
        ctx.geometry = geometry
        stride, padding, extra, groups, dilation = geometry
        if mirrored is None and _pays(values, weight, geometry):
            return _by_rows(values, weight, geometry)
        values = values.flatten(1).contiguous().view(values.shape)  # quick in two dimensions alone
        if mirrored is not None:
            return F.conv2d(values, mirrored, None, 1, _mirrored_padding(weight, padding, dilation), dilation)
        return F.conv_transpose2d(values, weight, None, stride, padding, extra, groups, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """The convolution."""
        (weight,) = ctx.saved_tensors
        stride, padding, _, groups, dilation = ctx.geometry
        return F.conv2d(gradient, weight, None, stride, padding, dilation, groups), None, None, None


def _mirrored_padding(weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """The padding with which a convolution by the mirrored kernel is the transpose of one without stride."""
    sizes = weight.shape[2:]
    return [gap * (size - 1) - pad for gap, size, pad in zip(dilation, sizes, padding, strict=True)]


def _pays(values: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether products with rows as the last dimension are quicker than a library's own kernel."""
    if values.device.type != "cpu" or geometry[3] != 1:
        return False
    return values.dtype == torch.float64 or weight.numel() <= MANY_ENTRIES


def _by_rows(values: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The transpose, with rows as the last dimension in memory."""
    stride, padding, extra, _, dilation = geometry
    (count, channels, *sizes), (_, before, *kernel) = values.shape, weight.shape
    height, width = (
        (size - 1) * step - 2 * pad + gap * (span - 1) + 1 + more
        for size, step, pad, gap, span, more in zip(sizes, stride, padding, dilation, kernel, extra, strict=True)
    )
    rows_last = values.flatten(1).t().contiguous().view(channels, *sizes, count)
    found, matrix = values.new_zeros(before, height, width, count), weight.flatten(1).t()
    lines = max(1, AT_ONCE // max(1, len(matrix) * sizes[1] * count))
    for first in range(0, sizes[0], lines):
        part = rows_last[:, first : first + lines]
        products = iter((matrix @ part.flatten(1)).view(before, -1, *part.shape[1:]).unbind(1))
        for i in range(kernel[0]):
            top = first * stride[0] + i * dilation[0] - padding[0]
            down, there_down = _within(part.shape[1], height, stride[0], top)
            for j in range(kernel[1]):
                along, there_along = _within(sizes[1], width, stride[1], j * dilation[1] - padding[1])
                # Not as one statement, which would copy the sum onto itself.
                found[:, there_down, there_along].add_(next(products)[:, down, along])
    return found.movedim(3, 0)


def _within(count: int, size: int, step: int, start: int) -> tuple[slice, slice]:
    """Slices of entries at ``start``, ``start + step`` and so on: those of them within a size, and their places."""
    first, last = max(0, -(start // step)), min(count, -((start - size) // step))
    if first >= last:
        return slice(0, 0), slice(0, 0)
    return slice(first, last), slice(start + first * step, start + (last - 1) * step + 1, step)
