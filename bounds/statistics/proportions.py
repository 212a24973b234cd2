"""Exact confidence bounds for a binomial proportion (Clopper and Pearson 1934)."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import round_down

FloatArray = NDArray[np.float64]


def clopper_pearson_lower(counts: Tensor, trials: int | Tensor, *, alpha: float = 1e-3) -> Tensor:
    """One-sided lower confidence bound for a success probability.

    Each bound is at most the true probability with probability at least ``1 - alpha`` over the trials,
    provided that the trials are independent and ``alpha``, ``trials`` were fixed beforehand.

    Args:
        counts: integer tensor of any shape, successes.
        trials: number of trials, one for all or one for each count.
        alpha: failure probability of each bound.

    Returns:
        float64 tensor shaped and placed like ``counts``, rounded down; 0 where there is no success.

    Raises:
        InvalidInput: a count outside [0, trials]; alpha outside (0, 1).

    References:
        Clopper, Pearson (1934), The use of confidence or fiducial limits, Biometrika 26.

    >>> clopper_pearson_lower(torch.tensor([0, 90, 100]), 100, alpha=0.05)
    tensor([0.0000, 0.8363, 0.9705], dtype=torch.float64)
    """
    checks.probability("alpha", alpha)
    k, n = _counts_of_trials(counts, trials)
    successes, failures = k.clamp(min=1).double().numpy(), (n - k + 1).double().numpy()
    bound = np.asarray(special.betaincinv(successes, failures, alpha), dtype=np.float64)
    # Below 1e-200 SciPy has no answer at times. P(X >= k | p) is at most p**k for each choice of k trials, added up.
    choices = -np.log(successes + failures) - special.betaln(failures, successes + 1)
    bound = np.where(np.isnan(bound), np.exp((np.log(alpha) - choices) / successes) * (1 - 1e-12), bound)
    # The defining inequality is P(X >= k | p) <= alpha: step down until the tail function agrees.
    step = 2.0**-50
    while (over := _tail_exceeds(successes, failures, bound, alpha)).any():
        bound = np.where(over, bound * (1 - step), bound)
        step *= 2
    lower = torch.where(k > 0, round_down(torch.from_numpy(bound)).clamp(min=0.0), 0.0)
    return lower.to(counts.device)


def _counts_of_trials(counts: Tensor, trials: int | Tensor) -> tuple[Tensor, Tensor]:
    """Both as int64 on the CPU and of one shape, after checking them."""
    if checks.tensor("counts", counts).is_floating_point() or counts.dtype == torch.bool:
        raise InvalidInput(f"counts must be integers, got {counts.dtype}: convert with counts.long()")
    k = counts.detach().cpu().to(torch.int64)
    n = trials_of(trials).expand_as(k)
    wrong = (k < 0) | (k > n) | (n < 1)
    if wrong.any():
        shown = f"{k[wrong][:5].tolist()} of {n[wrong][:5].tolist() if isinstance(trials, Tensor) else trials}"
        raise InvalidInput(f"counts must lie in [0, trials] with trials at least 1, got {shown}: exchange the two?")
    return k, n


def trials_of(trials: int | Tensor) -> Tensor:
    """Numbers of trials as int64 on the CPU; a fraction is refused, since cutting it makes bounds too large."""
    whole = isinstance(trials, int | np.integer) and not isinstance(trials, bool)
    if isinstance(trials, Tensor):
        whole = not (trials.is_floating_point() or trials.is_complex() or trials.dtype == torch.bool)
    if not whole:
        shown = trials.dtype if isinstance(trials, Tensor) else repr(trials)
        raise InvalidInput(f"trials must be an integer or a tensor of integers, got {shown}: pass the number of draws")
    if isinstance(trials, Tensor):
        return trials.detach().cpu().to(torch.int64)
    return torch.tensor(trials, dtype=torch.int64, device="cpu")


def _tail_exceeds(successes: FloatArray, failures: FloatArray, p: FloatArray, alpha: float) -> NDArray[np.bool_]:
    """Whether P(X >= k | p) > alpha, where ``failures`` is n - k + 1."""
    if alpha <= 0.5:
        return np.asarray(special.betainc(successes, failures, p) > alpha)
    # SciPy loses digits of a tail close to 1, but none of the other tail; 1 - alpha is exact here.
    return np.asarray(special.betaincc(successes, failures, p) < 1 - alpha)


def clopper_pearson_upper(counts: Tensor, trials: int | Tensor, *, alpha: float = 1e-3) -> Tensor:
    """One-sided upper confidence bound for a success probability, rounded up; 1 where every trial succeeded.

    The mirror image of :func:`clopper_pearson_lower`, with the same arguments, guarantee and errors.

    >>> clopper_pearson_upper(torch.tensor([0, 10, 100]), 100, alpha=0.05)
    tensor([0.0295, 0.1637, 1.0000], dtype=torch.float64)
    """
    k, n = _counts_of_trials(counts, trials)
    complement = clopper_pearson_lower((n - k).to(counts.device), n, alpha=alpha)
    # 1 - complement rounds to nearest; one step up keeps it a bound, and 1 is always one.
    upper = torch.nextafter(1 - complement, torch.full_like(complement, torch.inf))
    return upper.clamp(max=1.0)


def clopper_pearson_interval(
    counts: Tensor, trials: int | Tensor, *, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Two-sided interval that holds the success probability with probability at least ``confidence``.

    Arguments and errors as in :func:`clopper_pearson_lower`; returns the lower and the upper end.
    """
    alpha = (1 - checks.probability("confidence", confidence)) / 2
    return clopper_pearson_lower(counts, trials, alpha=alpha), clopper_pearson_upper(counts, trials, alpha=alpha)
