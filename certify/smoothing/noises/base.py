"""Noises, and the radii that follow from probabilities under them.

All radii have the units of the input. Noise is added to the raw input, before any normalisation inside the model. The
distributions of noisy inputs are in :mod:`certify.smoothing.drawing.distributions`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import complement, round_down, round_up
from certify.smoothing.drawing.distributions import Distribution, LaplaceEntries, NormalEntries, UniformEntries


class Noise(ABC):
    """A randomization of inputs, and the radius that a probability under it certifies."""

    norm: ClassVar[float]  # order of the norm that radii are measured in; 0 counts changed entries

    @property
    def domain(self) -> str:
        """Perturbed inputs that a certificate is about, for records."""
        return "any input"

    @property
    @abstractmethod
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""

    @abstractmethod
    def _radius(self, p: Tensor) -> Tensor:
        """Certified radius for probabilities above 1/2, exact within ``SPECIAL_FUNCTION_ERROR``."""

    @abstractmethod
    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        """Certified radius for ``p_upper`` below ``p_lower``, whose sum is at most 1; at most the exact one."""

    @abstractmethod
    def _probability(self, radius: Tensor) -> Tensor:
        """Inverse of :meth:`_radius`, rounded to nearest; may exceed 1."""

    def radius(self, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        """Radius within which the smoothed label cannot change.

        Holds whenever the label has at least probability ``p_lower`` under the noise and every other class at most
        ``p_upper``. Without ``p_upper``, the others have at most ``1 - p_lower`` together.

        Args:
            p_lower: float64 tensor of probabilities, any shape.
            p_upper: the same for the strongest other class; values above ``1 - p_lower`` count as that.

        Returns:
            float64 tensor of the same shape, rounded down; 0 where ``p_lower`` does not exceed the other.

        Raises:
            InvalidInput: a value outside [0, 1] or NaN.
        """
        p = _probabilities("p_lower", p_lower)
        if p_upper is None:
            above = p > 0.5
            radius = round_down(self._radius(torch.where(above, p, 0.75)))
        else:
            other = torch.minimum(_probabilities("p_upper", p_upper), complement(p))
            above = p > other
            radius = self._radius_between(torch.where(above, p, 0.75), torch.where(above, other, 0.25))
        return torch.where(above, radius.clamp(min=0.0), 0.0)

    def probability_needed(self, radius: float | Tensor) -> Tensor:
        """Smallest probability that certifies ``radius``, rounded up: the inverse of :meth:`radius` of one argument.

        A float64 tensor, 1 where no probability below 1 suffices.

        Raises:
            InvalidInput: a radius below 0 or NaN.
        """
        return round_up(self._probability(radii(radius))).clamp(max=1.0)

    def check(self, x: Tensor) -> None:  # noqa: B027  # most certificates suit any input
        """Raise InvalidInput where the certificate does not hold for inputs such as these (N, *D)."""

    def radius_at(self, x: Tensor, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        """Like :meth:`radius`, (N,), for the inputs (N, *D); some noises give larger radii for known inputs."""
        return self.radius(p_lower, p_upper)

    def probability_needed_at(self, x: Tensor, radius: float) -> Tensor:
        """Like :meth:`probability_needed`, (N,), for each of the inputs (N, *D)."""
        return self.probability_needed(radius).to(x.device).expand(len(x))

    def sample(self, x: Tensor, draws: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Noisy copies (N, draws, *O) of inputs (N, *D), as the model sees them; all inputs meet the same draws."""
        return self.distribution.sample(x, draws, generator=generator)


def radii(radius: float | Tensor) -> Tensor:
    """Radii of at least 0 as float64: a tensor stays where it is, a number goes to the CPU."""
    r = radius.double() if isinstance(radius, Tensor) else torch.tensor(radius, dtype=torch.float64, device="cpu")
    if not (r >= 0).all():
        raise InvalidInput(f"radius must be at least 0, got {r.tolist()}")
    return r


