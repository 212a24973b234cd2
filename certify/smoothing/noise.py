"""Noise distributions and the certificates that follow from them.

A noise knows how to draw itself and what radius a lower bound of a class probability certifies. All radii have the
units of the input; all noise is added to the raw input, before any normalisation inside the model.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import round_down, round_up


class Noise(ABC):
    """A distribution of independent, identical noise on every entry of an input."""

    norm: ClassVar[float]  # order of the norm that radii are measured in

    @abstractmethod
    def _draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill ``out``, of at least single precision, with independent draws and return it."""

    @abstractmethod
    def _radius(self, p: Tensor) -> Tensor:
        """Certified radius for probabilities above 1/2, rounded to nearest."""

    @abstractmethod
    def _probability(self, radius: Tensor) -> Tensor:
        """Inverse of :meth:`_radius`, rounded to nearest; may exceed 1."""

    def sample_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill ``out`` with independent draws and return it.

        Half precision is filled from draws in single precision: its own uniform numbers are
        coarse and have a mean below 0.
        """
        if out.element_size() >= 4:
            return self._draw_(out, generator)
        return out.copy_(self._draw_(torch.empty_like(out, dtype=torch.float32), generator))

    def radius(self, p_lower: Tensor) -> Tensor:
        """Radius within which the smoothed label cannot change.

        Holds whenever the label has at least probability ``p_lower`` under the noise.

        Args:
            p_lower: float64 tensor of probabilities, any shape.

        Returns:
            float64 tensor of the same shape, rounded down; 0 where ``p_lower`` is at most 1/2.

        Raises:
            InvalidInput: a value outside [0, 1] or NaN.
        """
        p = p_lower.double()
        if not ((p >= 0) & (p <= 1)).all():
            raise InvalidInput(f"p_lower must lie in [0, 1], got {p.tolist()}")
        above = p > 0.5
        radius = self._radius(torch.where(above, p, 0.75))
        return torch.where(above, round_down(radius).clamp(min=0.0), 0.0)

    def probability_needed(self, radius: float | Tensor) -> Tensor:
        """Smallest probability that certifies ``radius``, rounded up: the inverse of :meth:`radius`.

        A float64 tensor, 1 where no probability below 1 suffices.

        Raises:
            InvalidInput: a radius below 0 or NaN.
        """
        r = torch.as_tensor(radius, dtype=torch.float64)
        if not (r >= 0).all():
            raise InvalidInput(f"radius must be at least 0, got {r.tolist()}")
        return round_up(self._probability(r)).clamp(max=1.0)


@dataclass(frozen=True)
class Gaussian(Noise):
    r"""Gaussian noise, which certifies the l_2 radius :math:`\sigma \Phi^{-1}(p)`; no larger one holds in general.

    Args:
        sigma: standard deviation, in units of the input.

    Raises:
        InvalidInput: sigma is not a finite number above 0.

    References:
        Cohen, Rosenfeld, Kolter (2019), Certified adversarial robustness via randomized smoothing,
        arXiv:1902.02918, Theorem 1.

    >>> Gaussian(sigma=0.5).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.6408], dtype=torch.float64)
    """

    sigma: float

    norm = 2.0

    def __post_init__(self) -> None:
        checks.positive("sigma", self.sigma)

    def __str__(self) -> str:
        return f"gaussian(sigma={self.sigma})"

    def _draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        return out.normal_(0.0, self.sigma, generator=generator)

    def _radius(self, p: Tensor) -> Tensor:
        quantile: Tensor = torch.special.ndtri(p)
        return self.sigma * quantile

    def _probability(self, radius: Tensor) -> Tensor:
        # erfc of a negative argument, since torch.special.ndtr loses digits in its tail
        tail: Tensor = torch.special.erfc(-radius / (self.sigma * math.sqrt(2)))
        return 0.5 * tail


@dataclass(frozen=True)
class Laplace(Noise):
    r"""Laplace noise of density :math:`e^{-|t|/b} / 2b`, which certifies the l_1 radius :math:`-b \ln(2(1-p))`.

    Args:
        scale: the parameter b, in units of the input; the standard deviation is ``scale * sqrt(2)``.

    Raises:
        InvalidInput: scale is not a finite number above 0.

    References:
        Teng, Lee, Yuan (2020), l1 adversarial robustness certificates: a randomized smoothing approach, Theorem 1.

    >>> Laplace(scale=1.0).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 1.6094], dtype=torch.float64)
    """

    scale: float

    norm = 1.0

    def __post_init__(self) -> None:
        checks.positive("scale", self.scale)

    def __str__(self) -> str:
        return f"laplace(scale={self.scale})"

    def _draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        # The difference of two exponential draws: no logarithm of zero, no tail cut by the grid of uniform numbers.
        other = torch.empty_like(out).exponential_(1 / self.scale, generator=generator)
        return out.exponential_(1 / self.scale, generator=generator).sub_(other)

    def _radius(self, p: Tensor) -> Tensor:
        return -self.scale * torch.log(2 * (1 - p))

    def _probability(self, radius: Tensor) -> Tensor:
        return 1 - 0.5 * torch.exp(-radius / self.scale)


@dataclass(frozen=True)
class Uniform(Noise):
    r"""Uniform noise on [-w, w] in every entry, which certifies the l_1 radius :math:`2 w (p - 1/2)`.

    Args:
        half_width: the number w, in units of the input; the standard deviation is ``half_width / sqrt(3)``.

    Raises:
        InvalidInput: half_width is not a finite number above 0.

    References:
        Lee et al. (2019), Tight certificates of adversarial robustness for randomly smoothed classifiers,
        arXiv:1906.04948; Yang et al. (2020), arXiv:2002.08118, section 4.

    >>> Uniform(half_width=1.0).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.8000], dtype=torch.float64)
    """

    half_width: float

    norm = 1.0

    def __post_init__(self) -> None:
        checks.positive("half_width", self.half_width)

    def __str__(self) -> str:
        return f"uniform(half_width={self.half_width})"

    def _draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        return out.uniform_(-self.half_width, self.half_width, generator=generator)

    def _radius(self, p: Tensor) -> Tensor:
        return 2 * self.half_width * (p - 0.5)

    def _probability(self, radius: Tensor) -> Tensor:
        return 0.5 + radius / (2 * self.half_width)
