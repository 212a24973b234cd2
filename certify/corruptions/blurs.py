"""Blurs of ImageNet-C: out of focus, through glass, by motion and by zooming.

Lengths are those of the benchmark for 224 pixels, and scale with the shorter side of an image. Parameters are those of
make_imagenet_c.py in github.com/hendrycks/robustness, at commit 8190fe3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.circumstances import isolated
from certify.corruptions.filters import blurred, drawn_uniform, scale_of, smeared, values_at, warped, working, zoomed

FINER = 8  # points along each side of a pixel, of which those in a disc are counted
DISCS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius, and the blur of the disc in pixels
ELASTIC_SIDE = 244  # the benchmark takes this for the side of its images of 224 pixels
LEAST_SCALE = 0.25  # of displacements, so that those of small images are seen


@isolated
def defocus_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """The mean over a disc of radius 3, 4, 6, 8 or 10, blurred by half a pixel, at severity 1 by a tenth."""
    image, (pixels, aliasing) = working(x), DISCS[severity - 1]
    radius = pixels * scale_of(x)
    reach = min(math.ceil(radius), *(side - 1 for side in x.shape[-2:]))
    count = (2 * reach + 1) * FINER
    places = (torch.arange(count, dtype=image.dtype, device=x.device) + 0.5) / FINER - reach - 0.5
    disc = (places[:, None] ** 2 + places**2 <= radius**2).to(image.dtype)
    kernel = F.avg_pool2d(disc[None, None], FINER)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    moved = F.conv2d(padded, (kernel / kernel.sum()).expand(x.shape[1], -1, -1, -1), groups=x.shape[1])
    return blurred(moved, aliasing).to(x.dtype)


@isolated
def glass_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A blur, pixels that look at random places nearby, several times, and the blur again.

    The benchmark exchanges neighbours one after the other; here all pixels move at once.
    """
    sigma, farthest, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    scale, image = scale_of(x), blurred(working(x), max(sigma * scale_of(x), 0.1))
    for _ in range(times):
        image = displaced(image, farthest * max(scale, LEAST_SCALE) * _anywhere(image, generator))
    return blurred(image, max(sigma * scale, 0.1)).clamp(0, 1).to(x.dtype)


def _anywhere(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Displacements (N, H, W, 2) between -1 and 1."""
    return drawn_uniform(x, (len(x), *x.shape[-2:], 2), generator)


def displaced(x: Tensor, moves: Tensor) -> Tensor:
    """Images whose pixels look at other places, (N, H, W, 2) pixels (across, down) away."""
    height, width = x.shape[-2:]
    down = torch.arange(height, dtype=x.dtype, device=x.device) - (height - 1) / 2
    across = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    own = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], 2)
    return values_at(x, own + moves)


@isolated
def random_motion_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Motion blur in a direction of its own for each image, up to 45 degrees from the rows."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    image, scale = working(x), max(scale_of(x), LEAST_SCALE)
    angle = math.pi / 4 * drawn_uniform(image, (len(x),), generator)
    return smeared(image, angle, radius * scale, sigma * scale).clamp(0, 1).to(x.dtype)


@isolated
def wide_gaussian_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A normal kernel of standard deviation 1, 2, 3, 4 or 6 for images of 224 pixels, with the border repeated."""
    sigma = (1, 2, 3, 4, 6)[severity - 1] * max(scale_of(x), LEAST_SCALE)
    return blurred(working(x), sigma).to(x.dtype)


@isolated
def zoom_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """The mean of an image and of itself magnified by up to 11, 15, 20, 24 or 30 percent."""
    count, step = ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))[severity - 1]
    image = working(x)
    factors = [1 + step * j for j in range(count)]
    total = sum((zoomed(image, factor) for factor in factors), start=image)
    return (total / (len(factors) + 1)).clamp(0, 1).to(x.dtype)


@isolated
def elastic_transform(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Pixels moved by an affine map near the identity and by smooth random displacements.

    Three corners of a triangle in the middle move by up to a share of the side each, which determines the affine map;
    displacements are uniform noise of another share of the side under a normal kernel. Under it noise shrinks with the
    kernel in pixels, so in smaller images it is made smaller too, by up to four times.
    """
    strength, smooth, affine = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[severity - 1]
    image, third, side = working(x), min(x.shape[-2:]) / 3, ELASTIC_SIDE * scale_of(x)
    corners = [[third, third, 1.0], [third, -third, 1.0], [-third, -third, 1.0]]
    before = torch.tensor(corners, dtype=image.dtype, device=x.device)
    after = before[:, :2] + affine * side * drawn_uniform(image, (len(x), 3, 2), generator)
    moved = warped(image, torch.linalg.solve(before, after).mT)
    field = _smooth(_anywhere(image, generator).permute(0, 3, 1, 2), smooth * side)
    reach = strength * side * max(scale_of(x), LEAST_SCALE)
    return displaced(moved, reach * field.permute(0, 2, 3, 1)).clamp(0, 1).to(x.dtype)


def _smooth(field: Tensor, sigma: float) -> Tensor:
    """Fields (N, 2, H, W) under a normal kernel on a torus."""
    height, width = field.shape[-2:]
    down = torch.fft.fftfreq(height, dtype=field.dtype, device=field.device)[:, None]
    across = torch.fft.rfftfreq(width, dtype=field.dtype, device=field.device)
    response = torch.exp(-2 * (math.pi * sigma) ** 2 * (down**2 + across**2))
    smoothed: Tensor = torch.fft.irfft2(torch.fft.rfft2(field) * response, s=(height, width))
    return smoothed
