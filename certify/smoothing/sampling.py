"""Votes of a base classifier under noise, counted on the device.

Noise is a pure function of (run seed, stage, index of the input, block). A block is a fixed number of draws, so
the batch size, the order of inputs, shards and resumption change no draw. Votes follow the draws up to the
rounding errors by which a network's logits differ between batch sizes.
"""

import hashlib
import struct
from collections.abc import Iterator
from enum import IntEnum

import torch
from torch import Tensor, nn

from certify.smoothing.noise import Gaussian

# Draws per block. Part of the meaning of a seed: another value gives other certificates.
NOISE_BLOCK = 100


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

    PyTorch's CPU generator reads only the low 32 bits of a seed. The block is counted up in these, so that two
    blocks of one input never share a seed.
    """
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, stage, group), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    return (base & ~0xFFFFFFFF) | ((base + block) & 0xFFFFFFFF)


class NoiseStream:
    """The draws of one group of inputs, block after block, in a buffer that is used again."""

    def __init__(self, noise: Gaussian, like: Tensor, *, seed: int, stage: Stage, group: int) -> None:
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


def noise_groups(count: int, first_index: int, size: int) -> Iterator[tuple[int, slice]]:
    """The groups of ``size`` consecutive indices that rows ``first_index ...`` fall into, with their rows."""
    row = 0
    while row < count:
        group = (first_index + row) // size
        end = min(count, (group + 1) * size - first_index)
        yield group, slice(row, end)
        row = end


def count_votes(
    model: nn.Module,
    x: Tensor,
    noise: Gaussian,
    draws: int,
    *,
    num_classes: int,
    seed: int,
    stage: Stage,
    first_index: int = 0,
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
        first_index: index of row 0 in its data set.
        batch_size: rows of a forward pass, at most.
        noise_group: consecutive indices that share their draws.

    Returns:
        (N, K + 1) int64 on the device of ``x``. The last column counts draws with a NaN logit, which vote for
        no class.
    """
    votes = torch.zeros(len(x), num_classes + 1, dtype=torch.int64, device=x.device)
    buffer = x.new_empty(batch_size, *x.shape[1:])
    with torch.no_grad():
        for group, rows in noise_groups(len(x), first_index, noise_group):
            stream = NoiseStream(noise, x, seed=seed, stage=stage, group=group)
            side_by_side = max(1, min(rows.stop - rows.start, batch_size // NOISE_BLOCK))
            step = max(1, batch_size // (side_by_side * NOISE_BLOCK))
            for block in range(0, -(-draws // NOISE_BLOCK), step):
                left = draws - block * NOISE_BLOCK
                draw = stream.blocks(block, min(step, -(-left // NOISE_BLOCK)))[:left]
                for start in range(rows.start, rows.stop, side_by_side):
                    part = slice(start, min(start + side_by_side, rows.stop))
                    for perturbation in draw.split(batch_size // (part.stop - part.start)):
                        _add_votes(model, x[part], perturbation, buffer, votes[part])
    return votes


def _add_votes(model: nn.Module, x: Tensor, perturbation: Tensor, buffer: Tensor, votes: Tensor) -> None:
    """Add to ``votes`` (M, K + 1) the votes for each of M inputs under each of S perturbations."""
    batch = buffer[: len(x) * len(perturbation)].view(len(x), len(perturbation), *x.shape[1:])
    torch.add(x.unsqueeze(1), perturbation, out=batch)
    largest, choice = model(batch.flatten(0, 1)).max(dim=1)
    choice = choice.masked_fill(largest.isnan(), votes.shape[1] - 1).view(len(x), -1)
    votes.scatter_add_(1, choice, torch.ones_like(choice))
