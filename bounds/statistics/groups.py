"""Shares of several groups: intervals that hold at once, and the test that all are equal."""

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bounds import checks
from bounds.statistics.proportions import clopper_pearson_interval

TABLES = 20_000  # tables of counts, at most, that are enumerated
DRAWS = 9_999  # permutations, where there are more
EXPECTED = 5.0  # with smaller expected counts, the chi-square law is no good approximation


def simultaneous_intervals(counts: Tensor, trials: Tensor, *, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """Lower and upper ends that hold the shares of all groups at once with probability at least ``confidence``.

    Each is an exact (Clopper-Pearson) interval. Groups of different inputs are independent, so it is enough that each
    alone has the confidence ``confidence ** (1 / G)`` (Sidak), which is a little less than Bonferroni asks.

    Args:
        counts: (G,) int64, successes.
        trials: (G,) int64, at least 1 each.
        confidence: that all G intervals hold.
    """
    groups = max(len(counts), 1)
    return clopper_pearson_interval(
        counts, trials, confidence=checks.probability("confidence", confidence) ** (1 / groups)
    )


def equality_test(counts: Sequence[int], trials: Sequence[int], *, seed: int = 0) -> tuple[float, str]:
    """P-value of the test that G groups have equal shares, and its name.

    Pearson's chi-square statistic. Where all expected counts are 5 or more, its limit law gives the p-value. Where some
    are less, the law of the statistic under permutations of the inputs does: all tables of counts with the same total,
    if they are few, else 9,999 seeded draws, which give a valid p-value too.

    Args:
        counts: G successes.
        trials: G numbers of inputs, at least 1 each.
        seed: of the draws.
    """
    n, k = np.asarray(trials, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    total, successes = int(n.sum()), int(k.sum())
    if len(n) < 2 or successes in (0, total):
        return 1.0, "nothing to test"
    expected = min(successes, total - successes) * n / total
    if (expected >= EXPECTED).all():
        from scipy.stats import chi2

        share = successes / total
        statistic = float(((k - n * share) ** 2 / n).sum()) / (share * (1 - share))
        return float(chi2.sf(statistic, len(n) - 1)), "chi-square test"
    if prod(int(size) + 1 for size in n[:-1]) <= TABLES:
        return _enumerated(k, n, successes), "exact permutation test"
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(n, successes, size=DRAWS)
    at_least = int((_spread(drawn, n) >= _spread(k, n) * (1 - 1e-12)).sum())
    return (1 + at_least) / (1 + DRAWS), "permutation test"


def _spread(counts: NDArray[np.int64], trials: NDArray[np.int64]) -> NDArray[np.float64]:
    """A statistic that grows with Pearson's, where the total of the counts is given."""
    spread: NDArray[np.float64] = (counts.astype(float) ** 2 / trials).sum(-1)
    return spread


def _enumerated(k: NDArray[np.int64], n: NDArray[np.int64], successes: int) -> float:
    """Probability of a statistic of at least that of ``k`` under the multivariate hypergeometric law."""
    from scipy.special import gammaln

    first = np.array(list(product(*(range(int(size) + 1) for size in n[:-1]))), dtype=np.int64)
    last = successes - first.sum(1)
    tables = np.column_stack([first, last])[(last >= 0) & (last <= n[-1])]
    weights = (gammaln(n + 1) - gammaln(tables + 1) - gammaln(n - tables + 1)).sum(1)
    weights = np.exp(weights - weights.max())
    extreme = _spread(tables, n) >= _spread(k, n) * (1 - 1e-12)
    return float(min(weights[extreme].sum() / weights.sum(), 1.0))
