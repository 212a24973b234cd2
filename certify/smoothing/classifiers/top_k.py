"""Certificates that a class stays among the k likeliest ones of a smoothed classifier.

The label leaves the k likeliest classes only if k others are at least as likely, and then the average probability
of any t of these, 1 <= t <= k, is at least that of the label. A shift of the input raises the probability of t classes
together only so far. Taking the t least likely of k classes gives a radius for every t, and the largest counts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_lower, clopper_pearson_upper
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from bounds.numerics import complement, lowered, raised, round_down, round_up
from certify.results import Certificate, Drawn
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.classifiers.estimation import votes_for
from certify.smoothing.drawing.votes import Stage, draw_run_seed
from certify.smoothing.noises.base import Gaussian

LARGEST_SHIFT = 40.0  # in units of sigma; no float64 probability certifies a larger one
SHIFT_STEPS = 64  # halvings of that interval
NORMAL_TAIL_ERROR = 1e-11  # relative, of a normal tail up to that shift, most of it from rounding the argument


@dataclass(frozen=True, eq=False, kw_only=True)
class TopKCertificate(Drawn, Certificate):
    """Radii within which a given class stays among the k likeliest of a smoothed classifier.

    ``label`` is the class asked about, not a prediction. So :meth:`certified` with the correct labels, and a
    curve made from the record, speak of certified top-k accuracy.

    Attributes:
        k: number of classes among which the label stays.
        counts: (N, K) int64, votes; the rows sum to ``n - invalid``.
        invalid: (N,) int64, draws without a vote because a logit was NaN.
        p_lower: (N,) float64, lower confidence bound of the probability of ``label``.
        p_upper: (N, k) float64, upper bounds of the k largest probabilities of other classes, in descending order.
        n: draws per input.
    """

    k: int
    counts: Tensor
    invalid: Tensor
    p_lower: Tensor
    p_upper: Tensor
    n: int


@in_deployed_precision
def certify_top_k(
    smoothed: SmoothedClassifier,
    x: Tensor,
    labels: Tensor,
    k: int,
    n: int = 100_000,
    alpha: float = 1e-3,
    *,
    generator: torch.Generator | None = None,
    first_index: int = 0,
) -> TopKCertificate:
    """L2 radius within which each label stays among the k likeliest classes of the smoothed classifier.

    For each row, the statement "for every input within ``radius``, fewer than k classes are at least as likely under
    the noise as ``label``" is false with probability at most ``alpha``. The labels are given, so that no draws
    are spent on selecting them. A certificate for k holds for every larger k too, though not as the largest radius.

    Args:
        smoothed: with Gaussian noise.
        x: (N, *D), floating and finite.
        labels: (N,) integer, chosen without looking at the draws: the correct classes, or predictions from others.
        k: from 1 to K - 1.
        n: noise draws per input.
        alpha: failure probability, per row.
        generator: supplies the run seed (one draw from it).
        first_index: index of row 0 in its data set.

    Returns:
        A certificate; rows abstain where not even the inputs themselves are certified.

    Raises:
        InvalidInput: a bad argument, noise that is not Gaussian.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Jia, Cao, Wang, Gong (2020), Certified robustness for top-k predictions against adversarial perturbations
        via randomized smoothing, arXiv:1912.09899, Theorem 1; they pay for K bounds where :func:`top_k_bounds` pays
        for k + 1.
    """
    if not isinstance(smoothed, SmoothedClassifier):
        raise InvalidInput(f"smoothed must be a SmoothedClassifier, got {type(smoothed).__name__}")
    if not isinstance(smoothed.noise, Gaussian):
        raise InvalidInput(f"smoothed must have Gaussian noise, which the theorem is about, got {smoothed.noise}")
    checks.probability("alpha", alpha)
    n = checks.at_least("n", n, 1)
    k = _among(k, smoothed.num_classes)
    labels = checks.labels(labels, len(checks.inputs(x)), smoothed.num_classes).to(x.device)
    sampling = smoothed.sampling(x, n, draw_run_seed(generator), first_index)
    votes = sampling.votes(smoothed.num_classes, n, Stage.ESTIMATION)
    lower, upper = top_k_bounds(votes[:, :-1], labels, k, n, alpha, sampling.error)
    radius, certified = _radius(lower, upper, smoothed.noise.sigma)
    return TopKCertificate(
        label=labels,
        radius=radius,
        abstained=~certified,
        norm=smoothed.noise.norm,
        alpha=alpha,
        method="top-k smoothing",
        k=k,
        counts=votes[:, :-1],
        invalid=votes[:, -1],
        p_lower=lower,
        p_upper=upper,
        n=n,
        **smoothed.provenance(sampling, f"top-{k} of "),
    )


def top_k_bounds(
    counts: Tensor, labels: Tensor, k: int, n: int, alpha: float = 1e-3, error: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Bounds of the probability of each label, from below, and of the k largest others, from above.

    All k + 1 hold at once with probability at least ``1 - alpha``; each has an equal share of alpha. The k likeliest
    other classes, whichever they are, do not depend on the draws. If the bounds of these hold, so does that of the
    j-th largest count for the j-th largest probability: among the j likeliest classes one has at most the j-th
    largest count, and bounds grow with the count. The remaining classes need no share.

    Args:
        counts: (N, K) int64, votes of ``n`` draws each; what is missing voted for no class.
        labels: (N,) int64, chosen without looking at the draws.
        k: from 1 to K - 1.
        n: draws.
        alpha: failure probability, per row.
        error: total variation distance between the noise as drawn and as it should be.

    Returns:
        (N,) and (N, k) float64; the second in descending order.

    Raises:
        InvalidInput: k or counts out of range; alpha outside (0, 1).
    """
    share = checks.probability("alpha", alpha) / (_among(k, counts.shape[1]) + 1)
    lower = lowered(clopper_pearson_lower(votes_for(labels, counts), n, alpha=share), error)
    others = counts.scatter(1, labels[:, None], -1).topk(k, dim=1).values
    return lower, raised(clopper_pearson_upper(others, n, alpha=share), error)


