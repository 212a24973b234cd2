"""Votes of a base classifier under noise, counted on the device.

Noise is a pure function of (run seed, stage, index of the input, block). A block is a fixed number of draws, so
the batch size, the order of inputs, shards and resumption change no draw. Votes follow the draws up to the
rounding errors by which a network's logits differ between batch sizes.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

import torch
from torch import Tensor, nn

from bounds.errors import InvalidInput
from certify.smoothing.noise import Noise

# Draws per block. Part of the meaning of a seed: another value gives other certificates.
NOISE_BLOCK = 100
BLOCKS_PER_STAGE = 2**30


class Stage(IntEnum):
    """Separate streams of noise: a class is never selected and estimated on the same draws."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2


def draw_run_seed(generator: torch.Generator | None) -> int:
    """One draw from ``generator`` (torch's default if None); the only thing a generator is used for."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def block_seed(seed: int, stage: Stage, group: int, block: int) -> int:
    """64-bit seed of one block of noise.

    PyTorch's CPU generator reads only the low 32 bits of a seed. Stages and blocks are counted in these, so that
    no two blocks of one input share a seed; those of two inputs do by chance, for a thousand inputs of a hundred
    blocks somewhere with probability 0.02. On a GPU all 64 bits count.
    """
    if block >= BLOCKS_PER_STAGE:
        raise InvalidInput(f"draws per input must stay below {BLOCKS_PER_STAGE * NOISE_BLOCK}")
    digest = hashlib.blake2b(struct.pack("<QQ", seed, group), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    return (base & ~0xFFFFFFFF) | ((base + stage * BLOCKS_PER_STAGE + block) & 0xFFFFFFFF)


class NoiseStream:
    """The draws of one group of inputs, block after block, in a buffer that is used again."""

    def __init__(self, noise: Noise, like: Tensor, *, seed: int, stage: Stage, group: int) -> None:
        self.noise = noise
        self.key = (seed, stage, group)
        self.generator = torch.Generator(like.device)
        self.buffer = like.new_empty(0, *like.shape[1:])

    def blocks(self, first: int, count: int) -> Tensor:
        """Draws of ``count`` blocks, (count * NOISE_BLOCK, *D); valid until the next call."""
        if len(self.buffer) < count * NOISE_BLOCK:
            self.buffer = self.buffer.new_empty(count * NOISE_BLOCK, *self.buffer.shape[1:])
        for i in range(count):
            self.generator.manual_seed(block_seed(*self.key, first + i))
            self.noise.sample_(self.buffer[i * NOISE_BLOCK : (i + 1) * NOISE_BLOCK], self.generator)
        return self.buffer[: count * NOISE_BLOCK]


def noise_groups(indices: Sequence[int], size: int) -> Iterator[tuple[int, slice]]:
    """Runs of rows whose indices fall into the same group of ``size`` consecutive ones, each with its group."""
    start = 0
    while start < len(indices):
        group, stop = indices[start] // size, start + 1
        while stop < len(indices) and indices[stop] // size == group:
            stop += 1
        yield group, slice(start, stop)
        start = stop


def count_votes(
    model: nn.Module,
    x: Tensor,
    noise: Noise,
    draws: int,
    *,
    num_classes: int,
    seed: int,
    stage: Stage,
    indices: Sequence[int] | None = None,
    first_block: int = 0,
    batch_size: int = 1000,
    noise_group: int = 1,
) -> Tensor:
    """Votes of a model under noise; nothing is read back to the host.

    Args:
        model: in evaluation mode, (B, *D) to (B, K).
        x: (N, *D).
        noise: distribution of the perturbation.
        draws: draws per input.
        num_classes: K.
        seed: run seed.
        stage: stream of noise.
        indices: index of each row in its data set; 0, 1, ... if None.
        first_block: block of draws to begin with; earlier ones were counted before.
        batch_size: rows of a forward pass, at most.
        noise_group: consecutive indices that share their draws.

    Returns:
        (N, K + 1) int64 on the device of ``x``. The last column counts draws with a NaN logit, which vote for
        no class.
    """
    batch = _Batch(model, x, num_classes, batch_size)
    with torch.no_grad():
        for group, rows in noise_groups(range(len(x)) if indices is None else indices, noise_group):
            stream = NoiseStream(noise, x, seed=seed, stage=stage, group=group)
            # Several blocks at once for a single input, one block for many that share it.
            step = max(1, batch_size // (NOISE_BLOCK * (rows.stop - rows.start)))
            for block in range(0, -(-draws // NOISE_BLOCK), step):
                left = draws - block * NOISE_BLOCK
                perturbations = stream.blocks(first_block + block, min(step, -(-left // NOISE_BLOCK)))[:left]
                for part in perturbations.split(batch_size):
                    batch.add(rows, part)
        batch.flush()
    return batch.votes


class _Batch:
    """Noisy inputs on their way to the model, gathered across inputs until a forward pass is full."""

    def __init__(self, model: nn.Module, x: Tensor, num_classes: int, size: int) -> None:
        self.model = model
        self.x = x
        self.votes = torch.zeros(len(x), num_classes + 1, dtype=torch.int64, device=x.device)
        self.buffer = x.new_empty(size, *x.shape[1:])
        self.owner = torch.empty(size, dtype=torch.int64, device=x.device)  # the row behind each noisy input
        self.filled = 0

    def add(self, rows: slice, perturbations: Tensor) -> None:
        """Put every row of the slice under each of S perturbations, S at most the size of a batch."""
        draws, row = len(perturbations), rows.start
        while row < rows.stop:
            count = min(rows.stop - row, (len(self.buffer) - self.filled) // draws)
            if count == 0:
                self.flush()
                continue
            place = slice(self.filled, self.filled + count * draws)
            noisy = self.buffer[place].view(count, draws, *self.x.shape[1:])
            torch.add(self.x[row : row + count].unsqueeze(1), perturbations, out=noisy)
            owners = torch.arange(row, row + count, device=self.x.device)
            self.owner[place].view(count, draws).copy_(owners.unsqueeze(1))
            self.filled, row = place.stop, row + count

    def flush(self) -> None:
        """Run the model on what is gathered and count its votes; a row with a NaN logit votes for no class."""
        if self.filled:
            largest, choice = self.model(self.buffer[: self.filled]).max(dim=1)
            columns = self.votes.shape[1]
            choice = choice.masked_fill(largest.isnan(), columns - 1) + columns * self.owner[: self.filled]
            self.votes.view(-1).scatter_add_(0, choice, torch.ones_like(choice))
            self.filled = 0
