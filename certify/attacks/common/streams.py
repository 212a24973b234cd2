"""Random numbers of attacks: a stream for each row, whatever the batch it is in.

Numbers are hashes of a row's key, the number of the draw and the place of the entry (SplitMix64), so that all rows of
a batch are drawn at once on their device.
"""

import math

import torch
from torch import Generator, Tensor

from bounds import checks
from bounds.sets.uniform import run_seed

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 64-bit numbers are kept as int64, whose arithmetic wraps
GOLDEN_32, MIXERS_32 = 0x9E3779B9 - 2**32, (0x7FEB352D, 0x846CA68B - 2**32)
MIXERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def undrawn(generator: Generator | None) -> Generator:
    """A generator for an attack that draws nothing: the given one, which is only checked, stays as it is."""
    checks.generator(generator)
    return Generator()


class Streams:
    """The streams of some rows; each draw continues all of them.

    Args:
        keys: (N,) int64, one for each row.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.draws = keys, 0

    @classmethod
    def of(cls, generator: Generator | None, count: int, device: torch.device, first: int = 0) -> "Streams":
        """Streams of ``count`` rows, numbered from ``first``, seeded by one draw of the generator.

        No two rows of a seed share a stream, nor do two seeds but by a chance of 2^-64.

        References:
            Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators, OOPSLA, section 5.
        """
        seed = torch.tensor(run_seed(checks.generator(generator)), device=device)
        return cls(_mixed(_mixed(seed) + torch.arange(first, first + count, device=device) * GOLDEN))

    def rows(self, rows: Tensor) -> "Streams":
        """The streams of some of the rows, which go on independently."""
        part = Streams(self.keys[rows])
        part.draws = self.draws
        return part

    def fork(self, rows: Tensor) -> "Streams":
        """Streams of some of the rows that share no number with these."""
        return Streams(_mixed(self.keys[rows] ^ _wrapped((self.draws + 1) * GOLDEN)))

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high) of the shape and dtype of ``like``, (N, ...)."""
        return (low + (high - low) * self._unit(like)).to(like.dtype)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and dtype of ``like``, (N, ...)."""
        # From the middles of the 2^24 cells: never infinite.
        middle = (2 * self._unit(like) - (1 - 2.0**-24)).clamp(max=1 - 2.0**-24)
        return (torch.erfinv(middle) * math.sqrt(2)).to(like.dtype)

    def _unit(self, like: Tensor) -> Tensor:
        """Multiples of 2^-24 in [0, 1), at least in float32, which holds them all."""
        self.draws += 1
        keys, count = self.keys, len(like)
        if count != len(keys):  # inside of a model, rows may be folded into others
            keys = keys.repeat(-(-count // max(len(keys), 1)))[:count] + torch.arange(count, device=keys.device)
        start = _mixed(keys + _wrapped(self.draws * GOLDEN))
        place = torch.arange(like[0].numel() if count else 0, device=keys.device, dtype=torch.int32) * GOLDEN_32
        low, high = start.to(torch.int32)[:, None], (start >> 32).to(torch.int32)[:, None]
        z = place + low  # in 32 bits, which are several times as fast
        z ^= (z >> 16) & 0xFFFF
        z *= MIXERS_32[0]
        z += high
        z ^= (z >> 15) & 0x1FFFF
        z *= MIXERS_32[1]
        z ^= (z >> 16) & 0xFFFF
        return (((z >> 8) & 0xFFFFFF).to(torch.promote_types(like.dtype, torch.float32)) * 2.0**-24).view(like.shape)


def _wrapped(number: int) -> int:
    """The number as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


def _mixed(z: Tensor) -> Tensor:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit."""
    for shift, factor in MIXERS:
        z = (z ^ ((z >> shift) & (2 ** (64 - shift) - 1))) * factor
    return z ^ ((z >> 31) & (2**33 - 1))
