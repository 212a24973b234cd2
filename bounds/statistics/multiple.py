"""Many binomial tests at once, with a bound on the probability that any of them errs (Holm 1979)."""

from typing import Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.numerics import BETA_FUNCTION_ERROR, round_up

Correction = Literal["holm", "bonferroni"]
CORRECTIONS = ("holm", "bonferroni")


def p_values_of_counts(trials: int, probability: float) -> Tensor:
    """P-values (trials + 1,) of the hypothesis "success has at most this probability", one for each count.

    That of a count k is the probability of k successes or more, rounded up.

    Args:
        trials: number of independent trials.
        probability: at least 0; from 1 on no count speaks against it.

    >>> p_values_of_counts(2, 0.5)
    tensor([1.0000, 0.7500, 0.2500], dtype=torch.float64)
    """
    if probability >= 1:
        return torch.ones(trials + 1, dtype=torch.float64, device="cpu")
    k = np.arange(1, trials + 1, dtype=np.float64)
    tail = torch.from_numpy(np.asarray(special.betainc(k, trials - k + 1, probability), dtype=np.float64))
    return torch.cat([torch.ones_like(tail[:1]), round_up(tail, BETA_FUNCTION_ERROR).clamp(max=1.0)])


def familywise_rejections(p_values: Tensor, alpha: float, correction: str = "holm") -> Tensor:
    """Hypotheses of each row to reject, so that any true one is among them with probability at most alpha.

    The p-values may depend on each other in any way. Holm's procedure takes the p-values in ascending order, and
    compares the i-th of m with ``alpha / (m - i + 1)`` until one is larger. So it rejects all that Bonferroni's
    ``alpha / m`` rejects, and more.

    Args:
        p_values: (N, M) float64.
        alpha: familywise error of each row.
        correction: ``"holm"`` or ``"bonferroni"``.

    Returns:
        (N, M) bool; False where a p-value is NaN.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.

    >>> familywise_rejections(torch.tensor([[0.04, 0.01, 0.03]], dtype=torch.float64), alpha=0.05)
    tensor([[False,  True, False]])
    >>> familywise_rejections(torch.tensor([[0.04, 0.01, 0.02]], dtype=torch.float64), alpha=0.05)
    tensor([[True, True, True]])
    """
    checks.probability("alpha", alpha)
    checks.one_of("correction", correction, CORRECTIONS)
    m = p_values.shape[1]
    if correction == "bonferroni":
        return round_up(p_values * m, 2.0**-52) <= alpha
    ascending, places = p_values.sort(dim=1)  # NaN stands last
    left = torch.arange(m, 0, -1, dtype=torch.float64, device=p_values.device)
    below = round_up(ascending * left, 2.0**-52) <= alpha
    rejected = below.to(torch.int8).cumprod(dim=1).bool()
    return torch.zeros_like(rejected).scatter(1, places, rejected)
