"""Weather of ImageNet-C: snow, frost, fog and spatter; frost and spatter are synthetic throughout.

Parameters are those of make_imagenet_c.py in github.com/hendrycks/robustness, at commit 8190fe3.
"""

import math

import torch
from torch import Tensor

from bounds.circumstances import isolated
from certify.corruptions.filters import (
    blurred,
    drawn_like,
    drawn_uniform,
    gray,
    plasma,
    scale_of,
    smeared,
    working,
    zoomed,
)

WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)  # colours
LEAST_SCALE = 0.25


@isolated
def snow(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Flakes, blurred by their motion, over a whitened image: magnified noise above a threshold, and it turned over."""
    image, (mean, deviation, zoom, threshold, radius, sigma, share) = working(x), SNOW[severity - 1]
    layer, scale = flakes(image, (mean, deviation, zoom, threshold), generator), max(scale_of(x), LEAST_SCALE)
    angle = -math.pi / 2 + math.pi / 4 * drawn_uniform(image, (len(x),), generator)
    return covered_by_snow(image, smeared(layer, angle, radius * scale, sigma * scale), share).to(x.dtype)


SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)  # mean and deviation of the noise, magnification, threshold, radius and sigma of the motion, share of the image


def flakes(x: Tensor, form: tuple[float, float, float, float], generator: torch.Generator | None) -> Tensor:
    """Flakes (N, 1, H, W) from 0 to 1, without motion: magnified normal noise, 0 below a threshold.

    Args:
        x: images.
        form: mean and deviation of the noise, magnification, threshold.
        generator: source of the noise.
    """
    mean, deviation, zoom, threshold = form
    noise = zoomed(mean + deviation * drawn_like(x[:, :1], generator), zoom)
    return torch.where(noise < threshold, 0.0, noise).clamp(0, 1)


def covered_by_snow(x: Tensor, layer: Tensor, share: float) -> Tensor:
    """Images whitened but for a share, with flakes, and with the same ones turned by half a turn."""
    whitened = share * x + (1 - share) * torch.maximum(x, 1.5 * gray(x) + 0.5)
    return (whitened + layer + layer.flip(2, 3)).clamp(0, 1)


@isolated
def frost(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A weaker image under bright ridges of random clouds; the benchmark has photographs of frost instead."""
    kept, added = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    image = working(x)
    ridges = (1 - (2 * plasma(image, 1.7, generator) - 1).abs()) ** 2
    return (kept * image + added * ridges).clamp(0, 1).to(x.dtype)


@isolated
def fog(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Random clouds added, and the image dimmed by what they add at most.

    Clouds of the benchmark have an amplitude that falls by the square of its parameter with each octave.
    """
    added, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    image = working(x)
    most = image.amax((1, 2, 3), keepdim=True)
    return ((image + added * plasma(image, decay**2, generator)) * most / (most + added)).clamp(0, 1).to(x.dtype)


@isolated
def spatter(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Drops of water, from severity 4 on of mud: where smoothed noise exceeds a threshold.

    The thresholds cover about 3, 14, 24, 50 and 58 percent; of mud, the blurred edges are left out. In gray images
    drops have the luminance of their colour.
    """
    threshold, sigma, strength = ((1.9, 4, 0.6), (1.1, 3, 0.6), (0.7, 2, 0.5), (0.0, 1, 1.0), (-0.2, 1, 1.0))[
        severity - 1
    ]
    image, scale = working(x), max(scale_of(x), LEAST_SCALE)
    # A filter keeps numbers between 0 and 1, so the noise is put there.
    field = blurred((0.5 + 0.05 * drawn_like(image[:, :1], generator)).clamp(0, 1), sigma * scale)
    spread = field.std((2, 3), keepdim=True).clamp(min=torch.finfo(image.dtype).tiny)
    drops = blurred(((field - 0.5) / spread > threshold).to(image.dtype), 1.5 * scale)
    colour = torch.tensor(WATER if severity < 4 else MUD, dtype=image.dtype, device=x.device).view(1, 3, 1, 1)
    if x.shape[1] != 3:
        colour = gray(colour)
    share = strength * (drops if severity < 4 else torch.where(drops < 0.8, 0.0, drops))
    return ((1 - share) * image + share * colour).clamp(0, 1).to(x.dtype)
