"""Random bits of one block of noise, on the host by NumPy and on other devices by torch."""

import hashlib
import struct

import numpy as np
import torch
from numpy.typing import NDArray

from bounds import checks
from bounds.errors import InvalidInput
from certify.smoothing.drawing.division import NOISE_BLOCK

BLOCKS_PER_STAGE = 2**30
# What a seed means; runs and records state it. Raise it with every change that gives a seed other draws: in a digest, a
# generator, a law, or the order in which bits are used.
DRAWS_VERSION = 2


def block_seed(seed: int, stage: int, group: int, block: int) -> int:
    """64-bit seed of one block of noise, for a generator of torch.

    PyTorch's CPU generator reads only the low 32 bits of a seed. Stages and blocks are counted in these, so that
    no two blocks of one input share a seed. Blocks of two inputs may share one by chance: among a thousand inputs of
    a hundred blocks, some do with probability 0.02. On a GPU all 64 bits count.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, group), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    return (base & ~0xFFFFFFFF) | ((base + stage * BLOCKS_PER_STAGE + block) & 0xFFFFFFFF)


class Source:
    """Random bits of one block of noise, from two generators; each goes to the block when it is first asked.

    Laws that are looked up on the host take the words of NumPy's SFC64, a stream that NumPy promises to keep. Its state
    is a digest of 192 bits, so that no two blocks share it. All other laws take the generator of torch.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator, self._words = generator, np.random.SFC64(0)
        self._key: tuple[int, int, int, int] | None = None
        self._begun = {"generator": True, "words": False}

    def begin(self, seed: int, stage: int, group: int, block: int) -> None:
        """Go to the beginning of a block."""
        if block >= BLOCKS_PER_STAGE:
            raise InvalidInput(f"draws per input must stay below {BLOCKS_PER_STAGE * NOISE_BLOCK}")
        self._key, self._begun = (seed, stage, group, block), {"generator": False, "words": False}

    @property
    def generator(self) -> torch.Generator:
        """The generator of torch, on the device of the noise."""
        if not self._begun["generator"] and self._key is not None:
            self._generator.manual_seed(block_seed(*self._key))
            self._begun["generator"] = True
        return self._generator

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next 64-bit words."""
        if not self._begun["words"]:
            # Without a block, as many bits as a draw of the generator has tell the streams apart.
            key = self._key or (checks.drawn_seed(self._generator), 0, 0, 0)
            digest = hashlib.blake2b(struct.pack("<QQQQ", *key), digest_size=24, person=b"noise").digest()
            state = np.array([*struct.unpack("<QQQ", digest), 1], dtype=np.uint64)
            self._words.state = {
                "bit_generator": "SFC64",
                "state": {"state": state},
                "has_uint32": 0,
                "uinteger": 0,
            }
            self._begun["words"] = True
        found: NDArray[np.uint64] = self._words.random_raw(count)
        return found

    def shorts(self, count: int) -> NDArray[np.uint16]:
        """The next 16-bit numbers, four from each word of 64 bits, the lowest first on every processor."""
        return self.words(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]

    def longs(self, count: int) -> NDArray[np.int32]:
        """The next signed 32-bit numbers, two from each word, the lower first."""
        return self.words(-(-count // 2)).astype("<u8", copy=False).view("<i4")[:count]