def _probabilities(name: str, value: Tensor) -> Tensor:
    p = checks.tensor(name, value).double()
    if not ((p >= 0) & (p <= 1)).all():
        raise InvalidInput(f"{name} must lie in [0, 1], got {p.tolist()}")
    return p


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

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return NormalEntries(self.sigma)

    def _radius(self, p: Tensor) -> Tensor:
        quantile: Tensor = torch.special.ndtri(p)
        return self.sigma * quantile

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        difference = round_down(torch.special.ndtri(p_lower)) - round_up(torch.special.ndtri(p_upper))
        return round_down(0.5 * self.sigma * difference)

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

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return LaplaceEntries(self.scale)

    def _radius(self, p: Tensor) -> Tensor:
        return -self.scale * torch.log(2 * (1 - p))

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        ratio, gap = round_down(p_lower / p_upper), round_down(p_lower - p_upper)
        return self.scale * torch.maximum(0.5 * round_down(ratio.log()), round_down(-torch.log1p(-gap)))

    def _probability(self, radius: Tensor) -> Tensor:
        return 1 - 0.5 * torch.exp(-radius / self.scale)


@dataclass(frozen=True)
class OverlapNoise(Noise):
    r"""A noise under which the probability of a class changes by :math:`\|\delta\|_1 / 2w` at most.

    So a label keeps its lead up to the l_1 radius :math:`w (p_A - p_B)`, or :math:`2 w (p - 1/2)` of one probability.
    """

    half_width: float

    norm = 1.0

    def __post_init__(self) -> None:
        checks.positive("half_width", self.half_width)

    def _radius(self, p: Tensor) -> Tensor:
        return 2 * self.half_width * (p - 0.5)

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        return round_down(self.half_width * (p_lower - p_upper))

    def _probability(self, radius: Tensor) -> Tensor:
        return 0.5 + radius / (2 * self.half_width)


@dataclass(frozen=True)
class Uniform(OverlapNoise):
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

    def __str__(self) -> str:
        return f"uniform(half_width={self.half_width})"

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return UniformEntries(self.half_width)


class InNorm(Noise):
    """A noise with radii in another norm, by the inequality between the two norms.

    The smoothed classifier stays the same. In a higher norm the radius is divided by
    ``dimension ** (1 / noise.norm - 1 / norm)``, in a lower one it stays as it is.

    Args:
        noise: with a norm of at least 1.
        norm: order of the norm that is wanted, at least 1, ``math.inf`` included.
        dimension: entries of an input.

    Raises:
        InvalidInput: an order below 1, a dimension below 1; later, inputs with another number of entries.

    >>> InNorm(Gaussian(sigma=0.5), math.inf, dimension=4).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.3204], dtype=torch.float64)
    """

    def __init__(self, noise: Noise, norm: float, *, dimension: int) -> None:
        if not isinstance(noise, Noise):
            raise InvalidInput(f"noise must be a noise such as Gaussian(sigma=0.25), got {noise!r}")
        self.noise = noise
        self.norm = checks.norm(norm)  # type: ignore[misc]  # elsewhere a constant of the class
        self.dimension = checks.at_least("dimension", dimension, 1)
        # The norm of the noise is at most this many times the norm that is wanted; 4 units cover pow.
        exponent = max(0.0, 1 / checks.norm(noise.norm) - 1 / self.norm)
        self.ratio = self.dimension**exponent * (1 + 2.0**-50) if exponent else 1.0

    def __str__(self) -> str:
        return str(self.noise)

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return self.noise.distribution

    @property
    def domain(self) -> str:
        """Domain of the noise."""
        return self.noise.domain

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs have ``dimension`` entries and suit the noise."""
        require_entries(x, self.dimension)
        self.noise.check(x)

    def radius_at(self, x: Tensor, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        """Radius of the noise, converted to the norm."""
        return self._converted(self.noise.radius_at(x, p_lower, p_upper))

    def probability_needed_at(self, x: Tensor, radius: float) -> Tensor:
        """Probability that the noise needs for the radius in its own norm."""
        return self.noise.probability_needed_at(x, radius * self.ratio * (1 + 2.0**-52))

    def _radius(self, p: Tensor) -> Tensor:
        return self.noise._radius(p) / self.ratio

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        return self._converted(self.noise._radius_between(p_lower, p_upper))

    def _probability(self, radius: Tensor) -> Tensor:
        return self.noise._probability(radius * self.ratio)

    def _converted(self, radius: Tensor) -> Tensor:
        return round_down(radius / self.ratio).clamp(min=0.0)


def require_entries(x: Tensor, dimension: int) -> None:
    """Raise InvalidInput unless every input of (N, *D) has the stated number of entries."""
    entries = math.prod(x.shape[1:])
    if entries != dimension:
        raise InvalidInput(f"dimension is {dimension}, but the inputs have {entries} entries: give that number")
