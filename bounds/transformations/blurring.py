r"""Gaussian blur whose standard deviation is a parameter: a matrix for the rows of an image, and one for its columns.

The weights of the kernel are :math:`w_d = e_d / Z` with :math:`e_d = \exp(-d^2 / 2 \sigma^2)` and Z the sum of all.
Their derivatives are

.. math:: w_d' = \frac{d^2 h_d}{Z} - \frac{e_d}{Z} \frac{\sum_m m^2 h_m}{Z}, \qquad h_d = e_d / \sigma^3,

which are 0 at :math:`\sigma = 0`, where the kernel leaves the image as it is.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bounds.transformations.cells import UNITS, Cells
from bounds.transformations.pointwise import Along, ranges
from bounds.transformations.sampling import padded_places

Interval = tuple[Tensor, Tensor]  # middle and radius


def kernel(sigma: Tensor, reach: int) -> Tensor:
    """Weights (.., 2 reach + 1) of the kernel of each standard deviation, from one side to the other."""
    distance = torch.arange(-reach, reach + 1, dtype=sigma.dtype, device=sigma.device)
    weights = _bell(sigma[..., None], distance)
    return weights / weights.sum(-1, keepdim=True)


def _bell(sigma: Tensor, distance: Tensor) -> Tensor:
    safe = sigma.clamp(
        min=torch.finfo(sigma.dtype).tiny ** 0.25
    )  # far below any that matters, and its square is normal
    return torch.exp(-0.5 * (distance / safe).square())


def _cubed(sigma: Tensor, distance: Tensor) -> Tensor:
    """The function h above, 0 at 0 except for the distance 0, which is not asked for."""
    safe = sigma.clamp(min=1e-3)  # where it is 0 to the last digit
    return torch.exp(-0.5 * (distance / safe).square()) / safe**3


def kernel_ranges(low: Tensor, high: Tensor, reach: int) -> tuple[Interval, Interval]:
    """Ranges of the weights and of their derivatives over intervals of standard deviations (..,)."""
    low, high = low[..., None], high[..., None]
    distance = torch.arange(reach + 1, dtype=low.dtype, device=low.device)
    e_low, e_high = _bell(low, distance), _bell(high, distance)  # growing
    beyond = distance[1:]
    turn = (beyond / 3**0.5).expand(*low.shape[:-1], -1)  # h grows up to here and falls afterwards
    h_low = torch.minimum(_cubed(low, beyond), _cubed(high, beyond))
    h_high = _cubed(torch.minimum(torch.maximum(turn, low), high), beyond)
    z_low, z_high = (1 + 2 * e[..., 1:].sum(-1, keepdim=True) for e in (e_low, e_high))
    w_low, w_high = e_low / z_high, e_high / z_low
    squares = beyond.square()
    pull_low, pull_high = (2 * (squares * h).sum(-1, keepdim=True) for h in (h_low, h_high))
    rise_low, rise_high = squares * h_low / z_high, squares * h_high / z_low
    zero = torch.zeros_like(z_low)
    d_low = torch.cat([zero, rise_low], -1) - w_high * pull_high / z_low
    d_high = torch.cat([zero, rise_high], -1) - w_low * pull_low / z_high
    return _mirrored(w_low, w_high), _mirrored(d_low, d_high)


def _mirrored(low: Tensor, high: Tensor) -> Interval:
    """Middle and radius, rounded outward, from one side of the kernel to the other."""
    low, high = (torch.cat([end[..., 1:].flip(-1), end], -1) for end in (low, high))
    size = UNITS * (1 + low.abs() + high.abs())
    return (low + high) / 2, (high - low) / 2 + size


def shifts(size: int, reach: int, padding: str, like: Tensor) -> Tensor:
    """Matrices (2 reach + 1, size, size) that move a line of pixels by -reach to reach, with padding."""
    places = torch.arange(size, device=like.device)[None] + torch.arange(-reach, reach + 1, device=like.device)[:, None]
    folded, inside = padded_places(places, size, padding)
    return torch.nn.functional.one_hot(folded, size).to(like.dtype) * inside[..., None]


def _on_both_sides(image: Interval, tall: Interval, wide: Interval) -> Interval:
    """Images (.., C, H, W) times a matrix from the left and the transpose of another from the right."""
    center, radius = image
    for matrix, flip in ((tall, False), (wide, True)):
        x, off = (center.mT, radius.mT) if flip else (center, radius)
        size = matrix[0].abs() @ x.abs()
        off = matrix[0].abs() @ off + matrix[1] @ (x.abs() + off)
        x, off = matrix[0] @ x, off + UNITS * (size + off)
        center, radius = (x.mT, off.mT) if flip else (x, off)
    return center, radius


def blurred(cells: Cells, along: Along, reach: int, padding: str, shape: torch.Size) -> Cells:
    """The functions, images (C, H, W) in the last dimension, blurred with a standard deviation that is a parameter."""
    tall, wide = (shifts(size, reach, padding, cells.values) for size in shape[1:])
    flat = tuple(cells.values.shape[1:-1])

    def matrices(weights: Tensor) -> tuple[Tensor, Tensor]:  # (.., 1, size, size), for all channels
        return tuple(torch.einsum("...d,dij->...ij", weights, part)[..., None, :, :] for part in (tall, wide))  # type: ignore[return-value]

    def image(x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, shape)
        return split

    weights = kernel(along.corners.squeeze(-1), reach)
    down, across = matrices(weights)
    values = (down @ image(cells.values) @ across.mT).flatten(-3)
    error = cells.error + 4 * UNITS * cells.values.abs().amax()
    (mid, off), (turn, turn_off) = kernel_ranges(along.low.squeeze(-1), along.high.squeeze(-1), reach)
    (tall_mid, wide_mid), (tall_off, wide_off) = matrices(mid), matrices(off)
    (tall_turn, wide_turn), (tall_turn_off, wide_turn_off) = matrices(turn), matrices(turn_off)
    smooth = (tall_mid, tall_off), (wide_mid, wide_off)
    slopes, spreads = list(cells.slopes), list(cells.spreads)
    for axis, (slope, spread) in enumerate(zip(cells.slopes, cells.spreads, strict=True)):
        if slope is not None and spread is not None:
            found = _on_both_sides((image(slope), image(spread)), *smooth)
            slopes[axis], spreads[axis] = (part.flatten(-3) for part in found)
    least, most = ranges(cells)
    moved = replace(
        cells, values=values, error=error, slopes=tuple(slopes), spreads=tuple(spreads), floor=None, ceiling=None
    )
    range_ = image((least + most) / 2), image((most - least) / 2 * (1 + UNITS) + UNITS * most.abs())
    one = _on_both_sides(range_, (tall_turn, tall_turn_off), smooth[1])
    other = _on_both_sides(range_, smooth[0], (wide_turn, wide_turn_off))
    middle, radius = ((a + b).flatten(-3) for a, b in zip(one, other, strict=True))
    assert len(flat) == cells.parameters
    return along.added(moved, middle - radius, middle + radius)
