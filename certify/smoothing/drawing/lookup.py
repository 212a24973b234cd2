"""Draws by look-up on the host: 16 bits settle nearly all of them, and 47 more the rest, so that masses are exact.

Every cell of a law gets as many whole numbers of 16 bits as fit in its mass. What is left of all masses shares the last
of these numbers, and a draw that meets one is *open*: further bits search what is left. So the masses of cells are
multiples of 2**-63 that sum to 1, and hardly any draw pays for it.

References:
    Walker (1974), New fast method for generating discrete random numbers with arbitrary frequency distributions,
    Electronics Letters 10, for the idea; Marsaglia (1963), Generating discrete random variables in a computer,
    Communications of the ACM 6, for tables of digits.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.drawing.bits import Source

BITS = 63  # of masses
LEADING = 16  # bits that settle most draws
REST = BITS - LEADING
GUIDE = 2**17  # largest table in which the first bits of a place among the rests settle most searches
PIECE = 2**15  # entries looked up at once, which stay in the cache of a processor

THREADED = 2**17  # entries from which on threads pay

Item = TypeVar("Item")
Result = TypeVar("Result")
Floats = NDArray[np.float32] | NDArray[np.float64]


class Open(NamedTuple):
    """Draws that 16 bits did not settle.

    Attributes:
        place: (R,) int64, of the entries.
        cell: (R,) int64, in whose rest the further bits fell.
        within: (R,) float64, how far in that rest, from 0 to 1.
    """

    place: NDArray[np.int64]
    cell: NDArray[np.int64]
    within: NDArray[np.float64]


class Lookup(NamedTuple):
    """Cells with masses in units of 2**-63.

    Attributes:
        values: (2**16,) of the draws that the leading bits settle.
        settled: leading numbers that settle a draw, from 0 on.
        ends: (C,) uint64, cumulated rests of the cells, ``(2**16 - settled) * 2**47`` at the end.
        guide: (G,) int64, cell that a place among the rests falls into, where its leading bits decide, or -1.
        shift: bits of a place behind these.
    """

    values: Floats
    settled: int
    ends: NDArray[np.uint64]
    guide: NDArray[np.int64]
    shift: int

    @classmethod
    def of(cls, masses: NDArray[np.uint64], whole: NDArray[np.int64], values: Floats) -> "Lookup":
        """The table for masses (C,) that sum to 2**63, with so many whole leading numbers and such values (C,)."""
        settled = int(whole.sum())
        table = np.zeros(2**LEADING, dtype=values.dtype)
        table[:settled] = np.repeat(values, whole)
        rests = masses - (whole.astype(np.uint64) << np.uint64(REST))
        ends = np.cumsum(rests, dtype=np.uint64)
        left = 2**LEADING - settled
        shift = REST - (GUIDE // max(1, left)).bit_length() + 1
        first = np.arange(left << (REST - shift), dtype=np.uint64) << np.uint64(shift)
        cell, last = (ends.searchsorted(first + np.uint64(u), side="right") for u in (0, 2**shift - 1))
        return cls(table, settled, ends, np.where(cell == last, cell, -1), shift)

    def fill_(self, out: Tensor, sources: Sequence[Source], dither: float | None = None) -> Open:
        """Fill contiguous ``out`` on the host, of the dtype of the values; each source makes an equal part.

        Args:
            out: buffer of draws.
            sources: of the blocks.
            dither: what to add for each unit of a uniform integer from -2**15 to 2**15 - 1; None for nothing.

        Returns:
            The open draws, whose values are still to be set.
        """
        size = out.numel() // len(sources)
        together = max(1, PIECE // max(1, size))  # small blocks, which share one look-up
        shared = [sources[first : first + together] for first in range(0, len(sources), together)]
        parts = out.view(-1).split(together * size) if size else (out,)
        found = in_threads(partial(self._fill, dither), parts, shared)
        place = np.concatenate([each + i * together * size for i, (each, _) in enumerate(found)])
        counts = np.bincount(place // max(1, size), minlength=len(sources))
        bits = np.concatenate([source.words(n) for source, n in zip(sources, counts.tolist(), strict=True)])
        return self._search(place, np.concatenate([leading for _, leading in found]), bits)

    def _fill(
        self, dither: float | None, part: Tensor, sources: Sequence[Source]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """Fill some blocks; places and leading numbers of the open draws."""
        out = part.view(-1).numpy()
        size = len(out) // len(sources)
        leading = _joined([source.shorts(size) for source in sources])
        shift = None if dither is None else _joined([source.shorts(size) for source in sources]).view("<i2")
        for start in range(0, len(out), PIECE):
            piece = slice(start, start + PIECE)
            np.take(self.values, leading[piece], out=out[piece], mode="clip")
            if shift is not None:
                moved = shift[piece].astype(out.dtype)
                moved *= dither
                out[piece] += moved
        place = np.flatnonzero(leading >= self.settled) if self.settled < 2**LEADING else np.empty(0, np.int64)
        return place, leading[place]

    def _search(self, place: NDArray[np.int64], leading: NDArray[np.uint16], bits: NDArray[np.uint64]) -> Open:
        """Cells of open draws, by their leading numbers and further bits."""
        above = leading.astype(np.uint64) - np.uint64(self.settled)
        u = (above << np.uint64(REST)) | (bits >> np.uint64(64 - REST))
        cell = self.guide[u >> np.uint64(self.shift)]
        unsure = np.flatnonzero(cell < 0)
        cell[unsure] = self.ends.searchsorted(u[unsure], side="right")
        begin = np.where(cell > 0, self.ends[cell - 1], np.uint64(0))
        return Open(place, cell, (u - begin) / (self.ends[cell] - begin))


def uniform_(out: Tensor, low: float, high: float, sources: Sequence[Source]) -> Tensor:
    """Fill ``out``, contiguous, on the host and in single precision, with uniform numbers of 32 bits in [low, high]."""
    unit = (high - low) * 2.0**-32

    def fill(row: Tensor, source: Source) -> None:
        numbers = row.view(-1).numpy()
        numbers[:] = source.longs(len(numbers))
        numbers *= unit
        numbers += (low + high) / 2 + unit / 2

    in_threads(fill, out.chunk(len(sources)), sources)
    return out


def _joined(parts: Sequence[NDArray[np.uint16]]) -> NDArray[np.uint16]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def in_threads(
    function: Callable[[Tensor, Item], Result], parts: Sequence[Tensor], items: Sequence[Item]
) -> list[Result]:
    """Results for all parts of a buffer, one with each item: on the host in as many threads as torch has.

    The function must leave the interpreter alone for most of its time, as NumPy and generators do.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2 or parts[0].device.type != "cpu" or sum(part.numel() for part in parts) < THREADED:
        return [function(part, item) for part, item in zip(parts, items, strict=True)]
    with ThreadPoolExecutor(threads) as pool:  # 0.1 ms; one that stays would not survive a fork
        return list(pool.map(function, parts, items))
