"""Distances that are stated: never below the exact one, whatever the rounding."""

import math

import torch
from torch import Tensor

from bounds.numerics import SPECIAL_FUNCTION_ERROR, round_up, unit_roundoff

UNIT = unit_roundoff(torch.float64)
TOGETHER = 2**15  # entries that are measured at once: of each there are eight copies in float64


def distance(points: Tensor, x: Tensor, norm: float) -> Tensor:
    """A float64 number of at least ||points - x||, (N,), and at most a few units in the last place per entry above.

    Exact for the order 0, and for infinity wherever float64 holds the difference; shapes (N, *D). Differences are
    rounded once, their error is known exactly, and a sum of n positive terms is off by a factor of at most
    1 + gamma_n in any order. Rows are measured a few at a time, so that float64 takes little memory.

    References:
        Higham (2002), Accuracy and Stability of Numerical Algorithms, section 4.2; Knuth, The Art of Computer
        Programming, volume 2, section 4.2.2, theorem B, for the error of a difference.
    """
    points, x = torch.broadcast_tensors(points, x)
    rows = max(1, TOGETHER // max(1, points[:1].numel()))
    parts = zip(points.split(rows), x.split(rows), strict=True)
    return torch.cat([_distance(a, b, norm) for a, b in parts])


def _distance(points: Tensor, x: Tensor, norm: float) -> Tensor:
    delta = _difference(points.double().flatten(1), x.double().flatten(1))
    count = (delta != 0).sum(1).double()
    if norm == 0:
        return count
    largest = delta.amax(1)
    if norm == math.inf:
        return largest
    # By a power of two, which is exact: squares of what is tiny or huge must not leave the range of float64.
    unit = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)
    terms = (delta / unit[:, None]) if norm == 1 else (delta / unit[:, None]) ** norm
    total = terms.sum(1)
    if norm == 2:
        size, terms_error = total.sqrt(), 2 * UNIT
    else:
        size, terms_error = (total, 0.0) if norm == 1 else (total ** (1 / norm), norm * SPECIAL_FUNCTION_ERROR)
    relative = (terms_error + (count + 2) * UNIT) * (1 + 1e-6)
    # One changed entry is as long as itself in every norm.
    return torch.where(count <= 1, largest, round_up(size * unit * (1 + relative)))


def _difference(points: Tensor, x: Tensor) -> Tensor:
    """Sizes of the differences, rounded up where float64 does not hold them."""
    delta = points - x
    part = delta - points
    error = (points - (delta - part)) - (x + part)  # of the subtraction, exactly
    size = delta.abs()
    return torch.where(error * delta.sign() > 0, torch.nextafter(size, torch.full_like(size, math.inf)), size)
