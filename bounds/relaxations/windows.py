"""Geometry of windows of a map, as convolutions and pooling have them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.rows import DenseRows, PatchRows, Rows, framed, room

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Regular windows of a map, in both directions.

    Attributes:
        kernel: places of a window.
        stride: from one window to the next.
        padding: how far the first window begins before the map.
        dilation: from one place of a window to the next.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @property
    def apart(self) -> bool:
        """Whether windows lie next to each other: they fill what they cover, and no place is in two of them."""
        return self.stride == self.kernel and self.dilation == (1, 1)

    def blocks(self, values: Tensor, sides: int = 1, *, zeros: bool = True) -> Tensor:
        """Zeros, or room, for all entries of the map that windows (N, S, .., h, w) cover; so many times S rows."""
        covered = [
            (count - 1) * step + (size - 1) * gap + 1
            for count, step, size, gap in zip(values.shape[-2:], self.stride, self.kernel, self.dilation, strict=True)
        ]
        shape = torch.Size([*values.shape[2:-2], *covered])
        found = room(values, len(values), sides * values.shape[1], shape)
        return found.zero_() if zeros else found

    def at_places(self, blocks: Tensor, size: tuple[int, ...]) -> Iterator[Tensor]:
        """Views (.., h, w) of blocks: entries at the first place of all windows, at the second, and so on."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                down, along = (
                    slice(place * gap, place * gap + (count - 1) * step + 1, step)
                    for place, gap, count, step in zip((i, j), self.dilation, size, self.stride, strict=True)
                )
                yield blocks[..., down, along]

    def before(self, rows: Rows, blocks: Tensor, shape: tuple[int, ...], *, clean: bool = False) -> Rows:
        """Coefficients of a map (C, H, W), from the blocks that the windows of given rows of another map cover.

        Args:
            rows: of the other map.
            blocks: of the map.
            shape: (C, H, W).
            clean: whether coefficients beyond the map are known to be 0.
        """
        (top, left), (height, width) = self.padding, blocks.shape[-2:]
        if isinstance(rows, DenseRows):
            return DenseRows(framed(blocks, (-left, shape[2] + left - width, -top, shape[1] + top - height)))
        stride = rows.stride[0] * self.stride[0], rows.stride[1] * self.stride[1]
        padding = rows.padding[0] * self.stride[0] + top, rows.padding[1] * self.stride[1] + left
        return PatchRows(blocks, rows.place, rows.grid, stride, padding, shape, clean).compact()
