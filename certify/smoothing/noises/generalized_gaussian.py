r"""Noise that is Gaussian but for a factor :math:`\|x\|^{-2k}`, which gathers it at small norms."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from scipy.interpolate import CubicSpline
from torch import Tensor

from bounds import checks
from bounds.statistics.proportions import FloatArray
from certify.smoothing.drawing.distributions import Distribution, NormalEntries
from certify.smoothing.noises.base import Noise, require_entries

SMALLEST_DIMENSION = 32  # below, the law of a direction's angle is not smooth enough for the quadrature
SMALLEST_SHAPE = 2  # of the gamma law, d / 2 - k, likewise
QUADRATURE_NODES = 513  # of the quadrature
TAIL = 1e-14  # probability beyond the first and the last node, together less than twice this
QUADRATURE_ERROR = 1e-9  # allowed to each probability; twice the nodes change it by less than 1e-12
SMALLEST_RADIUS = 1e-6  # smallest radius, over sigma, that is computed
TABLE = 64  # radii from which others are interpolated
SHARE = 1 - 1e-6  # of an interpolated radius that is tried, so that it passes


@dataclass(frozen=True)
class GeneralizedGaussian(Noise):
    r"""Noise of density :math:`\propto \|x\|^{-2k} e^{-\|x\|^2 / 2\sigma'^2}`, for the l_2 norm.

    The scale :math:`\sigma' = \sigma \sqrt{d / (d - 2k)}` makes the mean square of an entry :math:`\sigma^2`. Radii
    are those of the worst classifier with the same probability (Neyman and Pearson), by numerical quadrature. The
    set where the likelihood ratio of the noise at x to that at :math:`x + \delta` exceeds a number has probability
    p at x and q at :math:`x + \delta`, and no set of the same p has a smaller q. Any such set with p at most
    ``p_lower`` and q above 1/2 proves the radius. The set that the search finds is checked for this, with 1e-9 to
    spare on both sides. So a poor search makes the radius smaller, but never wrong. Quadrature errors were measured
    with other numbers of nodes and digits and are covered a thousand times over; no theorem bounds them.

    A proof for a shift of norm r is one for all shorter ones: the optimal sets compare p and q by integrals of
    :math:`\min(p(x), \lambda p(x - \delta))`, which are volumes of intersections of two balls, one for each level,
    as the density falls with the norm. These grow as the centres approach each other.

    For ``k = 0`` it is :class:`Gaussian`. If ``p_upper`` is given, the rule for ``p_lower`` alone is used, which holds
    whatever the others have: rows with ``p_lower`` of at most 1/2 get 0.

    Args:
        sigma: root mean square of an entry, in units of the input.
        dimension: entries of an input, the number d; at least 32.
        k: exponent, from 0 to d / 2 - 2.

    Raises:
        InvalidInput: sigma not a finite number above 0, dimension or k out of range; later, inputs with another
            number of entries.

    References:
        Zhang et al. (2020), Black-box certification with randomized smoothing, arXiv:2002.09169; Li et al. (2022),
        Double sampling randomized smoothing, arXiv:2206.07912, for the noise and the integrals.

    >>> noise = GeneralizedGaussian(sigma=0.5, dimension=3072, k=1530)
    >>> noise.radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.6012], dtype=torch.float64)
    """

    sigma: float
    dimension: int
    k: int

    norm = 2.0

    def __post_init__(self) -> None:
        checks.positive("sigma", self.sigma)
        checks.at_least("dimension", self.dimension, SMALLEST_DIMENSION)
        checks.at_most("k", checks.at_least("k", self.k, 0), self.dimension / 2 - SMALLEST_SHAPE)

    def __str__(self) -> str:
        return f"generalized_gaussian(sigma={self.sigma}, k={self.k})"

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return RadialEntries(self.sigma, self.dimension, self.k)

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs have ``dimension`` entries."""
        require_entries(x, self.dimension)

    def _radius(self, p: Tensor) -> Tensor:
        return self.sigma * _of_each(p, lambda values: _proved_radius(values, self.dimension, self.k))

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        above = p_lower > 0.5
        return torch.where(above, self._radius(torch.where(above, p_lower, 0.75)), 0.0)

    def _probability(self, radius: Tensor) -> Tensor:
        largest = _radius_table(self.dimension, self.k).radius[-1]  # which needs 1 and more

        def needed(r: FloatArray) -> FloatArray:
            return np.where(r > 0, _needed(r.clip(SMALLEST_RADIUS, largest), self.dimension, self.k)[0], 0.5)

        return _of_each(radius / self.sigma, needed)


def _of_each(values: Tensor, function: Callable[[FloatArray], FloatArray]) -> Tensor:
    """The function of every value, computed once for equal ones and on the CPU."""
    different, place = torch.unique(values.cpu(), return_inverse=True)
    return torch.from_numpy(function(different.numpy()))[place].to(values.device)


