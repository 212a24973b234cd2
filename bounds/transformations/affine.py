r"""Contrast and brightness in closed form: entries that are linear in the parameters, moved into a range of pixels.

An entry :math:`u = c x + b` is linear in (c, b), and what the range of pixels makes of it,
:math:`f(u) = \max(L, \min(u, H))`, is monotone and piecewise linear in u alone. On an interval of u, the highest convex
function below f is constant up to L, and the chord from there to the upper end of the interval.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bounds.transformations.cells import UNITS


class Entries(NamedTuple):
    """Linear functions of k parameters over :math:`[-1, 1]^k`, E of them for each of B boxes.

    Attributes:
        middle: (B, E), values in the middle.
        slopes: (B, k, E).
        error: (B, E), how far values may be off.
    """

    middle: Tensor
    slopes: Tensor
    error: Tensor

    @classmethod
    def of(cls, x: Tensor, contrast: tuple[Tensor, Tensor], brightness: tuple[Tensor, Tensor]) -> "Entries":
        """Images (B, E) times a contrast plus a brightness, each between two numbers (B, 1)."""
        factor, offset = ((low + high) / 2 for low, high in (contrast, brightness))
        slopes = torch.stack(
            [x * (contrast[1] - contrast[0]) / 2, ((brightness[1] - brightness[0]) / 2).expand_as(x)], 1
        )
        size = (x * factor).abs() + offset.abs() + slopes.abs().sum(1)
        return cls(x * factor + offset, slopes, UNITS * size)

    def opposite(self) -> "Entries":
        """The negative of the functions."""
        return Entries(-self.middle, -self.slopes, self.error)


def lines_below(u: Entries, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets and slopes (B, E) in u of lines below ``max(low, min(u, high))``, as high as can be in the middle."""
    reach = u.slopes.abs().sum(1) * (1 + UNITS) + u.error
    begin, end = u.middle - reach, u.middle + reach
    bend = torch.minimum(torch.maximum(begin, low), end)  # from here on the convex function rises

    def value(at: Tensor) -> Tensor:
        return torch.maximum(low, torch.minimum(at, high))

    rise = (value(end) - value(bend)) / (end - bend)
    slope = torch.where((u.middle >= bend) & (end > bend), rise.clamp(0.0, 1.0).nan_to_num(0.0), 0.0)
    # Whatever the slope is, f less the line is least where f bends, or at an end.
    places = (begin, end, bend, torch.minimum(torch.maximum(begin, high), end))
    offset = torch.stack([value(at) - slope * at for at in places]).amin(0)
    size = begin.abs() + end.abs() + offset.abs()
    return offset - UNITS * size - u.error, slope


def clipped_tubes(
    u: Entries, noise: float, low: Tensor | None, high: Tensor | None, varying: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Sides (B, V, E) of boxes whose hull holds the entries, moved into the range of pixels, with noise in l-infinity.

    Corners are those of the varying parameters, in the order of binary numbers, the first having the lowest digit.
    """
    least = torch.full_like(u.middle[0], -torch.inf) if low is None else low
    most = torch.full_like(u.middle[0], torch.inf) if high is None else high
    sides = []
    for each, bottom, top in ((u, least, most), (u.opposite(), -most, -least)):
        # Noise below: max(bottom, min(u, top) - noise).
        offset, slope = lines_below(each._replace(middle=each.middle - noise), bottom, top - noise)
        tilt = each.slopes[:, list(varying)] * slope[:, None]
        corners = torch.arange(1 << len(varying), device=tilt.device)
        signs = torch.stack([2.0 * (corners >> place & 1) - 1 for place in range(len(varying))] or [corners[:0]], 1)
        heights = offset + slope * (each.middle - noise)
        boxes = heights[:, None] + torch.einsum("vm,bme->bve", signs.to(tilt.dtype).view(len(corners), -1), tilt)
        size = offset.abs() + (slope * each.middle).abs() + tilt.abs().sum(1) + noise
        sides.append(boxes - UNITS * size[:, None])
    return sides[0], torch.maximum(-sides[1], sides[0])
