"""Maxima and minima of entries, over a dimension or over windows, as the maximum over one dimension."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger of two, entry by entry."""
    return torch.stack(torch.broadcast_tensors(x, y), -1).amax(-1)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of two, entry by entry."""
    return -maximum(-x, -y)


def amin(x: Tensor, dim: tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    """Minimum over some dimensions."""
    return -(-x).amax(dim, keepdim)


def largest_along(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Maximum over a dimension and where it is; only the first has bounds."""
    return x.amax(dim, keepdim), x.argmax(dim, keepdim)


def smallest_along(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Minimum over a dimension and where it is; only the first has bounds."""
    return amin(x, (dim,), keepdim), x.argmin(dim, keepdim)


def least_and_largest(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over a dimension."""
    dims = () if dim is None else (dim,)
    return amin(x, dims, keepdim), x.amax(dims, keepdim)


def clamp_to_tensors(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Each entry between limits of its own."""
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)


def max_pool(dimensions: int, *, indices: bool = False) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """Maximum over windows of the last dimensions: any kernel, stride, padding and dilation."""

    def pool(
        x: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        kernel = _each(kernel_size, dimensions)
        steps = _each(stride, dimensions) if len(stride) else kernel
        pads, gaps = _each(padding, dimensions), _each(dilation, dimensions)
        taps = [
            _pool_taps(x, size, *window, ceil_mode)
            for size, window in zip(x.shape[-dimensions:], zip(kernel, steps, pads, gaps, strict=True), strict=True)
        ]
        windows = _windows(x, taps)
        largest: Tensor = windows.amax(-1)
        return (largest, windows.argmax(-1)) if indices else largest  # places have no bounds

    return pool


def adaptive_max_pool(dimensions: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Maximum over windows that divide the last dimensions into a given number of parts."""

    def pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        taps = []
        for size, parts in zip(x.shape[-dimensions:], _each(output_size, dimensions), strict=True):
            part = torch.arange(parts, device=x.device)
            start, end = part * size // parts, ((part + 1) * size + parts - 1) // parts
            longest = max(-(-(i + 1) * size // parts) - i * size // parts for i in range(parts))
            window = start[:, None] + torch.arange(longest, device=x.device)
            taps.append(torch.minimum(window, end[:, None] - 1))
        windows = _windows(x, taps)
        return windows.amax(-1), windows.argmax(-1)

    return pool


def _each(values: Sequence[int], dimensions: int) -> list[int]:
    values = list(values)
    return values * dimensions if len(values) == 1 else values


def _pool_taps(x: Tensor, size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Tensor:
    """Places (windows, taps) along one dimension; what lies outside is replaced by a place inside its window."""
    span = dilation * (kernel - 1) + 1
    room = size + 2 * padding - span
    windows = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (windows - 1) * stride >= size + padding:  # a window must start inside
        windows -= 1
    start = torch.arange(windows, device=x.device) * stride - padding
    places = start[:, None] + dilation * torch.arange(kernel, device=x.device)
    first = start + (-start).clamp(min=0).add(dilation - 1).div(dilation, rounding_mode="floor") * dilation
    return torch.where((places >= 0) & (places < size), places, first[:, None])


def _windows(x: Tensor, taps: list[Tensor]) -> Tensor:
    """Entries of windows, in a last dimension, that are given by their places along each of the last dimensions."""
    dimensions = len(taps)
    flat = torch.zeros((), dtype=torch.long, device=x.device)
    for axis, places in enumerate(taps):  # to (windows of every axis, taps of every axis)
        shape = [1] * (2 * dimensions)
        shape[axis], shape[dimensions + axis] = places.shape
        flat = flat * x.shape[x.ndim - dimensions + axis] + places.view(shape)
    windows = list(flat.shape[:dimensions])
    gathered = x.flatten(-dimensions).index_select(-1, flat.flatten())
    found: Tensor = gathered.unflatten(-1, (*windows, -1))
    return found
