"""Parts of corruptions of images: filters, moved pixels, random fields."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds import checks

SIDE = 224  # pixels of the images for which lengths are stated


def scale_of(x: Tensor) -> float:
    """Pixels along the shorter side of images (N, C, H, W), over those of the images that lengths are stated for."""
    return min(x.shape[-2:]) / SIDE


def working(x: Tensor) -> Tensor:
    """Images in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gray(x: Tensor) -> Tensor:
    """Luminance (N, 1, H, W) of images; the mean of channels that are not three."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    weight = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device)
    return torch.einsum("nchw,c->nhw", x, weight)[:, None]


def filtered(x: Tensor, kernel: Tensor, dim: int) -> Tensor:
    """The mean of neighbours along one dimension, weighted by a kernel of odd length, with the border repeated."""
    reach = len(kernel) // 2
    sides = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
    padded = F.pad(x, sides, mode="replicate")
    windows = padded.unfold(dim, len(kernel), 1)
    means: Tensor = (windows * (kernel / kernel.sum())).sum(-1)
    return means.clamp(0, 1)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Images under a normal kernel, with the border repeated."""
    reach = min(math.ceil(3 * sigma), *(side - 1 for side in x.shape[-2:]))
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    return filtered(filtered(x, kernel, 2), kernel, 3)


def warped(x: Tensor, matrix: Tensor) -> Tensor:
    """Images (N, C, H, W) whose pixel at p is what is at ``matrix @ (p, 1)``; bilinear, with the border repeated.

    Args:
        x: images.
        matrix: (2, 3) or (N, 2, 3), of coordinates (across, down) in pixels from the middle.
    """
    matrix = matrix.to(x).expand(len(x), 2, 3)
    return values_at(x, torch.einsum("nij,jhw->nhwi", matrix, pixel_places(x)))


def projected(x: Tensor, matrix: Tensor) -> Tensor:
    """Images whose pixel at p is what is at (q_1, q_2) / q_3 for q = ``matrix @ (p, 1)``; bilinear, black outside.

    Args:
        x: images.
        matrix: (3, 3), of coordinates (across, down) in pixels from the middle.
    """
    moved = torch.einsum("ij,jhw->hwi", matrix.to(x), pixel_places(x))
    places = (moved[..., :2] / moved[..., 2:]).expand(len(x), -1, -1, -1)
    return values_at(x, places, outside="zeros")


def pixel_places(x: Tensor) -> Tensor:
    """Places (3, H, W) of the pixels of images: across and down from the middle, and 1."""
    height, width = x.shape[-2:]
    down = torch.arange(height, dtype=x.dtype, device=x.device) - (height - 1) / 2
    across = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    ones = torch.ones(height, width, dtype=x.dtype, device=x.device)
    return torch.stack([across.expand(height, width), down[:, None].expand(height, width), ones])


def values_at(x: Tensor, places: Tensor, outside: str = "border") -> Tensor:
    """Values at places (N, H, W, 2), in pixels (across, down) from the middle; bilinear.

    Args:
        x: images.
        places: where.
        outside: ``"border"`` repeats the border of an image beyond it, ``"zeros"`` is black there.
    """
    sides = torch.tensor([x.shape[-1], x.shape[-2]], dtype=x.dtype, device=x.device)
    return F.grid_sample(x, 2 * places / sides, mode="bilinear", padding_mode=outside, align_corners=False)


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Images magnified around their middle."""
    return warped(x, torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]], dtype=x.dtype, device=x.device))


def smeared(x: Tensor, angle: Tensor, radius: float, sigma: float) -> Tensor:
    """Motion blur: the mean of up to ``radius`` pixels in a direction, with weights exp(-t^2 / (2 sigma^2)).

    Args:
        x: images.
        angle: (N,), in radians.
        radius: in pixels; at least one neighbour counts.
        sigma: in pixels.
    """
    steps = max(1, math.ceil(radius))
    moves = [radius * j / steps for j in range(steps + 1)]
    weights = [math.exp(-(move**2) / (2 * sigma**2)) for move in moves]
    total = torch.zeros_like(x)
    matrix = torch.zeros(len(x), 2, 3, dtype=x.dtype, device=x.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1
    for move, weight in zip(moves, weights, strict=True):
        matrix[:, 0, 2], matrix[:, 1, 2] = move * angle.cos(), move * angle.sin()
        total += weight / sum(weights) * warped(x, matrix)
    return total


def plasma(x: Tensor, decay: float, generator: torch.Generator | None) -> Tensor:
    """Random clouds (N, 1, H, W) from 0 to 1: noise whose amplitude falls by ``decay`` with each octave of frequency.

    In two dimensions that is an amplitude in proportion to ``f ** -(1 + log2(decay))``.
    """
    noise = drawn_like(x[:, :1], generator)
    height, width = x.shape[-2:]
    down = torch.fft.fftfreq(height, dtype=x.dtype, device=x.device)[:, None]
    across = torch.fft.rfftfreq(width, dtype=x.dtype, device=x.device)
    frequency = (down**2 + across**2).sqrt()
    amplitude = torch.where(frequency > 0, frequency, 1.0) ** -(1 + math.log2(decay)) * (frequency > 0)
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(height, width))
    least, most = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    clouds: Tensor = (field - least) / (most - least).clamp(min=torch.finfo(x.dtype).tiny)
    return clouds


def drawn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of that shape."""
    return torch.empty_like(x).normal_(generator=checks.generator(generator, x.device))


def drawn_uniform(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform numbers between -1 and 1."""
    numbers = torch.empty(shape, dtype=like.dtype, device=like.device)
    return numbers.uniform_(-1, 1, generator=checks.generator(generator, like.device))
