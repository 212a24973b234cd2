"""Noise for inputs on a grid, such as 8-bit images, drawn and added as integers.

A floating-point sum of an input and noise betrays the input: some numbers are sums of noise and one input, but not of
noise and another input. So a classifier can tell two inputs apart that it could not tell apart under real-valued
noise. Rounding the noisy input to the grid hides the difference. The theorem covers this rounding as a part of the
classifier. Since the input lies on the grid, rounding the sum means adding rounded noise.

References:
    Voracek, Hein (2023), Sound randomized smoothing in floating-point arithmetics, ICLR.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bounds.statistics.proportions import FloatArray
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.lookup import BITS, REST, Lookup

# Distance from the grid, in relative spacings of the dtype, at which inputs count as rounded from it: division by the
# steps leaves half of one, a product with their rounded inverse less than 1.1.
SPACINGS = 1.5


class IntegerLaw(NamedTuple):
    """A distribution on consecutive integers as cells of 63-bit numbers.

    Attributes:
        thresholds: (M - 1,) int64, ascending; a uniform number in [0, 2**63) falls into one of M cells between them.
        lowest: integer of the first cell.
        lookup: of the same masses, for draws on the host.
        error: bound of the total variation distance to the distribution meant.
    """

    thresholds: Tensor
    lowest: int
    lookup: Lookup
    error: float

    @classmethod
    def of(cls, masses: FloatArray, lowest: int, error: float, device: torch.device) -> "IntegerLaw":
        """The law of cells with the given masses, the i-th for ``lowest + i``; ``error`` bounds theirs."""
        cumulative = [0]
        for mass in masses:  # exact: a float64 number times a power of two, as an integer
            numerator, denominator = float(mass).as_integer_ratio()
            cumulative.append(cumulative[-1] + (numerator << BITS) // denominator)
        # The excess or deficit of the rounded masses goes to the last cells.
        cells = np.minimum(np.array(cumulative[1:-1], dtype=object), 2**BITS - 1).astype(np.uint64)
        off_by = abs(2**BITS - cumulative[-1]) + len(masses)
        ends = np.array([0, *cells.tolist(), 2**BITS], dtype=np.uint64)
        units = ends[1:] - ends[:-1]
        values = np.arange(lowest, lowest + len(masses), dtype=np.float32)
        lookup = Lookup.of(units, (units >> np.uint64(REST)).astype(np.int64), values)
        thresholds = torch.from_numpy(cells.astype(np.int64))
        return cls(thresholds.to(device), lowest, lookup, error + off_by * 2.0**-BITS)

    def draw_blocks_(self, out: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill ``out``, contiguous and floating, with independent integers; each source makes an equal part."""
        if out.device.type != "cpu":  # no draw waits for another, and none is read back
            bits = torch.empty(len(sources), out.numel() // len(sources), dtype=torch.int64, device=out.device)
            for row, source in zip(bits, sources, strict=True):
                row.random_(generator=source.generator)
            return out.copy_(self._cell(bits).view_as(out))
        single = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        drawn = self.lookup.fill_(single, sources)
        single.view(-1).numpy()[drawn.place] = drawn.cell + self.lowest
        return single if single is out else out.copy_(single)

    def _cell(self, bits: Tensor) -> Tensor:
        return torch.bucketize(bits, self.thresholds, right=True) + self.lowest


def grid_integers(x: Tensor, steps: int) -> Tensor:
    """Integers v, as float64, of inputs that are ``v / steps`` up to the rounding of their dtype; NaN elsewhere.

    All are NaN in a dtype that does not tell the points of the grid apart around 1.
    """
    scaled, unit = x.double() * steps, torch.finfo(x.dtype).eps
    v = scaled.round()
    near = (scaled - v).abs() <= (SPACINGS * unit * v.abs()).clamp(max=0.25)
    return torch.where(near, v, torch.nan) if unit * steps <= 0.25 else torch.full_like(v, torch.nan)
