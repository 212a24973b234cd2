"""Boxes around all images that a transformation makes of one, by interval arithmetic of the audit's own.

Nothing here is shared with the bounds of a run. An image between pixels is bilinear in each cell: over a rectangle of
places it is least and largest at corners of the rectangle, or where lines of pixels cross it. All else is monotone.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from certify.auditing.transformations.ranges import Range, cosine, hull
from certify.semantic.transformations import (
    Blur,
    Compose,
    Photometric,
    Rotation,
    Scale,
    Shear,
    Transformation,
    Translation,
)

Side = Tensor | None
MOVING = (Rotation, Translation, Scale, Shear)


class Unenclosed(Exception):
    """There is no box around the images, with the reason."""


def image_boxes(
    transformation: Transformation, image: Tensor, ends: Range, low: Side, high: Side
) -> tuple[Range, Tensor]:
    """Boxes around images as real arithmetic makes them, and which of the boxes hold.

    Args:
        transformation: one of :mod:`certify.semantic`.
        image: (C, H, W) in float64.
        ends: (B, k), boxes of parameters.
        low: least pixels, a number or a tensor that broadcasts to the image, or None.
        high: largest pixels, likewise.

    Returns:
        Entries (B, C, H, W), and (B,) whether the box of parameters moves every place by less than one pixel. Of other
        boxes the entries say nothing.

    Raises:
        Unenclosed: a transformation of another kind.
    """
    parts = transformation.parts if type(transformation) is Compose else (transformation,)
    for part in parts:
        if type(part) not in (*MOVING, Blur, Photometric):  # a class of its own may do anything
            raise Unenclosed(f"the audit has no boxes around images of {type(part).__name__}")
    columns = (Range(*(end[:, place, None, None, None] for end in ends)) for place in range(ends.low.shape[1]))
    own = [(part, [next(columns) for _ in part.parameters]) for part in parts]
    places, hold = _places(image, len(ends.low)), torch.ones(len(ends.low), dtype=torch.bool)
    found = Range(image, image)
    # The image at a place is that of all parts but the last at the place where this one takes it from.
    for part, values in reversed(own):
        places = _moved(part, values, *places)
    moving = [part for part in parts if isinstance(part, MOVING)]
    if moving:
        found, hold = _sampled(image, *places, moving[0].padding)  # which all of them share
    for part, values in own:
        if isinstance(part, Blur):
            found = _blurred(part, values[0], found)
        elif isinstance(part, Photometric):
            found = _changed(part, values, found).clipped(low, high)
    return Range(*(end.expand(len(hold), *image.shape) for end in found)), hold


def _places(image: Tensor, count: int) -> tuple[Range, Range]:
    """Places of pixels from the centre of the image, to the right and downward, (B, 1, H, W)."""
    tall, wide = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in image.shape[1:])
    down, across = (part.expand(count, 1, -1, -1) for part in torch.meshgrid(tall, wide, indexing="ij"))
    return Range(across, across), Range(down, down)


def _moved(part: Transformation, values: Sequence[Range], x: Range, y: Range) -> tuple[Range, Range]:
    """The places at which an image is sampled for places of the transformed one."""
    if isinstance(part, Rotation):  # counter-clockwise, while y points downward
        quarter = Range(values[0].low - 90, values[0].high - 90)
        cos, sin = cosine(values[0]), cosine(quarter)
        return cos.times(x).plus(sin.times(y).negative()), sin.times(x).plus(cos.times(y))
    if isinstance(part, Translation):
        return x.plus(values[0].negative()), y.plus(values[1].negative())
    if isinstance(part, Scale):
        return x.times(values[0].inverse()), y.times(values[0].inverse())
    if isinstance(part, Shear):
        return x.plus(values[0].times(y).negative()), y
    return x, y


def _sampled(image: Tensor, x: Range, y: Range, padding: str) -> tuple[Range, Tensor]:
    """The image between pixels over rectangles of places, and which of these are less than a pixel wide and tall."""
    tall, wide = image.shape[1:]
    u, v = (
        Range(ends.low + (size - 1) / 2, ends.high + (size - 1) / 2).wider(tall + wide)
        for ends, size in ((x, wide), (y, tall))
    )
    hold = torch.stack([ends.high - ends.low < 1 for ends in (u, v)])
    lines = [[ends.low, ends.high, torch.minimum(ends.low.ceil(), ends.high)] for ends in (u, v)]
    found = hull([_between(image, across, down, padding) for across, down in product(*lines)])
    return found.wider(image.abs().amax()), hold.flatten(2).all(2).all(0)


def _between(image: Tensor, u: Tensor, v: Tensor, padding: str) -> Tensor:
    """The image at places from its first pixel, (B, C, H, W), by bilinear interpolation."""
    left, top = u.floor(), v.floor()
    found = torch.zeros(())
    for right, below in product((0, 1), (0, 1)):
        share = (u - left if right else 1 - (u - left)) * (v - top if below else 1 - (v - top))
        found = found + share * _pixels(image, left.long() + right, top.long() + below, padding)
    return found


def _pixels(image: Tensor, column: Tensor, row: Tensor, padding: str) -> Tensor:
    """Pixels (B, C, H, W) of the image and of what lies around it, at whole places (B, 1, H, W)."""
    tall, wide = image.shape[1:]
    if padding == "cyclic":
        return image[:, (row % tall)[:, 0], (column % wide)[:, 0]].movedim(0, 1)
    found = image[:, row.clamp(0, tall - 1)[:, 0], column.clamp(0, wide - 1)[:, 0]].movedim(0, 1)
    inside = (row >= 0) & (row < tall) & (column >= 0) & (column < wide)
    return found if padding == "border" else found * inside


def _blurred(part: Blur, sigma: Range, x: Range) -> Range:
    """Images blurred along both axes by a kernel that ends after three of the largest standard deviations."""
    reach = max(1, math.ceil(3 * part.sigma[1]))
    distance = torch.arange(-reach, reach + 1, dtype=torch.float64)
    bell = Range(*(_bell(end, distance) for end in sigma))  # each entry grows with the deviation
    others = Range(*(end.sum(-1, keepdim=True) - end for end in bell))
    weights = Range(bell.low / (bell.low + others.high), bell.high / (bell.high + others.low)).wider(1.0)
    size = torch.maximum(x.low.abs(), x.high.abs()).amax()
    for _ in range(2):  # down the columns, then along the rows, which are columns of the transposed image
        least, most = (_matrices(end.clamp(min=0), x.low.shape[-2], part.padding) for end in weights)
        low = least @ x.low.clamp(min=0) + most @ x.low.clamp(max=0)
        high = most @ x.high.clamp(min=0) + least @ x.high.clamp(max=0)
        x = Range(low.mT, high.mT).wider(size)
    return x


def _bell(sigma: Tensor, distance: Tensor) -> Tensor:
    """Weights (B, 1, 1, D) before they are divided by their sum; at a deviation of 0 that of the pixel itself alone."""
    return torch.where(sigma > 0, (-((distance / sigma) ** 2) / 2).exp(), (distance == 0).double())


def _matrices(weights: Tensor, size: int, padding: str) -> Tensor:
    """Matrices (B, 1, size, size) that weigh a line of pixels and what lies around it."""
    reach = weights.shape[-1] // 2
    found = weights.new_zeros(len(weights), 1, size, size)
    for place, pixel in product(range(size), range(-reach, reach + 1)):
        source = place + pixel
        if padding == "cyclic":
            source %= size
        elif padding == "border":
            source = min(max(source, 0), size - 1)
        if 0 <= source < size:
            found[:, 0, place, source] += weights[:, 0, 0, reach + pixel]
    return found


def _changed(part: Photometric, values: Sequence[Range], x: Range) -> Range:
    """Images to a power, times a contrast of at least 0, plus a brightness."""
    contrast, brightness, gamma = values
    if part.gamma != (1.0, 1.0):  # a power of 1 is left out, so that negative pixels stay
        base = Range(x.low.clamp(min=0), x.high.clamp(min=0))
        x = hull([end**power for end in base for power in gamma]).wider(1.0)
    size = torch.maximum(x.low.abs(), x.high.abs()).amax()
    return x.times(contrast).plus(brightness).wider(size * contrast.high + brightness.high.abs())