def top_k_radius(p_lower: Tensor, p_upper: Tensor, sigma: float) -> Tensor:
    """L2 radius within which a label stays among the k likeliest classes, from bounds of the probabilities.

    For t = 1, ..., k let S be the sum of the t smallest of the bounds ``p_upper``, or ``1 - p_lower`` if that is less.
    The radius is the largest r for which some t has
    ``Phi(Phi^-1(p_lower) - r / sigma) > Phi(Phi^-1(S) + r / sigma) / t``.

    Args:
        p_lower: (N,) float64, lower bound of the probability of the label.
        p_upper: (N, k) float64, upper bounds of the k largest probabilities of other classes, in descending order.
        sigma: standard deviation of the noise.

    Returns:
        (N,) float64, rounded down; 0 where nothing is certified.

    References:
        Jia et al. (2020), arXiv:1912.09899, Theorem 1.

    >>> half, fifth = torch.tensor([0.5], dtype=torch.float64), torch.full((1, 3), 0.2, dtype=torch.float64)
    >>> top_k_radius(half, fifth[:, :1], sigma=1.0), top_k_radius(half, fifth, sigma=1.0)
    (tensor([0.4208], dtype=torch.float64), tensor([0.6745], dtype=torch.float64))
    """
    return _radius(p_lower, p_upper, checks.positive("sigma", sigma))[0]


def _radius(p_lower: Tensor, p_upper: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Radii (N,), and (N,) bool: anything is certified."""
    k = p_upper.shape[1]
    t = torch.arange(1, k + 1, dtype=torch.float64, device=p_lower.device)
    together = round_up(p_upper.flip(1).cumsum(1), k * 2.0**-52)
    together = torch.minimum(together, complement(p_lower)[:, None]).clamp(max=1.0)
    own = round_down(torch.special.ndtri(p_lower))[:, None]
    others = round_up(torch.special.ndtri(together))

    def holds(shift: Tensor) -> Tensor:
        return t * _normal_probability(own - shift) * (1 - NORMAL_TAIL_ERROR) > _normal_probability(others + shift) * (
            1 + NORMAL_TAIL_ERROR
        )

    # The left side falls and the right side grows with the shift, so `low` stays on the side that is certified.
    low = torch.zeros_like(together)
    high = torch.full_like(together, LARGEST_SHIFT)
    certified = holds(low)
    for _ in range(SHIFT_STEPS):
        middle = (low + high) / 2
        inside = holds(middle)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    shift = torch.where(certified, low, 0.0).amax(1)
    return round_down(sigma * shift).clamp(min=0.0), certified.any(1)


def _normal_probability(z: Tensor) -> Tensor:
    """The normal distribution function; torch.special.ndtr loses digits in its tail."""
    tail: Tensor = torch.special.erfc(-z / 2**0.5)
    return tail / 2


def _among(k: int, num_classes: int) -> int:
    checks.at_most("k", checks.at_least("k", k, 1), num_classes - 1)
    return k
