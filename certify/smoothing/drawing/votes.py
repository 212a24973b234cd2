"""Votes of a base classifier under noise, counted on the device.

Noise is a pure function of (run seed, stage, index of the input, block). A block is a fixed number of draws, so
the batch size, the order of inputs, shards and resumption change no draw. Votes follow the draws up to the
rounding errors by which a network's logits differ between batch sizes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.memory import out_of_memory
from certify.models import frozen
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.distributions import Distribution
from certify.smoothing.drawing.division import NOISE_BLOCK, counter

Consumer = Callable[[Tensor, Tensor, Tensor], None]


class Stage(IntEnum):
    """Separate streams of noise: a class is never selected and estimated on the same draws."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2
    COMPARISON = 3


def draw_run_seed(generator: torch.Generator | None) -> int:
    """One draw from ``generator`` (torch's default if None); the only thing a generator is used for."""
    return checks.drawn_seed(generator)


class NoiseStream:
    """The raw draws of one stage, a few blocks of one group of inputs at a time, in a buffer that is used again."""

    def __init__(self, distribution: Distribution, encoded: Tensor, *, seed: int, stage: Stage) -> None:
        self.distribution = distribution
        self.key = (seed, stage)
        self.sources: list[Source] = []
        self.encoded = encoded[:1]
        self.buffer = distribution.raw(self.encoded, 0)

    def blocks(self, group: int, first: int, count: int) -> Tensor:
        """Draws of ``count`` blocks, (count * NOISE_BLOCK, *R); valid until the next call."""
        if len(self.buffer) < count * NOISE_BLOCK:
            self.buffer = self.distribution.raw(self.encoded, count * NOISE_BLOCK)
        return self.fill_(self.buffer[: count * NOISE_BLOCK], group, first)

    def fill_(self, raw: Tensor, group: int, first: int) -> Tensor:
        """Fill a contiguous buffer of whole blocks (count * NOISE_BLOCK, *R) with the draws from block ``first`` on."""
        count = len(raw) // NOISE_BLOCK
        device = self.encoded.device
        self.sources += [Source(torch.Generator(device)) for _ in range(len(self.sources), count)]
        for i, source in enumerate(self.sources[:count]):
            source.begin(*self.key, group, first + i)
        return self.distribution.draw_blocks_(raw, self.sources[:count])


