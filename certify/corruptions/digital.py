"""Digital corruptions of ImageNet-C beyond the quick ones: light, contrast, pixelation, saturation, speckle noise.

Parameters are those of make_imagenet_c.py in github.com/hendrycks/robustness, at commit 8190fe3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.circumstances import isolated
from certify.corruptions.filters import drawn_like, working


@isolated
def speckle_noise(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Normal noise in proportion to the entries, clipped."""
    sigma = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return (x + sigma * x * drawn_like(x, generator)).clamp(0, 1)


@isolated
def low_contrast(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Entries drawn towards the mean of their channel, to 40, 30, 20, 10 or 5 percent of the distance."""
    share = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return (mean + share * (x - mean)).clamp(0, 1)


@isolated
def value_brightness(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """The value of each pixel, its largest channel, raised by up to 0.5; hue and saturation stay."""
    return with_value(working(x), (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).to(x.dtype)


def with_value(x: Tensor, added: float) -> Tensor:
    """Images whose value, the largest channel of each pixel, is raised by a number, or lowered; black becomes gray."""
    value = x.amax(1, keepdim=True)
    raised = (value + added).clamp(0, 1)
    scaled = x * (raised / value.clamp(min=torch.finfo(x.dtype).tiny))
    return torch.where(value > 0, scaled, raised).clamp(0, 1)


@isolated
def pixelate(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Blocks of one value each, 60, 50, 40, 30 or 25 percent as many along each side."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    sides = [max(1, int(side * share)) for side in x.shape[-2:]]
    blocks = F.interpolate(working(x), size=sides, mode="area")
    return F.interpolate(blocks, size=x.shape[-2:], mode="nearest-exact").clamp(0, 1).to(x.dtype)


@isolated
def saturate(x: Tensor, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Saturation multiplied, and raised, at the hue and the value there is; gray pixels and images stay.

    With the value v, the largest channel, an entry becomes ``v - (v - x) s' / s`` for the saturations s and s'.
    """
    factor, added = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    if x.shape[1] != 3:
        return x.clone()
    image = working(x)
    value, least = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    saturation = (value - least) / value.clamp(min=torch.finfo(image.dtype).tiny)
    wanted = (factor * saturation + added).clamp(0, 1)
    ratio = torch.where(saturation > 0, wanted / saturation.clamp(min=torch.finfo(image.dtype).tiny), 1.0)
    return (value - (value - image) * ratio).clamp(0, 1).to(x.dtype)
