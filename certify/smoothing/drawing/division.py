"""Votes of one call that are counted in several places, cut so that every forward pass stays as it is."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import pairwise
from typing import NamedTuple

# Draws per block. Part of the meaning of a seed: another value gives other certificates.
NOISE_BLOCK = 100


class Piece(NamedTuple):
    """Some rows of a call, and some of their draws.

    Attributes:
        rows: of those that are drawn for.
        first: draw to begin with, from 0, a multiple of ``NOISE_BLOCK``.
        draws: draws of each row.
    """

    rows: slice
    first: int
    draws: int


class Cuts(NamedTuple):
    """Places where the draws of a row can be cut.

    Attributes:
        step: draws between two of them.
        parts: of a row; the last may have more draws.
    """

    step: int
    parts: int


def cuts_of(rows: int, draws: int, batch_size: int) -> Cuts | None:
    """Places in a call at which the buffer of noisy inputs is empty; None where rows share forward passes.

    Args:
        rows: inputs to draw for, each with draws of its own.
        draws: of each input.
        batch_size: rows of a forward pass, at most.
    """
    if rows == 0:
        return None
    step = max(1, batch_size // NOISE_BLOCK) * NOISE_BLOCK  # draws of one input that are made at once
    steps = -(-draws // step)
    last = draws - (steps - 1) * step
    waiting = (step - 1) % batch_size + 1  # noisy inputs in the buffer behind a whole step
    joined = steps > 1 and waiting + min(last, batch_size) <= batch_size  # with those of the last one
    left_over = waiting + last if joined else (last - 1) % batch_size + 1
    if rows > 1 and left_over + min(step, draws, batch_size) <= batch_size:  # two rows share a forward pass
        return None
    return Cuts(step, steps - joined)


def pieces_of(rows: int, draws: int, batch_size: int, at_least: int) -> list[Piece]:
    """Parts of a call in which each input has draws of its own; one part where it cannot be cut.

    Cuts lie where the buffer of noisy inputs is empty: so each forward pass has the rows that it has in one piece, the
    logits the same bits, and the votes are the same. Single rows are cut where there are fewer of them than parts
    asked for.

    Args:
        rows: inputs to draw for.
        draws: of each input.
        batch_size: rows of a forward pass, at most.
        at_least: parts to be made, if that is possible.
    """
    cuts = cuts_of(rows, draws, batch_size)
    if cuts is None:
        return [Piece(slice(0, rows), 0, draws)]
    if rows >= at_least:
        size = -(-rows // at_least)
        return [Piece(slice(row, min(row + size, rows)), 0, draws) for row in range(0, rows, size)]
    per_row = min(cuts.parts, -(-at_least // rows))
    ends = [cuts.parts * part // per_row * cuts.step for part in range(per_row)] + [draws]
    return [Piece(slice(row, row + 1), first, stop - first) for row in range(rows) for first, stop in pairwise(ends)]


# What counts votes instead of this process: given a sampling and the arguments of its method ``votes``.
Counter = Callable[..., object]
_COUNTER: ContextVar[Counter | None] = ContextVar("what counts votes", default=None)


def counter() -> Counter | None:
    """Callable that counts votes instead of this process, if there is one."""
    return _COUNTER.get()


@contextlib.contextmanager
def counted_by(count: Counter | None) -> Iterator[None]:
    """Have votes counted elsewhere, or here again for None."""
    token = _COUNTER.set(count)
    try:
        yield
    finally:
        _COUNTER.reset(token)