def noise_groups(indices: Sequence[int], size: int) -> Iterator[tuple[int, slice]]:
    """Runs of rows whose indices fall into the same group of ``size`` consecutive ones, each with its group."""
    start = 0
    while start < len(indices):
        group, stop = indices[start] // size, start + 1
        while stop < len(indices) and indices[stop] // size == group:
            stop += 1
        yield group, slice(start, stop)
        start = stop


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampling:
    """A model on fixed inputs under noise: everything that determines a draw.

    Attributes:
        model: takes (B, *O), deterministic and row by row.
        x: (N, *D).
        distribution: of the noise.
        seed: run seed.
        indices: index of each row in its data set, consecutive.
        batch_size: rows of a forward pass, at most.
        noise_group: consecutive indices that share their draws.
        chosen: rows of ``x`` to draw for, (M,) int64; all if None.
    """

    model: nn.Module
    x: Tensor
    distribution: Distribution
    seed: int
    indices: range
    batch_size: int = 1000
    noise_group: int = 1
    chosen: Tensor | None = None

    @property
    def error(self) -> float:
        """Total variation distance between one noisy input as drawn and as certificates assume, at most."""
        return self.distribution.error(math.prod(self.x.shape[1:]))

    def rows(self, chosen: Tensor) -> "Sampling":
        """This sampling for some of the rows of ``x``, given by their numbers (M,)."""
        return replace(self, chosen=chosen)

    def _inputs(self, start: int, stop: int) -> Tensor:
        """Inputs of the rows to draw for, without a copy of the others."""
        return self.x[start:stop] if self.chosen is None else self.x[self.chosen[start:stop]]

    def run(self, draws: int, stage: Stage, consume: Consumer, *, first_block: int = 0) -> None:
        """Run the model on every input under noise, in batches that gather across inputs.

        Args:
            draws: draws per input.
            stage: stream of noise.
            consume: called once per forward pass with the output, B rows, and two int64 tensors (B,): the row of
                ``x`` (of ``chosen``) behind each, and the number of its draw, from 0.
            first_block: block of draws to begin with; earlier ones were counted before.
        """
        with frozen(self.model) as model, torch.no_grad():
            batch = _Batch(model, self.x, self.distribution, self.batch_size, consume)
            stream = NoiseStream(self.distribution, self.distribution.encode(self.x[:1]), seed=self.seed, stage=stage)
            for groups in self._chunks():
                start = groups[0][1].start
                encoded = self.distribution.encode(self._inputs(start, groups[-1][1].stop))
                for group, rows in groups:
                    inputs = encoded[rows.start - start : rows.stop - start]
                    # Several blocks at once for a single input, one block for many that share it.
                    step = max(1, self.batch_size // (NOISE_BLOCK * len(inputs))) * NOISE_BLOCK
                    for first in range(0, draws, step):
                        numbers = range(first, min(first + step, draws))
                        batch.draw(inputs, rows.start, stream, (group, first_block + first // NOISE_BLOCK), numbers)
            batch.flush()

    def _chunks(self) -> Iterator[list[tuple[int, slice]]]:
        """Groups of inputs, about one batch of inputs at a time, so that memory does not grow with their number."""
        chunk: list[tuple[int, slice]] = []
        rows_drawn = self.indices if self.chosen is None else [self.indices[row] for row in self.chosen.tolist()]
        for group, rows in noise_groups(rows_drawn, self.noise_group):
            chunk.append((group, rows))
            if rows.stop - chunk[0][1].start >= self.batch_size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def votes(self, num_classes: int, draws: int, stage: Stage, *, first_block: int = 0) -> Tensor:
        """Votes (N, K + 1), or (M, K + 1), int64 on the device of ``x``; nothing is read back to the host.

        The last column counts draws with a NaN logit, which vote for no class.
        """
        if (elsewhere := counter()) is not None:
            found: Tensor = elsewhere(self, num_classes, draws, stage, first_block)  # type: ignore[assignment]  # votes
            return found
        rows = len(self.x) if self.chosen is None else len(self.chosen)
        columns = num_classes + 1
        votes = torch.zeros(rows * columns, dtype=torch.int64, device=self.x.device)
        one = torch.ones(self.batch_size, dtype=torch.int64, device=self.x.device)

        def count(logits: Tensor, row: Tensor, draw: Tensor) -> None:
            largest, choice = logits.max(dim=1)
            cell = torch.where(largest.isnan(), num_classes, choice).add_(row, alpha=columns)
            votes.scatter_add_(0, cell, one[: len(cell)])

        self.run(draws, stage, count, first_block=first_block)
        return votes.view(rows, columns)


class _Batch:
    """Noisy inputs that wait for the model, gathered across inputs until a forward pass is full."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        distribution: Distribution,
        size: int,
        consume: Consumer,
    ) -> None:
        self.model = model
        self.distribution = distribution
        self.dtype = precision(model, x)
        self.consume = consume
        computed = torch.promote_types(x.dtype, torch.float32)
        self.buffer = x.new_empty(size, *distribution.clean(x[:1]).shape[1:], dtype=computed)
        self.row, self.draw_number = torch.empty(2, size, dtype=torch.int64, device=x.device)
        self.size, self.filled = size, 0
        self.largest = size  # rows of a forward pass that memory has room for

    def add(self, encoded: Tensor, first_row: int, raw: Tensor, first_draw: int) -> None:
        """Put every encoded input under each of S raw draws, S at most the size of a batch."""
        inputs, draws, done = len(encoded), len(raw), 0
        while done < inputs:
            count = min(inputs - done, (self.size - self.filled) // draws)
            if count == 0:
                self.flush()
                continue
            noisy = self._room(range(first_row + done, first_row + done + count), range(first_draw, first_draw + draws))
            self.distribution.perturb_(noisy, encoded[done : done + count], raw)
            done += count

    def draw(self, encoded: Tensor, row: int, stream: NoiseStream, start: tuple[int, int], draws: range) -> None:
        """Put encoded inputs, from a row on, under the draws of a stream from a group and a block on."""
        if (
            self.distribution.in_place
            and len(encoded) == 1
            and len(draws) <= self.size
            and not len(draws) % NOISE_BLOCK
        ):
            self._draw_in_place(encoded, row, stream, start, draws)
            return
        raw = stream.blocks(*start, -(-len(draws) // NOISE_BLOCK))[: len(draws)]
        for begin in range(0, len(raw), self.size):
            self.add(encoded, row, raw[begin : begin + self.size], draws.start + begin)

    def _draw_in_place(
        self, encoded: Tensor, row: int, stream: NoiseStream, start: tuple[int, int], draws: range
    ) -> None:
        """Draw whole blocks for one input where its noisy copies will lie: memory is slower than the generator."""
        if len(draws) > self.size - self.filled:
            self.flush()
        noisy = self._room(range(row, row + 1), draws)
        stream.fill_(noisy[0], *start)
        for part in noisy.split(NOISE_BLOCK, dim=1):  # what one operation writes, the next finds in the cache
            self.distribution.perturb_(part, encoded, part)

    def _room(self, rows: range, draws: range) -> Tensor:
        """Place (rows, draws, *O) in the buffer, for these draws of each of these rows."""
        shape, device = (len(rows), len(draws)), self.row.device
        place = slice(self.filled, self.filled + len(rows) * len(draws))
        self.row[place].view(shape).copy_(torch.arange(rows.start, rows.stop, device=device).unsqueeze(1))
        self.draw_number[place].view(shape).copy_(torch.arange(draws.start, draws.stop, device=device))
        self.filled = place.stop
        return self.buffer[place].view(*shape, *self.buffer.shape[1:])

    def flush(self) -> None:
        """Run the model on the gathered inputs; where memory runs out, on half as many at a time from then on."""
        start = 0
        while start < self.filled:
            part = slice(start, min(start + self.largest, self.filled))
            try:
                output = self.model(self.buffer[part].to(self.dtype))
            except RuntimeError as error:
                if self.largest == 1 or not out_of_memory(error):
                    raise
                self.largest = (min(self.largest, self.filled) + 1) // 2
                continue
            self.consume(output, self.row[part], self.draw_number[part])
            start = part.stop
        self.filled = 0


def precision(model: nn.Module, x: Tensor) -> torch.dtype:
    """The dtype that noisy inputs are handed to the model in: its own if it is half precision, else that of ``x``."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    half = dtypes & {torch.float16, torch.bfloat16}
    return half.pop() if len(dtypes) == len(half) == 1 else x.dtype


def precision_name(model: nn.Module, x: Tensor) -> str:
    """Name of the dtype that the model computes in, for records. Autocast lowers all but double precision."""
    device, dtype = x.device.type, precision(model, x)
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        return f"{torch.get_autocast_dtype(device)} (autocast)".removeprefix("torch.")
    return str(dtype).removeprefix("torch.")
