"""Resizing of maps by cubic or antialiased interpolation, as products with one constant matrix for each dimension.

Their weights are of both signs, and the absolute values of a product of such matrices in different dimensions are the
product of the absolute values: bounds of the products lose nothing.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
    corners, kept = (align_corners or None if antialias else align_corners), False
    if factor is None:
        moved = F.interpolate(lines, (1, new), mode=mode, align_corners=corners, antialias=antialias)
    else:
        moved = F.interpolate(
            lines,
            scale_factor=(1.0, factor),
            mode=mode,
            align_corners=corners,
            recompute_scale_factor=kept,
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
        for axis in (0, 1):
            dim = axis - 2
            factor = None if scale_factors is None else float(scale_factors[axis])
            old = x.shape[dim]
            new = output_size[axis] if output_size is not None else int(old * factor)  # type: ignore[operator]
            weights = interpolation([old, new], mode, align_corners, antialias, factor, x.dtype, x.device)
            x = x @ weights if axis else (x.mT @ weights).mT
        return x

    return resize
