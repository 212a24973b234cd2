r"""Tests and bounds for a proportion that hold at every moment of a growing sample.

For successes A among n draws and the hypothesis p <= p0, the evidence

.. math:: E_n = \int_{p_0}^1 \left(\frac{q}{p_0}\right)^A \left(\frac{1-q}{1-p_0}\right)^{n-A} d\pi(q)

with Jeffreys' prior truncated to (p0, 1) is a non-negative supermartingale under every p <= p0, since each factor has
conditional mean (p/p0) q + ((1-p)/(1-p0)) (1-q) <= 1 there. By Ville's inequality it ever reaches 1/alpha with
probability at most alpha: the sample may be looked at after every draw, stopped at will, and continued later.

References:
    Ville (1939), Etude critique de la notion de collectif; Robbins (1970), Statistical methods related to the law of
    the iterated logarithm; Voracek (2024), arXiv:2406.17830, for the use in randomized smoothing.
"""

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import round_down
from bounds.statistics.proportions import FloatArray, trials_of

# Absolute error allowed to a logarithm of the evidence, per draw and in all; measured against 50 digits in the tests.
ERROR_PER_DRAW, ERROR = 1e-14, 1e-9
LARGEST_ALPHA = 0.2  # the evidence is known to fall with p0 where it is at least 5


def log_evidence_above(successes: Tensor, trials: int | Tensor, p0: float | Tensor) -> Tensor:
    """Logarithm of the evidence that the success probability exceeds ``p0``, rounded down.

    Reject p <= p0 as soon as it reaches ``log(1 / alpha)``: whatever the rule for stopping, that happens with
    probability at most ``alpha`` if p <= p0.

    Args:
        successes: integer tensor of any shape, successes so far.
        trials: draws so far, one number for all or one for each.
        p0: threshold inside (0, 1), one for all or one for each.

    Returns:
        float64 tensor on the device of ``successes``; minus infinity where the evidence underflows.

    Raises:
        InvalidInput: successes outside [0, trials], p0 outside (0, 1).
    """
    a, n, threshold = _arrays(successes, trials, p0)
    return _rounded_down(_log_evidence(a, n, threshold, 1 - threshold), n).to(successes.device)


def log_evidence_below(successes: Tensor, trials: int | Tensor, p0: float | Tensor) -> Tensor:
    """Logarithm of the evidence that the success probability lies below ``p0``; see :func:`log_evidence_above`."""
    a, n, threshold = _arrays(successes, trials, p0)
    return _rounded_down(_log_evidence(n - a, n, 1 - threshold, threshold), n).to(successes.device)


def sequential_lower(successes: Tensor, trials: int | Tensor, *, alpha: float = 1e-3) -> Tensor:
    """Lower confidence bound for a success probability, valid at all sample sizes at once.

    With probability at least ``1 - alpha``, none of the bounds computed after any number of draws exceeds the
    probability. The price against a bound for one fixed sample size is small: about 1 % of the certified radius
    at 100,000 draws.

    Args:
        successes: integer tensor of any shape.
        trials: draws so far, one number for all or one for each.
        alpha: failure probability, at most 0.2.

    Returns:
        float64 tensor on the device of ``successes``, rounded down; 0 without success.

    Raises:
        InvalidInput: successes outside [0, trials], alpha outside (0, 0.2].
    """
    checks.at_most("alpha", checks.probability("alpha", alpha), LARGEST_ALPHA)
    a, n, _ = _arrays(successes, trials, 0.5)
    # Rows of one experiment often agree: each pair is worked on once.
    (a, n), back = np.unique(np.stack([a.ravel(), n.ravel()]), axis=1, return_inverse=True)
    limit = math.log(1 / alpha) + ERROR + ERROR_PER_DRAW * n
    rejected, open_ = np.zeros(a.shape), np.where(n > 0, a / np.maximum(n, 1), 0.0)
    for _ in range(60):  # the evidence against p0 falls as p0 grows towards the share of successes
        middle = (rejected + open_) / 2
        p0 = np.clip(middle, 1e-300, None)
        reject = (_log_evidence(a, n, p0, 1 - p0) >= limit) & (middle > 0)
        rejected, open_ = np.where(reject, middle, rejected), np.where(reject, open_, middle)
    bound = torch.from_numpy(np.asarray(rejected[back])).view(successes.shape)
    return round_down(bound).clamp(min=0.0).to(successes.device)


def _arrays(successes: Tensor, trials: int | Tensor, p0: float | Tensor) -> tuple[FloatArray, ...]:
    if checks.tensor("successes", successes).is_floating_point() or successes.dtype == torch.bool:
        raise InvalidInput(f"successes must be integers, got {successes.dtype}: convert with successes.long()")
    a = successes.detach().cpu().double().numpy()
    n = np.broadcast_to(trials_of(trials).double().numpy(), a.shape)
    if isinstance(p0, Tensor):
        if p0.shape not in ((), a.shape):
            raise InvalidInput(f"p0 must be a number or have the shape of successes, {a.shape}, got {tuple(p0.shape)}")
        threshold = np.broadcast_to(p0.detach().cpu().double().numpy(), a.shape)
    else:
        threshold = np.broadcast_to(np.float64(checks.probability("p0", p0)), a.shape)
    if not ((a >= 0) & (a <= n)).all():
        wrong = ~((a >= 0) & (a <= n))
        shown = f"{a[wrong][:5].tolist()} of {n[wrong][:5].tolist()}"
        raise InvalidInput(f"successes must lie in [0, trials], got {shown}: exchange the two?")
    if not ((threshold > 0) & (threshold < 1)).all():
        raise InvalidInput(f"p0 must lie strictly between 0 and 1, got {p0}")
    return a, n, threshold


def _log_evidence(a: FloatArray, n: FloatArray, p0: FloatArray, q0: FloatArray) -> FloatArray:
    """Rounded to nearest. ``q0`` is 1 - p0; the smaller of the two must be exact, the larger may round to 1."""
    small = p0 < 0.5
    with np.errstate(divide="ignore"):  # the logarithm of a tail that underflows is minus infinity, as it should be
        above = np.log(_upper_tail(a + 0.5, n - a + 0.5, p0, q0)) - np.log(_upper_tail(0.5, 0.5, p0, q0))
        log_p, log_q = (np.where(small, np.log(p0), np.log1p(-q0)), np.where(small, np.log1p(-p0), np.log(q0)))
    mixture = special.betaln(a + 0.5, n - a + 0.5) - special.betaln(0.5, 0.5)
    evidence: FloatArray = mixture + above - a * log_p - (n - a) * log_q
    return evidence


def _upper_tail(a: FloatArray | float, b: FloatArray | float, p: FloatArray, q: FloatArray) -> FloatArray:
    """Probability of a Beta(a, b) variable above p, where q is 1 - p."""
    tail: FloatArray = np.where(p < 0.5, special.betaincc(a, b, p), special.betainc(b, a, q))
    return tail


def _rounded_down(evidence: FloatArray, n: FloatArray) -> Tensor:
    return torch.from_numpy(np.asarray(evidence - ERROR - ERROR_PER_DRAW * n))
