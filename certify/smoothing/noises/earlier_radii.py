"""Radii of earlier papers from the same votes, for comparison. All hold, and none exceeds that of the noise itself.

Each is the largest of many bounds, one for every value of a parameter. The values are tried on a grid, so that the
result is a bound, too, and close to the largest.
"""

import math

import torch
from torch import Tensor

from bounds import checks
from bounds.numerics import complement, round_down, round_up
from certify.smoothing.noises.base import Gaussian, Laplace, Noise

PARAMETER_VALUES = 1024  # grid of the parameter of a bound
FORMULA_ERROR = 1e-12  # absolute, of the argument of the logarithm in Li's bound


def lecuyer_radius(p_lower: Tensor, p_upper: Tensor, sigma: float) -> Tensor:
    r"""L_2 radius of Gaussian noise as differential privacy gives it.

    Smoothing with :math:`\sigma = \sqrt{2 \ln(1.25 / \delta)} R / \epsilon` is :math:`(\epsilon, \delta)`-private for
    inputs R apart, for every :math:`\epsilon` in (0, 1], and the label stays if
    :math:`p_A \ge e^{2 \epsilon} p_B + (1 + e^\epsilon) \delta`.

    Args:
        p_lower: (N,) float64, at most the probability of the label.
        p_upper: (N,) float64, at least that of every other class; values above ``1 - p_lower`` count as that.
        sigma: standard deviation of the noise, in units of the input.

    Returns:
        (N,) float64, rounded down; 0 where :class:`Gaussian` certifies nothing.

    Raises:
        InvalidInput: a probability outside [0, 1], sigma not a finite number above 0.

    References:
        Lecuyer et al. (2019), Certified robustness to adversarial examples with differential privacy,
        arXiv:1802.03471, Proposition 1 and Theorem 1.

    >>> p = torch.tensor([0.9], dtype=torch.float64)
    >>> lecuyer_radius(p, 1 - p, sigma=1.0), Gaussian(sigma=1.0).radius(p)
    (tensor([0.3903], dtype=torch.float64), tensor([1.2816], dtype=torch.float64))
    """
    a, b = (p.unsqueeze(-1) for p in _pair(p_lower, p_upper))
    share = torch.arange(1, PARAMETER_VALUES + 1, dtype=torch.float64, device=p_lower.device) / PARAMETER_VALUES
    epsilon = share * (0.5 * (a / b).log()).clamp(min=0.0, max=1.0)
    delta = round_down(round_down(a - round_up((2 * epsilon).exp() * b)) / (1 + epsilon.exp()))
    radius = sigma * epsilon / torch.sqrt(2 * torch.log(1.25 / delta.clamp(min=0.0)))  # 0 at delta 0
    return _where_certified(Gaussian(sigma), p_lower, p_upper, radius.amax(-1))


def li_radius(p_lower: Tensor, p_upper: Tensor, sigma: float) -> Tensor:
    r"""L_2 radius of Gaussian noise as Rényi divergences of every order :math:`a > 1` give it.

    .. math:: R^2 = \sup_{a > 1} -\frac{2 \sigma^2}{a} \ln(1 - p_A - p_B + 2 M_{1-a}(p_A, p_B)),

    where :math:`M_{1-a}` is the power mean. Arguments, result and errors as in :func:`lecuyer_radius`.

    References:
        Li et al. (2019), Certified adversarial robustness with additive noise, arXiv:1809.03113, Theorem 2.

    >>> p = torch.tensor([0.9], dtype=torch.float64)
    >>> li_radius(p, 1 - p, sigma=1.0)
    tensor([1.0319], dtype=torch.float64)
    """
    a, b = (p.unsqueeze(-1) for p in _pair(p_lower, p_upper))
    excess = torch.logspace(-2, 3, PARAMETER_VALUES, dtype=torch.float64, device=p_lower.device)  # order - 1
    powers = torch.stack(torch.broadcast_tensors(-excess * a.log(), -excess * b.log()))
    mean = torch.exp(-(powers.logsumexp(0) - math.log(2)) / excess)
    rest = (1 - a - b + 2 * mean + FORMULA_ERROR).clamp(max=1.0)
    radius = sigma * torch.sqrt(2 / (1 + excess) * -rest.log())
    return _where_certified(Gaussian(sigma), p_lower, p_upper, radius.amax(-1))


def lecuyer_laplace_radius(p_lower: Tensor, p_upper: Tensor, scale: float) -> Tensor:
    r"""L_1 radius of Laplace noise as differential privacy gives it, :math:`\frac{b}{2} \ln(p_A / p_B)`.

    Arguments, result and errors as in :func:`lecuyer_radius`, with :class:`Laplace` and its scale b.

    References:
        Lecuyer et al. (2019), arXiv:1802.03471, Proposition 1 with :math:`\delta = 0`.

    >>> p = torch.tensor([0.9], dtype=torch.float64)
    >>> lecuyer_laplace_radius(p, 1 - p, scale=1.0)
    tensor([1.0986], dtype=torch.float64)
    """
    a, b = _pair(p_lower, p_upper)
    return _where_certified(Laplace(scale), p_lower, p_upper, 0.5 * scale * round_down(round_down(a / b).log()))


def _pair(p_lower: Tensor, p_upper: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64; no other class has more than the rest."""
    a = checks.tensor("p_lower", p_lower).double()
    return a, torch.minimum(checks.tensor("p_upper", p_upper).double(), complement(a))


def _where_certified(noise: Noise, p_lower: Tensor, p_upper: Tensor, radius: Tensor) -> Tensor:
    """The radius, rounded down, where the noise certifies any; its own checks apply."""
    certified = noise.radius(p_lower, p_upper) > 0
    return torch.where(certified, round_down(radius).clamp(min=0.0), 0.0)
