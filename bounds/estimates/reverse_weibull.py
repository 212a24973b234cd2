r"""The end point of a distribution, from the maxima of batches: a reverse Weibull fit that says what it cannot know.

The maxima follow :math:`G(y) = \exp(-((a - y) / b)^c)` for :math:`y < a`. Maximising the likelihood over three numbers
at once is known to fail, so it is profiled: for a given end point :math:`a` the shape solves one equation, whose
solution is unique, and the scale has a closed form. What remains is a function of :math:`a` alone, which is never below
the largest maximum. Shapes below 1, of unbounded likelihood, are left out. As :math:`a \to \infty` the fit becomes
a Gumbel distribution, which has no end: where that fits as well, the maxima do not tell the end point.

References:
    Weng et al. (2018), Evaluating the robustness of neural networks: an extreme value theory approach,
    arXiv:1801.10578; Smith (1985), Maximum likelihood estimation in a class of nonregular cases, Biometrika 72.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

STEPS = 12  # of Newton's method for the shape, from the estimate by moments
FARTHEST = 100.0  # end points are sought up to so many ranges of the maxima above the largest
QUANTILE, WIDE_QUANTILE = 3.841458820694124, 5.991464547107979  # 95%, of chi-squared with one and two degrees


@dataclass(frozen=True, eq=False, kw_only=True)
class ReverseWeibull:
    """Fits to the rows of a tensor of maxima (M, B), float64.

    Attributes:
        location: (M,) estimates of the end point, nowhere below the largest maximum.
        scale: (M,).
        shape: (M,), at least 1.
        lower: (M,) lower end of a 95% interval for the end point by the likelihood ratio.
        upper: (M,) likewise; infinite where a distribution without an end fits as well.
        distance: (M,) of the distribution function from the empirical one (Kolmogorov and Smirnov).
    """

    location: Tensor
    scale: Tensor
    shape: Tensor
    lower: Tensor
    upper: Tensor
    distance: Tensor

    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Maxima (count, M) drawn from the fits."""
        lots = self.shape.new_empty(count, len(self.shape)).exponential_(generator=generator)
        return self.location - self.scale * lots ** (1 / self.shape)


def fit_reverse_weibull(maxima: Tensor, *, interval: bool = True) -> ReverseWeibull:
    """Fit the rows of maxima (M, B); each must have two different values.

    Without ``interval`` its ends are NaN, in a quarter of the time.
    """
    top = maxima.amax(1, keepdim=True)
    span = top - maxima.amin(1, keepdim=True)
    below = (top - maxima) / span  # (M, B) in [0, 1]
    coarse = 10 ** torch.linspace(-7, math.log10(FARTHEST), 28, dtype=maxima.dtype, device=maxima.device)
    grid = torch.cat([coarse.new_zeros(1), coarse]).expand(len(maxima), -1)
    end = grid
    for _ in range(2):
        found, _ = _profile(below, end)
        best = found.argmax(1, keepdim=True)
        before, after = (end.gather(1, (best + side).clamp(0, end.shape[1] - 1)) for side in (-1, 1))
        share = torch.linspace(0, 1, 12, dtype=maxima.dtype, device=maxima.device)
        closer = before.clamp(min=1e-9) * (after / before.clamp(min=1e-9)) ** share
        end = torch.cat([end.gather(1, best), closer], 1)
    likelihoods, shapes = _profile(below, end)
    best = likelihoods.argmax(1, keepdim=True)
    chosen, likelihood, shape = (part.gather(1, best) for part in (end, likelihoods, shapes))
    scale = (below + chosen).pow(shape).mean(1, keepdim=True).pow(1 / shape)
    return ReverseWeibull(
        location=(top + span * chosen).squeeze(1),
        scale=(span * scale).squeeze(1),
        shape=shape.squeeze(1),
        **_interval(below, chosen, likelihood, shape, top, span, known=interval),
        distance=_distance(-(((below + chosen) / scale) ** shape)),
    )


def bootstrap_p_values(fit: ReverseWeibull, size: int, resamples: int, generator: torch.Generator | None) -> Tensor:
    """Share of maxima drawn from a fit, and fitted anew, that lie at least as far from their own fit, (M,).

    Tables of the Kolmogorov-Smirnov distance do not apply to a distribution that was fitted to the same numbers.
    A high value says that the shape of the distribution is right, and nothing about its end point.
    """
    reached = torch.ones_like(fit.distance)
    for row in range(len(fit.distance)):
        one = ReverseWeibull(**{field.name: getattr(fit, field.name)[row : row + 1] for field in fields(fit)})
        drawn = one.sample(resamples * size, generator).view(resamples, size)
        again = fit_reverse_weibull(drawn, interval=False)
        reached[row] += (again.distance >= one.distance).sum()
    return reached / (resamples + 1)


