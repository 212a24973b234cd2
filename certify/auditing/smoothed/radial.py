r"""Radii of the noise of density :math:`\|x\|^{-2k} e^{-\|x\|^2 / 2\sigma'^2}`, by a second quadrature.

The problem of Neyman and Pearson is solved over the norm of the noise by Gauss and Legendre's rule, where the library
has a trapezoidal sum and reads radii from a table. This is a second computation and no proof: SciPy's special functions
are taken as they are, and the rule's error, far below 1e-10 for integrands as smooth as these, is not bounded.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Array = NDArray[np.float64]
NODES = 600
SLACK = 2e-9  # of probabilities: between the two there is no verdict


@lru_cache(maxsize=4)
def _nodes(dimension: int, k: int) -> tuple[Array, Array]:
    """Halved, scaled squared norms, whose law is a gamma law, and their weights, which sum up to 1."""
    share = dimension / 2 - k
    low, high = math.log(special.gammaincinv(share, 1e-15)), math.log(special.gammainccinv(share, 1e-15))
    place, weight = np.polynomial.legendre.leggauss(NODES)
    z = low + (high - low) * (place + 1) / 2
    weight = weight * np.exp(share * (z - math.log(share)) - np.exp(z) + share)
    return np.exp(z), weight / weight.sum()


def _probability(radius: float, evidence: float, dimension: int, k: int) -> float:
    """Probability that the noise at 0 is likelier than at a shift, by ``evidence`` in the logarithm."""
    t, weight = _nodes(dimension, k)
    radius = radius / math.sqrt(dimension / (dimension - 2 * k))
    # s + k ln s of the shifted noise is at least that of the noise and the evidence; it grows with s.
    wanted = t + k * np.log(t) + evidence
    low, high = np.zeros_like(t), t + abs(evidence) + 1
    for _ in range(64):
        middle = (low + high) / 2
        short = middle + k * np.log(middle) < wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    # |x - r e|^2 = |x|^2 - 2 r |x| cos + r^2 >= 2 s
    cosine = (2 * t + radius**2 - 2 * high) / (2 * radius * np.sqrt(2 * t))
    half = (dimension - 1) / 2
    return float(special.betainc(half, half, ((1 + cosine) / 2).clip(0, 1)) @ weight)


@lru_cache(maxsize=100_000)
def generalized_gaussian_allows(radius: float, p: float, dimension: int, k: int) -> bool | None:
    """Whether probability p certifies a radius, in units of sigma; None within the errors of the quadrature."""
    width = radius**2 + 1.0
    while _probability(radius, width, dimension, k) > 0.5:
        width *= 2
    # The set that has probability 1/2 at the shifted input; by symmetry, at the input it has that of the opposite.
    balance = optimize.brentq(lambda e: _probability(radius, e, dimension, k) - 0.5, -1e-3 * width, width, xtol=1e-13)
    needed = _probability(radius, -balance, dimension, k)
    return True if needed <= p + SLACK / 10 else False if needed > p + SLACK else None
