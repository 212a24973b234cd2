"""Distances of all pairs of inputs, in blocks of bounded memory."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.memory import MEMORY
from bounds.numerics import accumulated_error

LONGEST = 1024  # rows and columns of a block, which keep a processor busy


class PairBlock(NamedTuple):
    """Distances between some inputs and some others.

    Attributes:
        rows: (R,) int64, indices of the inputs.
        columns: (C,) int64, indices of the others.
        distance: (R, C) float64, rounded.
    """

    rows: Tensor
    columns: Tensor
    distance: Tensor


def pair_distances(one: Tensor, two: Tensor, norm: float) -> Tensor:
    """Distances of all pairs, by differences: torch otherwise multiplies out, and loses the digits of near pairs."""
    return torch.cdist(one, two, p=float(norm), compute_mode="donot_use_mm_for_euclid_dist")


def certainly_within(distance: Tensor, limit: float | Tensor, features: int) -> Tensor:
    """Pairs with exact distances of at most ``limit`` for certain, from those of :func:`pair_distances`, bool."""
    return distance <= limit / (1 + accumulated_error(features + 64, torch.float64))


def pair_blocks(x: Tensor, other: Tensor | None, norm: float, *, memory: int = MEMORY) -> Iterator[PairBlock]:
    """All pairs of the inputs ``x`` (N, *D) with ``other`` (M, *D), or each pair of ``x`` at least once for None.

    Args:
        x: inputs.
        other: the others; with None, blocks below the diagonal are left out.
        norm: order of the norm, at least 1.
        memory: bytes that a block and its inputs may take.
    """
    two = x if other is None else other
    features = x[0].numel() if len(x) else 1
    side = max(1, min(LONGEST, math.isqrt(memory // 16), memory // (32 * features)))
    for first in range(0, len(x), side):
        rows = torch.arange(first, min(first + side, len(x)), device=x.device)
        part = x[rows].flatten(1).double()
        for start in range(first if other is None else 0, len(two), side):
            columns = torch.arange(start, min(start + side, len(two)), device=x.device)
            yield PairBlock(rows, columns, pair_distances(part, two[columns].flatten(1).double(), norm))


def classes_of(y: Tensor, x: Tensor, name: str = "y") -> Tensor:
    """Return the classes ``y`` (N,) of inputs as int64 on their device; they must be integers."""
    checks.rows(name, y, len(x))
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InvalidInput(f"{name} must be integers, got {y.dtype}: convert with {name}.long()")
    return y.to(x.device).long()