def _profile(below: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Mean log-likelihoods and shapes (M, G) for end points (M, G) above the largest maximum, in units of the range."""
    size = below[:, None] + end[:, :, None]
    logs = size.clamp(min=1e-300).log()
    shape = _rate(logs).clamp(min=1.0)
    mean, power = logs.mean(-1), _log_mean_power(logs, shape)
    # At the largest maximum itself the factor (c - 1) log 0 counts only for c = 1, where it is 0.
    at_top = end == 0
    shape = torch.where(at_top, 1.0, shape)
    power = torch.where(at_top, size.mean(-1).log(), power)
    return shape.log() - power + torch.where(at_top, 0.0, (shape - 1) * mean) - 1, shape


def _gumbel(below: Tensor) -> Tensor:
    """Mean log-likelihood (M, 1) of the limit in which the end point is infinitely far."""
    rate = _rate(below[:, None])
    return rate.log() - _log_mean_power(below[:, None], rate) + rate * below.mean(-1, keepdim=True) - 1


def _rate(x: Tensor) -> Tensor:
    """The c > 0 at which the mean over the last dimension, weighted by exp(c x), exceeds the plain one by 1 / c."""
    mean = x.mean(-1)
    rate = math.pi / math.sqrt(6) / x.std(-1).clamp(min=1e-12)
    largest = x.amax(-1, keepdim=True)
    for _ in range(STEPS):
        weights = (rate[..., None] * (x - largest)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        tilted = (weights * x).sum(-1)
        variance = (weights * x.square()).sum(-1) - tilted.square()
        excess = tilted - mean - 1 / rate
        step = excess / (variance.clamp(min=0) + rate**-2)
        rate = (rate - step).clamp(rate / 4, rate * 4)
    return rate


def _log_mean_power(x: Tensor, rate: Tensor) -> Tensor:
    return torch.logsumexp(rate[..., None] * x, -1) - math.log(x.shape[-1])


def _interval(
    below: Tensor, chosen: Tensor, likelihood: Tensor, shape: Tensor, top: Tensor, span: Tensor, *, known: bool
) -> dict[str, Tensor]:
    """End points that the likelihood ratio test does not refuse.

    For shapes below 2 the usual distribution of the ratio does not apply; at 1 it has two degrees of freedom exactly,
    which is the widest case.
    """
    nothing = torch.full_like(top.squeeze(1), math.nan)
    if not known:
        return {"lower": nothing, "upper": nothing}
    quantile = torch.where(shape < 2, WIDE_QUANTILE, QUANTILE)
    threshold = likelihood - quantile / (2 * below.shape[1])

    def crossing(inside: Tensor, outside: Tensor) -> Tensor:
        """On a logarithmic scale between an end point that is not refused and one that is."""
        for _ in range(30):
            middle = (inside * outside).sqrt()
            holds = _profile(below, middle)[0] >= threshold
            inside, outside = torch.where(holds, middle, inside), torch.where(holds, outside, middle)
        return outside

    start, least, farthest = chosen.clamp(min=1e-9), torch.full_like(chosen, 1e-9), torch.full_like(chosen, FARTHEST)
    to_top = _profile(below, torch.zeros_like(chosen))[0] >= threshold
    lower = torch.where(to_top, 0.0, torch.minimum(crossing(start, least), chosen))
    endless = (_gumbel(below) >= threshold) | (_profile(below, farthest)[0] >= threshold)
    upper = torch.where(endless, math.inf, torch.maximum(crossing(start, farthest), chosen))
    return {"lower": (top + span * lower).squeeze(1), "upper": (top + span * upper).squeeze(1)}


def _distance(log_probability: Tensor) -> Tensor:
    """The Kolmogorov-Smirnov distance of values (M, B) of a fitted distribution function from uniform ones."""
    values = log_probability.exp().sort(1).values
    count = values.shape[1]
    steps = torch.arange(count, dtype=values.dtype, device=values.device)
    return torch.maximum((steps + 1) / count - values, values - steps / count).amax(1)
