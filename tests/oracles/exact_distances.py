"""Distances in rational arithmetic."""

import math
from fractions import Fraction

from torch import Tensor


def at_least_exact(stated: float, points: Tensor, x: Tensor, norm: float) -> bool:
    """Whether a stated distance is at least the exact one: powers are compared, so that nothing is rounded."""
    sizes = [abs(Fraction(a) - Fraction(b)) for a, b in zip(points.tolist(), x.tolist(), strict=True)]
    if norm == 0:
        return Fraction(stated) >= sum(size != 0 for size in sizes)
    if norm == math.inf:
        return Fraction(stated) >= max(sizes)
    return Fraction(stated) ** int(norm) >= sum(size ** int(norm) for size in sizes)