def _mass(r: FloatArray, evidence: FloatArray, dimension: int, k: int) -> FloatArray:
    r"""Upper bound of the probability of the noise x, of mean square 1, that the likelihood ratio is large.

    With s the squared norm over :math:`2\sigma'^2`, the logarithm of the density is :math:`-s - k \ln s`. The set is
    where it exceeds that of the noise shifted by ``r`` by ``evidence`` at least. Given s = t, which has a gamma
    distribution, this is a condition on the angle between noise and shift, whose cosine has a beta distribution. The
    integral over :math:`\ln t` is a trapezoidal sum, which converges geometrically.
    """
    m, scale = dimension / 2 - k, math.sqrt(dimension / (dimension - 2 * k))
    low, high = special.gammaincinv(m, TAIL), special.gammainccinv(m, TAIL)
    z = np.linspace(math.log(low / m), math.log(high / m), QUADRATURE_NODES)
    weight = np.exp(m * (z - np.expm1(z)))
    t, rho = m * np.exp(z), scale * np.sqrt(2 * m * np.exp(z))
    r, evidence = r[:, None], evidence[:, None]
    # The shifted noise has s = t (1 + y) at the least, with k ln(1 + y) + t y = evidence.
    y = special.wrightomega((evidence + t) / k + np.log(t / k)) * (k / t) - 1 if k else evidence / t
    small = np.abs(y) < 0.5
    for _ in range(2):  # Newton steps bring back the digits that the subtraction lost
        start = np.where(small, y, 0.0)
        y = np.where(small, start - (k * np.log1p(start) + t * start - evidence) / (k / (1 + start) + t), y)
    position = (0.5 + r / (4 * rho) - rho * y / (4 * r)).clip(0.0, 1.0)
    inside = special.betainc((dimension - 1) / 2, (dimension - 1) / 2, position)
    return np.asarray((inside * weight).sum(1) / weight.sum() + QUADRATURE_ERROR)


def _needed(r: FloatArray, dimension: int, k: int) -> tuple[FloatArray, FloatArray]:
    """Probability that certifies radii, which are above 0 and below 100, and the evidence of the set that does."""
    low, high = np.zeros_like(r), r**2
    while (short := _mass(r, high, dimension, k) >= 0.5).any():
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    for _ in range(36):
        middle = (low + high) / 2
        short = ~(_mass(r, middle, dimension, k) < 0.5)
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    # The roles of the two noises are exchanged by exchanging the sign of the evidence.
    proved = _mass(r, high, dimension, k) < 0.5
    return np.where(proved, _mass(r, -high, dimension, k), 1.0), high


class _RadiusTable(NamedTuple):
    radius: FloatArray  # ascending from 0 to one that needs probability 1
    needed: FloatArray
    evidence: FloatArray


@lru_cache(maxsize=32)
def _radius_table(dimension: int, k: int) -> _RadiusTable:
    last = np.array([4.0])
    while _needed(last, dimension, k)[0] < 1:
        last = 1.25 * last
    radius = last * np.linspace(0, 1, TABLE) ** 2  # closer together near 0
    needed, evidence = _needed(radius[1:], dimension, k)
    return _RadiusTable(radius, np.maximum.accumulate(np.append(0.5, needed)), np.append(0.0, evidence))


def _proved_radius(p: FloatArray, dimension: int, k: int) -> FloatArray:
    """Radii for probabilities above 1/2: interpolated and then proved, or else the next one of the table below."""
    table = _radius_table(dimension, k)
    fallback = table.radius[np.searchsorted(table.needed, p, side="right") - 1]
    inner = (table.needed < 1) & (table.radius > 0)
    radius, needed, evidence = (np.asarray(column)[inner] for column in table)
    quantile, known = special.ndtri(np.minimum(p, needed[-1])), special.ndtri(needed)
    # Both quotients change little; for Gaussian noise they are constant. What is allowed to the quadrature matters to
    # small radii, and is a multiple of itself in a radius and in the slope of the evidence.
    tried = SHARE * CubicSpline(known, radius / known)(quantile) * quantile - 10 * QUADRATURE_ERROR
    tried = tried.clip(min=SMALLEST_RADIUS)
    slope = (2 - SHARE) * CubicSpline(radius, evidence / radius**2)(tried) * tried + 10 * QUADRATURE_ERROR
    log_ratio = slope * tried
    proved = (_mass(tried, log_ratio, dimension, k) < 0.5) & (_mass(tried, -log_ratio, dimension, k) <= p)
    return np.where(proved, np.maximum(tried, fallback), fallback)


@dataclass(frozen=True)
class RadialEntries(Distribution):
    """Noise of a uniformly distributed direction, whose squared norm has a gamma distribution."""

    sigma: float
    dimension: int
    k: int

    in_place = True

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with draws."""
        shape = raw.new_full((len(raw),), self.dimension / 2 - self.k, dtype=torch.float64)
        gamma = torch._standard_gamma(shape, generator)  # torch.distributions.Gamma takes no generator
        squared = 2 * self.dimension / (self.dimension - 2 * self.k) * gamma
        directions = raw.normal_(generator=generator).view(len(raw), -1)
        factor = self.sigma * squared.sqrt() / torch.linalg.vector_norm(directions, dim=1, dtype=torch.float64)
        directions.mul_(factor.unsqueeze(1).to(raw.dtype))
        return raw

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Add every draw to every input."""
        return torch.add(encoded.unsqueeze(1), raw, out=out)

    @property
    def reach(self) -> float:
        """Size of an entry that is hardly exceeded: that of normal noise with the same mean square."""
        return NormalEntries(self.sigma).reach
