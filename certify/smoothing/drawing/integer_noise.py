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

BITS = 63  # of a uniform integer that picks a cell
GUIDE_BITS = 16  # of its leading ones, which settle most draws by themselves

# Distance from the grid, in relative spacings of the dtype, at which inputs count as rounded from it: division by the
# steps leaves half of one, a product with their rounded inverse less than 1.1.
SPACINGS = 1.5


class IntegerLaw(NamedTuple):
    """A distribution on consecutive integers as cells of 63-bit numbers.

    Attributes:
        thresholds: (M - 1,) int64, ascending; a uniform number in [0, 2**63) falls into one of M cells between them.
        lowest: integer of the first cell.
        guide: (2**16,) float32, the integer if the leading bits alone decide, else NaN.
        error: bound of the total variation distance to the distribution meant.
    """

    thresholds: Tensor
    lowest: int
    guide: Tensor
    error: float

    @classmethod
    def of(cls, masses: FloatArray, lowest: int, error: float, device: torch.device) -> "IntegerLaw":
        """The law of cells with the given masses, the i-th for ``lowest + i``; ``error`` bounds theirs."""
        cumulative = [0]
        for mass in masses:  # exact: a float64 number times a power of two, as an integer
            numerator, denominator = float(mass).as_integer_ratio()
            cumulative.append(cumulative[-1] + (numerator << BITS) // denominator)
        # The excess or deficit of the rounded masses goes to the last cells.
        cells = np.minimum(np.array(cumulative[1:-1], dtype=object), 2**BITS).astype(np.uint64)
        off_by = abs(2**BITS - cumulative[-1]) + len(masses)
        thresholds = torch.from_numpy(np.minimum(cells, 2**BITS - 1).astype(np.int64))
        first = torch.arange(2**GUIDE_BITS, dtype=torch.int64, device="cpu") << (BITS - GUIDE_BITS)
        last = first + (2 ** (BITS - GUIDE_BITS) - 1)
        cell, end = (torch.bucketize(u, thresholds, right=True) for u in (first, last))
        guide = torch.where(cell == end, (cell + lowest).float(), torch.nan)
        return cls(thresholds.to(device), lowest, guide.to(device), error + off_by * 2.0**-BITS)

    def draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill ``out``, contiguous and floating, with independent integers."""
        return self.draw_blocks_(out, [generator])

    def draw_blocks_(self, out: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Fill ``out``, contiguous and floating, with independent integers; each generator makes an equal part."""
        blocks = out.view(len(generators), -1)
        if out.device.type != "cpu":  # no draw waits for another, and none is read back
            bits = torch.empty(blocks.shape, dtype=torch.int64, device=out.device)
            for row, generator in zip(bits, generators, strict=True):
                row.random_(generator=generator)
            return out.copy_(self._cell(bits).view_as(out))
        # The same numbers, but low bits are drawn only where the leading ones do not settle the cell.
        size, flat = blocks.shape[1], out.view(-1)
        words = torch.empty(len(blocks), -(-size // 4), dtype=torch.int64, device=out.device)
        for row, generator in zip(words, generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        leading = words.view(torch.int16)[:, :size].int().add_(2**15).view(-1)
        torch.index_select(self.guide.to(out.dtype), 0, leading, out=flat)
        place = np.flatnonzero(np.isnan(flat.numpy()))
        low = torch.empty(len(place), dtype=torch.int64, device=out.device)
        parts = low.split(np.bincount(place // size, minlength=len(blocks)).tolist())
        for part, generator in zip(parts, generators, strict=True):
            part.random_(2 ** (BITS - GUIDE_BITS), generator=generator)
        open_ = torch.from_numpy(place).to(out.device)
        bits = (leading[open_].long() << (BITS - GUIDE_BITS)) + low
        flat[open_] = self._cell(bits).to(out.dtype)
        return out

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
