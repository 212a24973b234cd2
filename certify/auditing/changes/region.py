"""Inputs with few changes, as proofs of the audit bound networks over them."""

from typing import NamedTuple

import torch
from torch import Tensor

from certify.auditing.changes.listing import Changeable


class ChangedRegion(NamedTuple):
    """Inputs of which at most so many parts make one of their moves.

    Attributes:
        center: (d,) float64, the input.
        low: (d,) ends of the smallest box around all of them.
        high: likewise.
        moves: (C, d), what is added by each move.
        part: (C,) int64, the part that makes it.
        most: parts that move.
    """

    center: Tensor
    low: Tensor
    high: Tensor
    moves: Tensor
    part: Tensor
    most: int

    @classmethod
    def of(cls, x: Tensor, parts: list[Changeable], most: int) -> "ChangedRegion":
        """The region around an input (*D)."""
        center = x.double().cpu().flatten()
        several = [(place, move) for place, part in enumerate(parts) for move in part.moves]
        points = center.repeat(len(several), 1)
        for row, (_, move) in enumerate(several):
            points[row, list(move)] = torch.tensor(list(move.values()), dtype=torch.float64)
        every = torch.cat([center[None], points])
        part = torch.tensor([place for place, _ in several], dtype=torch.int64)
        return cls(center, every.amin(0), every.amax(0), points - center, part, min(most, len(parts)))

    def least(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Least values of linear functions (m, d), as computed, and sums of the absolute terms behind them.

        The parts that fall most move; ends of ranges are least or largest.
        """
        count = int(self.part.max()) + 1 if len(self.part) else 0
        zeros = torch.zeros(len(coefficients), count, dtype=torch.float64)
        where = self.part.expand(len(coefficients), -1)
        falls = zeros.scatter_reduce(1, where, coefficients @ self.moves.T, "amin")  # at most 0
        sizes = zeros.scatter_reduce(1, where, coefficients.abs() @ self.moves.abs().T, "amax")
        most = min(self.most, count)
        moved = falls.topk(most, dim=1, largest=False).values.sum(1)
        terms = coefficients.abs() @ self.center.abs() + 2 * sizes.topk(most, dim=1).values.sum(1)
        return coefficients @ self.center + moved, terms
