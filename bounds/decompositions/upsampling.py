"""Resizing of maps: by constant matrices, one for each dimension, or by picking the nearest entries.

Weights of cubic interpolation are of both signs; the absolute values of a product of matrices in different dimensions
are the product of the absolute values, so that bounds of the products lose nothing.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEAREST = "nearest-exact"


@torch.library.custom_op("certify_bounds::interpolation", mutates_args=())
def interpolation(
    sizes: Sequence[int],
    mode: str,
    align_corners: bool,
    antialias: bool,
    factor: float | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Weights (old, new) of the interpolation of a line, in double precision whatever the dtype of the network."""
    old, new = sizes
    lines = torch.eye(old, dtype=torch.float64).view(1, old, 1, old)
    corners = None if mode == NEAREST else align_corners
    if factor is None:
        moved = F.interpolate(lines, (1, new), mode=mode, align_corners=corners, antialias=antialias)
    else:
        moved = F.interpolate(
            lines,
            scale_factor=(1.0, factor),
            mode=mode,
            align_corners=corners,
            recompute_scale_factor=False,
            antialias=antialias,
        )
    return moved[0, :, 0].contiguous()


@interpolation.register_fake
def _(
    sizes: Sequence[int],
    mode: str,
    align_corners: bool,
    antialias: bool,
    factor: float | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    return torch.empty(*sizes, dtype=dtype, device=device)


def resized(mode: str, *, antialias: bool = False) -> Callable[..., Tensor]:
    """Interpolation of the last two dimensions."""

    def resize(
        x: Tensor,
        output_size: Sequence[int] | None,
        align_corners: bool = False,
        scale_factors: Sequence[float] | None = None,
    ) -> Tensor:
        for dim, sizes, factor in _axes(x, output_size, scale_factors):
            weights = interpolation(sizes, mode, align_corners, antialias, factor, x.dtype, x.device)
            x = (x.movedim(dim, -1) @ weights).movedim(-1, dim)
        return x

    return resize


def nearest(x: Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None = None) -> Tensor:
    """The entries whose centres are nearest, of any number of dimensions."""
    for dim, sizes, factor in _axes(x, output_size, scale_factors):
        weights = interpolation(sizes, NEAREST, False, False, factor, x.dtype, x.device)
        x = x.index_select(dim, weights.argmax(0))
    return x


def _axes(
    x: Tensor, output_size: Sequence[int] | None, factors: Sequence[float] | None
) -> list[tuple[int, list[int], float | None]]:
    """Dimensions of the map, each with its old and its new size, and the factor if it is given."""
    axes: list[tuple[int, list[int], float | None]] = []
    for dim in range(2, x.ndim):
        factor = None if factors is None else float(factors[dim - 2])
        new = int(x.shape[dim] * factor) if factor is not None else output_size[dim - 2]  # type: ignore[index]
        axes.append((dim, [x.shape[dim], new], factor))
    return axes
