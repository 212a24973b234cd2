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
    whole = [Piece(slice(0, rows), 0, draws)]
    step = batch_size // NOISE_BLOCK * NOISE_BLOCK  # draws of one input that are added to the buffer at once
    if step == 0 or rows == 0:
        return whole
    steps = -(-draws // step)
    last = draws - (steps - 1) * step
    joined = steps > 1 and step + last <= batch_size  # the last two steps of a row share a forward pass
    left_over = step + last if joined else last
    if rows > 1 and left_over + min(step, draws) <= batch_size:  # two rows share one
        return whole
    if rows >= at_least:
        size = -(-rows // at_least)
        return [Piece(slice(row, min(row + size, rows)), 0, draws) for row in range(0, rows, size)]
    movable = steps - joined
    per_row = min(movable, -(-at_least // rows))
    ends = [movable * part // per_row * step for part in range(per_row)] + [draws]
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
