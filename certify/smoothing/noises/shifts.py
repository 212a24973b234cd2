"""Noise of whole-pixel cyclic shifts, which certifies such shifts."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bounds import checks
from bounds.numerics import round_down
from certify.smoothing.derandomized.shifts import require_images, shifted
from certify.smoothing.drawing.distributions import Distribution
from certify.smoothing.noises.l0 import CountingNoise


@dataclass(frozen=True)
class CyclicShiftNoise(CountingNoise):
    r"""Cyclic shifts by up to ``reach`` whole pixels in both axes, all equally likely, which certify such shifts.

    The radius is in pixels: the label holds for all cyclic shifts by at most that along each axis. A shift by (a, b)
    takes :math:`w^2 - (w - |a|)(w - |b|)` of the :math:`w^2` shifts with :math:`w = 2\,\text{reach} + 1` out of the
    law, so that the probability of a class changes by that share at most.
    :func:`certify.smoothing.certify_cyclic_shifts` counts all shifts instead, with certainty.

    Args:
        reach: pixels, at least 1.

    Raises:
        InvalidInput: a reach below 1; later, inputs that are no images (N, C, H, W) or (N, H, W).

    >>> CyclicShiftNoise(reach=4).radius(torch.tensor([0.5, 0.99], dtype=torch.float64))
    tensor([0., 2.], dtype=torch.float64)
    """

    reach: int

    norm = math.nan  # radii are of shifts

    def __post_init__(self) -> None:
        checks.at_least("reach", self.reach, 1)

    def __str__(self) -> str:
        return f"cyclic_shifts(reach={self.reach})"

    @property
    def domain(self) -> str:
        """Changed inputs that a certificate is about, for records."""
        return "cyclic shifts by whole pixels"

    @property
    def distribution(self) -> Distribution:
        """Distribution that shifted inputs are drawn from."""
        return UniformShifts(self.reach)

    @property
    def thresholds(self) -> Tensor:
        """The probability to exceed for a radius of 0, 1, ..., rounded down."""
        return _thresholds(2 * self.reach + 1)

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs are images."""
        require_images(x)

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        # Both probabilities change by the same share, so that half their difference counts as the excess over 1/2.
        p = round_down(0.5 + 0.5 * round_down(p_lower - p_upper, 2.0**-53), 2.0**-53)
        return self._radius(torch.maximum(p, p_lower)).clamp(min=0.0)


@lru_cache(maxsize=32)
def _thresholds(width: int) -> Tensor:
    table = []
    for r in range(width):
        gone = width**2 - (width - r) ** 2
        if 2 * gone >= width**2:  # even probability 1 is too small
            break
        table.append(((width**2 + 2 * gone << 53) // (2 * width**2)) / 2**53)
    return torch.tensor(table, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class UniformShifts(Distribution):
    """Images under cyclic shifts of both axes, drawn uniformly."""

    reach: int

    sampling = "exact"

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs are images."""
        require_images(x)

    def raw(self, encoded: Tensor, draws: int) -> Tensor:
        """A buffer for two shifts a draw."""
        return encoded.new_empty(draws, 2)

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with whole numbers."""
        keys = torch.empty(raw.shape, dtype=torch.int64, device=raw.device).random_(generator=generator)
        return raw.copy_(keys % (2 * self.reach + 1) - self.reach)

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Shift every input by every draw."""
        return out.copy_(shifted(encoded, raw.long()))

    def error(self, entries: int) -> float:
        """Remainders of 63-bit numbers are uniform up to this, for both axes."""
        return 2 * (2 * self.reach + 1) * 2.0**-63

    def on_grid(self, steps: int) -> Distribution:
        """This distribution, which does not compute with values of pixels."""
        return self
