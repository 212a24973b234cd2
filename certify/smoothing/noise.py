"""Noise distributions and the certificates that follow from them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import round_down, round_up


@dataclass(frozen=True)
class Gaussian:
    """Isotropic Gaussian noise, which certifies l_2 radii.

    Args:
        sigma: standard deviation, in units of the input (before any normalisation inside the model).

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

    def sample_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill ``out`` with independent draws and return it."""
        return out.normal_(0.0, self.sigma, generator=generator)

    def radius(self, p_lower: Tensor) -> Tensor:
        r"""l_2 radius within which the smoothed label cannot change: :math:`\sigma \Phi^{-1}(p)`.

        Holds whenever the label has at least probability ``p_lower`` under the noise; tight.

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
        quantile = torch.special.ndtri(torch.where(above, p, 0.75))
        return torch.where(above, round_down(self.sigma * quantile).clamp(min=0.0), 0.0)

    def probability_needed(self, radius: float | Tensor) -> Tensor:
        r"""Smallest probability that certifies ``radius``, rounded up: :math:`\Phi(r / \sigma)`.

        The inverse of :meth:`radius`, as a float64 tensor.

        Raises:
            InvalidInput: a radius below 0 or NaN.
        """
        r = torch.as_tensor(radius, dtype=torch.float64)
        if not (r >= 0).all():
            raise InvalidInput(f"radius must be at least 0, got {r.tolist()}")
        # erfc of a negative argument, since torch.special.ndtr loses digits in its tail
        return round_up(0.5 * torch.special.erfc(-r / (self.sigma * math.sqrt(2)))).clamp(max=1.0)
