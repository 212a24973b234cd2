"""Regression of generalisation gaps on features of networks, judged by the networks left out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput

if TYPE_CHECKING:
    from statsmodels.regression.linear_model import RegressionResultsWrapper

FEWEST = 5  # networks
PER_COMPONENT = 5  # networks for each component of the features, at least

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class GapRegression:
    """Prediction of the gaps of M networks by their features, see :func:`certify.gap_regression`.

    Attributes:
        gap: (M,) float64, the gaps.
        predicted: (M,) float64, of each network by the regression on the others.
        r2: 1 minus the squared errors of these predictions, as a share of those of the mean of the others; below 0
            where the features predict worse than that mean.
        p_value: probability of an ``r2`` at least as large if gaps had nothing to do with features.
        permutations: behind the p-value.
        components: principal components of the features that the regression uses.
        adjusted_r2: of the fit to all networks, which predicts nothing.
    """

    gap: Tensor
    predicted: Tensor
    r2: float
    p_value: float
    permutations: int
    components: int
    adjusted_r2: float

    def __str__(self) -> str:
        """The result in a sentence."""
        return (
            f"leave-one-out R2 {self.r2:.3f} over {len(self.gap)} networks with {self.components} "
            f"component{'s' if self.components > 1 else ''}, p = {self.p_value:.3g} of {self.permutations} permutations"
        )


def gap_regression(
    features: Tensor,
    gap: Tensor,
    *,
    components: int | None = None,
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> GapRegression:
    """Linear regression of gaps on principal components of features, judged by networks that it did not see.

    For each network, features are standardised, reduced and regressed on by the others alone, which then predict it.
    The p-value compares the leave-one-out R2 with that of permuted gaps. It is exact for networks that are
    exchangeable, such as independent trainings; checkpoints of one training are not, and their p-value is too small.

    Args:
        features: (M, F) floating and finite, of at least five networks.
        gap: (M,) floating and finite, not all equal.
        components: number of principal components; None for one for every five networks.
        permutations: of the gaps, at least 19.
        generator: draws the permutations; torch's default if None.

    Raises:
        InvalidInput: a bad argument, as too many components for the networks.

    References:
        Jiang et al. (2019), arXiv:1810.00113, section 3.4 (linear regression of the gap); Phipson, Smyth (2010), for
        the p-value.
    """
    rows, target = _checked(features, gap)
    count = len(rows)
    most = min(rows.shape[1], count - 3)
    chosen = max(1, min(most, count // PER_COMPONENT)) if components is None else components
    if checks.at_least("components", chosen, 1) > most:
        raise InvalidInput(
            f"components must be at most {most} for {rows.shape[1]} features of {count} networks, got {chosen}: "
            f"pass fewer, or more networks"
        )
    checks.at_least("permutations", permutations, 19)
    others = leave_one_out(rows, chosen)
    source = np.random.default_rng(checks.drawn_seed(generator))
    shuffled = np.stack([target, *(source.permutation(target) for _ in range(permutations))])
    r2 = _explained(others, shuffled)
    reached = int((r2[1:] >= r2[0] - 1e-12).sum())  # rounding differs between permutations that are the same
    device = gap.device
    return GapRegression(
        gap=torch.as_tensor(target, device=device),
        predicted=torch.as_tensor(others @ target, device=device),
        r2=float(r2[0]),
        p_value=(1 + reached) / (1 + permutations),
        permutations=permutations,
        components=chosen,
        adjusted_r2=float(least_squares(rows, target, chosen).rsquared_adj),
    )


def leave_one_out(features: Array, components: int) -> Array:
    """The matrix (M, M) that takes gaps to predictions of each by the regression on the others; 0 on its diagonal."""
    weights = np.zeros((len(features), len(features)))
    for i in range(len(features)):
        rest = np.delete(np.arange(len(features)), i)
        mean, scale, axes = _components(features[rest], components)
        scores = (features - mean) / scale @ axes.T
        design = np.column_stack([np.ones(len(features)), scores])
        weights[i, rest] = design[i] @ np.linalg.pinv(design[rest])
    return weights


def least_squares(features: Array, gap: Array, components: int) -> "RegressionResultsWrapper":
    """The fit of statsmodels to all networks, on the components of their features."""
    import statsmodels.api as sm

    mean, scale, axes = _components(features, components)
    return sm.OLS(gap, sm.add_constant((features - mean) / scale @ axes.T, has_constant="add")).fit()


def _components(features: Array, count: int) -> tuple[Array, Array, Array]:
    """Mean and spread of features, and the first principal axes of the standardised ones."""
    mean, spread = features.mean(0), features.std(0)
    scale = np.where(spread > 1e-12 * np.abs(features).max(0, initial=0), spread, np.inf)  # constant ones say nothing
    axes = np.linalg.svd((features - mean) / scale, full_matrices=False)[2]
    return mean, scale, axes[:count]


def _explained(others: Array, gaps: Array) -> Array:
    """Leave-one-out R2 of each row of gaps (P, M)."""
    count = gaps.shape[1]
    errors = ((gaps - gaps @ others.T) ** 2).sum(1)
    from_mean = ((gaps - gaps.mean(1, keepdims=True)) ** 2).sum(1) * (count / (count - 1)) ** 2  # mean of the others
    explained: Array = 1 - errors / from_mean
    return explained


def _checked(features: Tensor, gap: Tensor) -> tuple[Array, Array]:
    if checks.tensor("features", features).ndim != 2 or not features.isfinite().all() or features.shape[1] == 0:
        raise InvalidInput(
            f"features must be finite, of shape (M, F), got {tuple(features.shape)}: leave out networks without margins"
        )
    checks.rows("gap", gap, len(features))
    if len(features) < FEWEST:
        raise InvalidInput(f"features must be of at least {FEWEST} networks, got {len(features)}: train more of them")
    target = gap.detach().double().cpu().numpy()
    if not np.isfinite(target).all() or np.ptp(target) == 0:
        raise InvalidInput("gap must hold finite numbers that are not all equal: there is nothing to explain")
    return features.detach().double().cpu().numpy(), target
