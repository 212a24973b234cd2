"""Largest values of something over random points of a ball, batch by batch: what extreme-value estimates rest on."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.numerics import per_row
from bounds.sets.balls import LpBall
from bounds.sets.uniform import UniformSampler, stream_seed

BLOCK = 256  # points drawn at once; part of the meaning of a seed


class Measured(NamedTuple):
    """Values (B, T) at points (B, *D), and where (B, T) nothing was to be seen since a derivative vanished."""

    values: Tensor
    dead: Tensor


class Maxima(NamedTuple):
    """Maxima of the batches of one input.

    Attributes:
        largest: (T, num_batches) float64, of each batch.
        dead: (T,) float64, share of the points where nothing was to be seen.
        points: (T, *D), where the largest values of all batches were measured.
    """

    largest: Tensor
    dead: Tensor
    points: Tensor


class Plan(NamedTuple):
    """Numbers of points that are drawn and measured.

    Attributes:
        num_batches: batches of one input.
        batch_size: points of a batch.
        chunk_size: points measured at once, which bounds the memory and changes nothing else but rounding.
        seed: of all draws.
    """

    num_batches: int
    batch_size: int
    chunk_size: int
    seed: int


def sampled_maxima(ball: LpBall, row: int, measure: Callable[[Tensor], Measured], plan: Plan) -> Maxima:
    """Maxima over independent batches of points, uniform in the set of one input, (1, *D).

    Every batch is a function of the seed, the number of the input and that of the batch.
    """
    sampler = UniformSampler(ball, patient=False)
    maxima = _over(sampler, row, measure, plan)
    if bool(sampler.short):  # hardly ever; a question after every draw would make the host wait for each
        maxima = _over(UniformSampler(ball), row, measure, plan)
    return maxima


def _over(sampler: UniformSampler, row: int, measure: Callable[[Tensor], Measured], plan: Plan) -> Maxima:
    """Maxima over the batches of one input that a sampler draws."""
    center = sampler.center
    values, unseen = measure(center)
    best, where = (
        torch.full_like(values[0], -torch.inf),
        center.repeat(values.shape[1], *[1] * (center.ndim - 1)),
    )
    largest = values.new_full((values.shape[1], plan.num_batches), -torch.inf, dtype=torch.float64)
    dead = torch.zeros_like(unseen[0], dtype=torch.int64)
    for points, batch in _chunks(_drawn_points(sampler, row, plan), plan.chunk_size):
        values, unseen = measure(points)
        largest.scatter_reduce_(1, batch.to(values.device).expand_as(values.T), values.T.double(), "amax")
        top, place = values.max(0)
        where = torch.where(per_row(top > best, where), points[place], where)
        best = torch.maximum(best, top)
        dead += unseen.sum(0)
    return Maxima(largest, dead.double() / (plan.num_batches * plan.batch_size), where)


def _drawn_points(sampler: UniformSampler, row: int, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """Points in blocks, each with the number of its batch."""
    generator = torch.Generator(sampler.center.device)
    for batch in range(plan.num_batches):
        generator.manual_seed(stream_seed(plan.seed, row, batch))
        for start in range(0, plan.batch_size, BLOCK):
            points = sampler.draw(min(BLOCK, plan.batch_size - start), generator)
            yield points, torch.full((len(points),), batch, device=points.device)


def _chunks(blocks: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Points cut anew, into chunks of a given size; the last one may be smaller."""
    waiting: list[tuple[Tensor, Tensor]] = []
    rows = 0
    for block in blocks:
        waiting.append(block)
        rows += len(block[0])
        if rows >= size:
            points, batch = _joined(waiting)
            whole = rows - rows % size
            yield from zip(points[:whole].split(size), batch[:whole].split(size), strict=True)
            rows -= whole
            waiting = [(points[whole:], batch[whole:])] if rows else []
    if rows:
        yield _joined(waiting)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    points, batches = zip(*parts, strict=True)
    return torch.cat(points), torch.cat(batches)
