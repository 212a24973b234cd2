"""Two shares of the same inputs: exact tests and intervals of their difference, and many tests at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bounds import checks
from bounds.statistics.proportions import clopper_pearson_interval

SPLIT = 0.9  # part of alpha for the direction of the difference; the rest is for how often the two differ


def mcnemar_p_value(only_first: int, only_second: int, *, one_sided: bool = False) -> float:
    """Exact p-value of McNemar's test that two shares on the same inputs are equal.

    Of the inputs on which the two models differ, either is as likely to be the right one as the other. The test is
    two-sided; with ``one_sided``, only a larger first share speaks against equality.

    References:
        McNemar (1947), Psychometrika 12; the exact form is the binomial sign test.

    >>> mcnemar_p_value(6, 0), mcnemar_p_value(2, 2), mcnemar_p_value(6, 0, one_sided=True)
    (0.03125, 1.0, 0.015625)
    """
    from scipy.stats import binom

    if one_sided:
        return float(binom.sf(only_first - 1, only_first + only_second, 0.5))
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), only_first + only_second, 0.5)))


def paired_interval(only_first: int, only_second: int, inputs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two shares on the same inputs, first minus second.

    It holds the difference in the population that the inputs were drawn from with probability at least ``confidence``,
    whatever the two models are: it rests on two exact (Clopper-Pearson) intervals, of how often the models differ and
    of which of them is right then, at a tenth and at nine tenths of the error. So it is somewhat wider than
    approximations, and where it leaves out 0, McNemar's exact test rejects too.

    Args:
        only_first: inputs that the first model has right and the second has not.
        only_second: inputs the other way round.
        inputs: all of them.
        confidence: probability of holding the difference, at least.
    """
    alpha, differ = 1 - checks.probability("confidence", confidence), only_first + only_second
    low, high = _ends(differ, inputs, 1 - (1 - SPLIT) * alpha)
    first_low, first_high = _ends(only_first, differ, 1 - SPLIT * alpha) if differ else (0.0, 1.0)
    lower, upper = 2 * first_low - 1, 2 * first_high - 1
    return lower * (high if lower < 0 else low), upper * (high if upper > 0 else low)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's method: all that stay below a level are wrong at once no oftener.

    References:
        Holm (1979), Scandinavian Journal of Statistics 6.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p, count = np.asarray(p_values, dtype=np.float64), len(p_values)
    order, corrected = np.argsort(p, kind="stable"), np.empty(count)
    corrected[order] = np.maximum.accumulate((count - np.arange(count)) * p[order]).clip(max=1.0)
    return [float(each) for each in corrected]


def discordant(first: Tensor, second: Tensor) -> tuple[int, int]:
    """Numbers of inputs, of two (N,) bool, that the first alone and that the second alone has right."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def _ends(count: int, trials: int, confidence: float) -> tuple[float, float]:
    lower, upper = clopper_pearson_interval(torch.tensor(count, device="cpu"), trials, confidence=confidence)
    return float(lower), float(upper)
