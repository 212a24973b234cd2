"""Bilinear interpolation of images, with the differences that its slopes lie between.

The interpolated image is continuous, and bilinear in every cell between four pixels. In a cell its slope to the right
lies between the differences of its two rows, its slope downward between those of its two columns.

Places are in pixels, with pixel (i, j) at ``y = i`` and ``x = j``: the convention ``align_corners=False`` of
:func:`torch.nn.functional.grid_sample`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.errors import InvalidInput

MARGIN = 2  # pixels around the image: places beyond are moved to the middle of the outermost cell
PADDINGS = ("zeros", "border", "cyclic")


class SampledImages:
    """Images (N, C, H, W) in float64, to be sampled between pixels.

    Args:
        images: as above.
        padding: beyond the image: ``"zeros"``, ``"border"`` (the nearest pixel), or ``"cyclic"``.
    """

    def __init__(self, images: Tensor, padding: str) -> None:
        self.padding, self.shape, self.images = padding, images.shape, images
        self.padded = _padded(images, padding)
        self._differences: Tensor | None = None

    def folded(self, places: Tensor, axis: int, like: Tensor | None = None) -> Tensor:
        """Places along an axis (0: x, 1: y) where the padded image is the same; ``like`` moves with others."""
        size = self.shape[3 - axis]
        if self.padding != "cyclic":
            return places.clamp(-1.5, size + 0.5)
        return places - size * ((places if like is None else like) / size).floor().detach()

    def values(self, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Interpolated values (B, C, *S) of some images (B,) at places (B, *S); gradients reach the places."""
        x, y = self.folded(x, 0), self.folded(y, 1)
        column, line = x.detach().floor(), y.detach().floor()
        right, below = (x - column)[:, None], (y - line)[:, None]
        corner = self._index(rows, column, line)
        wide = self.padded.shape[3]
        flat = self.padded.flatten()
        # Kernels of one look-up for each corner of the cell.
        a, b, c, d = (flat[corner + shift] for shift in (0, 1, wide, wide + 1))
        return (a + right * (b - a)) * (1 - below) + (c + right * (d - c)) * below

    def differences(self, rows: Tensor, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
        """Centres and radii of the slopes over boxes of places (B, *S), (B, C, *S, 4): to the right, then downward.

        Raises:
            InvalidInput: a box that touches more than two cells in a direction.
        """
        left, right = self.folded(x[0], 0), self.folded(x[1], 0, x[0])
        top, bottom = self.folded(y[0], 1), self.folded(y[1], 1, y[0])
        column, line = left.floor(), top.floor()
        wider, taller = right.floor() - column, bottom.floor() - line
        if bool((torch.maximum(wider, taller) > 1).any()):
            raise InvalidInput("pieces must move every pixel by less than one pixel: cut them into more parts")
        variant = (wider + 2 * taller).long()
        if self._differences is None:
            self._differences = self._tables()
        size = self.padded.numel()
        index = self._index(rows, column, line) + (size * variant)[:, None]
        return self._differences.index_select(0, index.flatten()).view(*index.shape, 4)

    def _index(self, rows: Tensor, column: Tensor, line: Tensor) -> Tensor:
        """Places (B, C, *S) of the upper left pixels of cells in the padded images, flattened."""
        _, channels, tall, wide = self.padded.shape
        cell = (line.long() + MARGIN) * wide + (column.long() + MARGIN)
        first = rows[:, None] * channels + torch.arange(channels, device=rows.device)
        return first.view(len(rows), channels, *[1] * (cell.ndim - 1)) * (tall * wide) + cell[:, None]

    def _tables(self) -> Tensor:
        """Slopes over one cell, or two to the right, below or both, for each pixel of the padded images, flattened."""
        across = F.pad(self.padded.diff(dim=3), (0, 1, 0, 0), mode="replicate")
        down = F.pad(self.padded.diff(dim=2), (0, 0, 0, 1), mode="replicate")
        found = []
        for taller in (0, 1):
            for wider in (0, 1):
                sides = (*_extremes(across, 2 + taller, 1 + wider), *_extremes(down, 1 + taller, 2 + wider))
                low_x, high_x, low_y, high_y = (side.flatten() for side in sides)
                parts = [(low_x + high_x) / 2, (high_x - low_x) / 2, (low_y + high_y) / 2, (high_y - low_y) / 2]
                found.append(torch.stack(parts, 1))
        return torch.cat(found)

    @property
    def steepest(self) -> Tensor:
        """The largest slope of each image in any direction, (N,)."""
        across, down = (self.padded.diff(dim=axis).abs().flatten(1).amax(1) for axis in (3, 2))
        return across + down


def padded_places(places: Tensor, size: int, padding: str) -> tuple[Tensor, Tensor]:
    """Pixels that stand for places along a line of ``size``, and where there is one at all."""
    if padding == "cyclic":
        return places % size, torch.ones_like(places, dtype=torch.bool)
    inside = (places >= 0) & (places < size)
    return places.clamp(0, size - 1), inside if padding == "zeros" else torch.ones_like(inside)


def _padded(images: Tensor, padding: str) -> Tensor:
    """The images with ``MARGIN`` pixels around them."""
    for axis in (2, 3):
        size = images.shape[axis]
        index = torch.arange(-MARGIN, size + MARGIN, device=images.device)
        folded, inside = padded_places(index, size, padding)
        images = images.index_select(axis, folded) * inside.view(-1, *[1] * (3 - axis))
    return images


def _extremes(x: Tensor, tall: int, wide: int) -> tuple[Tensor, Tensor]:
    """Least and largest entries of the windows that begin at each entry; windows end at the edge."""
    larger = F.pad(x, (0, wide - 1, 0, tall - 1), mode="replicate")
    return -F.max_pool2d(-larger, (tall, wide), stride=1), F.max_pool2d(larger, (tall, wide), stride=1)
