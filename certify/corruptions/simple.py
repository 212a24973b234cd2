"""Quick corruptions of images: noise, blur, contrast, brightness and compression.

Noises, brightness and compression have the parameters of ImageNet-C (make_imagenet_c.py in
github.com/hendrycks/robustness, at commit 8190fe3), contrast those of CIFAR-10-C. Blurs have their own, for small
images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds import checks
from bounds.geometry import cosine_transform
from certify.corruptions.filters import blurred, filtered

# Quantisation of luminance, ITU T.81, Table K.1.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def gaussian_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent normal noise, clipped."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return (x + sigma * torch.empty_like(x).normal_(generator=checks.generator(generator, x.device))).clamp(0, 1)


def shot_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Poisson noise of few photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return (torch.poisson(x * photons, generator=checks.generator(generator, x.device)) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A share of the entries set to black or white, one as likely as the other."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    lot = torch.empty_like(x).uniform_(generator=checks.generator(generator, x.device))
    return torch.where(lot < share / 2, 0.0, torch.where(lot < share, 1.0, x))


def gaussian_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A normal kernel, with the border repeated."""
    sigma = (0.4, 0.6, 0.8, 1.1, 1.5)[severity - 1]
    return blurred(x, sigma)


def motion_blur(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """The mean of 3, 5, 7, 9 or 11 neighbours in a row."""
    return filtered(x, x.new_ones(2 * severity + 1), 3)


def contrast(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Entries drawn towards the mean of their image."""
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + share * (x - mean)).clamp(0, 1)


def brightness(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """A constant added."""
    return (x + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clamp(0, 1)


def jpeg(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Compression with quality 25, 18, 15, 10 or 7; each channel like luminance, without a change of colours."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    table = torch.tensor(LUMINANCE, dtype=torch.float64, device=x.device)
    step = ((table * (5000 // quality) + 50) / 100).floor().clamp(1, 255)
    height, width = x.shape[-2:]
    padded = F.pad((255 * x.double()).round() - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)  # (N, C, rows, columns, 8, 8)
    transform = cosine_transform(8, padded)
    kept = (transform @ blocks @ transform.T / step).round() * step
    image = (transform.T @ kept @ transform).transpose(3, 4).reshape(padded.shape)[..., :height, :width]
    return ((image + 128).round().clamp(0, 255) / 255).to(x.dtype)
