"""The figures by which surveys compare models: distances, accuracy under attack, accuracy under noise, in each norm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scipy import stats
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from certify.attacks.common.threat import checked_norm
from certify.attacks.fixed_budget.robust_accuracy import robust_accuracy
from certify.attacks.minimum_norm.minimal_perturbation import minimal_perturbation
from certify.attacks.studies.noise_accuracy import noise_accuracy
from certify.results import Record, share_interval

if TYPE_CHECKING:
    import pandas as pd

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class NormFigures(Record):
    """Figures of one norm, all of them upper bounds but the accuracy under noise.

    Attacks may miss a nearer adversarial input: minimal distances, their mean and median, and the robust accuracy can
    be smaller than what is stated here, not larger. Misclassified inputs count as distance 0 and as not robust.
    Intervals are for other inputs drawn as these were, and hold what these attacks reach on them; so only their upper
    ends speak of the model.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        distance: (N,) float64, of the nearest adversarial input found, in units of the input; infinite where none was.
        robust: (N,) bool, True where the clean input is classified correctly and nothing was found within ``epsilon``.
        noise_correct: (N,) int64, noisy copies at distance ``epsilon`` that are classified correctly; None in l_0.
        noise_first_correct: (N,) bool, whether the first of them is; None in l_0.
        draws: noisy copies of each input.
        epsilon: the budget, in units of the input.
        norm: order of the norm.
        subject: the classifier it speaks of.
    """

    distance: Tensor
    robust: Tensor
    noise_correct: Tensor | None
    noise_first_correct: Tensor | None
    draws: int
    epsilon: float
    norm: float
    subject: str = "base"

    @property
    def mean_distance(self) -> float:
        """Upper bound on the mean minimal distance; infinite if an input was never broken."""
        return float(self.distance.mean())

    def mean_distance_interval(self, alpha: float = 0.05) -> Interval:
        """Student's interval for the mean of such distances, with a coverage of about ``1 - alpha`` for many inputs.

        From 0 to infinity, which is always true, if an input was never broken or there is only one.
        """
        alpha, count = checks.probability("alpha", alpha), len(self)
        if count < 2 or not self.distance.isfinite().all():
            return 0.0, math.inf
        half = float(stats.t.isf(alpha / 2, count - 1) * self.distance.std() / math.sqrt(count))
        return max(self.mean_distance - half, 0.0), self.mean_distance + half

    @property
    def median_distance(self) -> float:
        """Upper bound on the median minimal distance, the larger middle value of an even number of them."""
        return float(self.distance.sort().values[len(self) // 2]) if len(self) else math.nan

    def median_distance_interval(self, alpha: float = 0.05) -> Interval:
        """Exact interval for the median of such distances, between two of them: whatever their distribution.

        It holds with probability at least ``1 - alpha``; a side is open if there are too few inputs for it.
        """
        alpha, count = checks.probability("alpha", alpha), len(self)
        rank = int(stats.binom.ppf(alpha / 2, count, 0.5)) if count else 0  # of the smallest value that may be below
        if rank == 0:
            return 0.0, math.inf
        ordered = self.distance.sort().values
        return float(ordered[rank - 1]), float(ordered[count - rank])

    @property
    def robust_accuracy(self) -> float:
        """Upper bound on the accuracy under the worst perturbation within ``epsilon``."""
        return float(self.robust.double().mean())

    def robust_accuracy_interval(self, alpha: float = 0.05) -> Interval:
        """Exact (Clopper-Pearson) interval for the accuracy under these attacks, of probability ``1 - alpha``."""
        return share_interval(self.robust, alpha)

    @property
    def noise_accuracy(self) -> float:
        """Share of noisy copies, uniform among perturbations of size ``epsilon``, that are right; NaN in l_0."""
        return math.nan if self.noise_correct is None else float(self.noise_correct.double().mean()) / self.draws

    def noise_accuracy_interval(self, alpha: float = 0.05) -> Interval:
        """Exact interval for the accuracy under noise, from the first copy of each input; (0, 1) in l_0."""
        return (0.0, 1.0) if self.noise_first_correct is None else share_interval(self.noise_first_correct, alpha)


@dataclass(frozen=True, eq=False, kw_only=True)
class RobustnessFigures:
    """Figures of a model in several norms, by the order of the norm; see :class:`NormFigures`."""

    norms: Mapping[float, NormFigures]

    def to_dataframe(self, alpha: float = 0.05) -> "pd.DataFrame":
        """One row per norm; each figure with its interval of probability ``1 - alpha``, ends in columns of their own.

        Columns of upper bounds say ``at_most``.
        """
        import pandas as pd

        lines = []
        for norm, figures in self.norms.items():
            line: dict[str, float] = {"norm": norm, "epsilon": figures.epsilon, "inputs": len(figures)}
            for name, value, ends in (
                ("mean_distance_at_most", figures.mean_distance, figures.mean_distance_interval(alpha)),
                ("median_distance_at_most", figures.median_distance, figures.median_distance_interval(alpha)),
                ("robust_accuracy_at_most", figures.robust_accuracy, figures.robust_accuracy_interval(alpha)),
                ("noise_accuracy", figures.noise_accuracy, figures.noise_accuracy_interval(alpha)),
            ):
                line |= {name: value, f"{name}_lower": ends[0], f"{name}_upper": ends[1]}
            lines.append(line)
        return pd.DataFrame(lines)


@isolated
def robustness_figures(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    epsilons: Mapping[float, float],
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    method: str = "descents",
    draws: int = 100,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> RobustnessFigures:
    """Minimal distances, robust accuracy and accuracy under noise of the same size, in each norm asked for.

    In each norm runs :func:`minimal_perturbation`; but for l_0, :func:`robust_accuracy` and :func:`noise_accuracy` as
    well. What one attack found counts for both figures.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        epsilons: the budget in each norm, by its order: 0, 1, 2 or ``math.inf``.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where an entry must stay as it is.
        method: of :func:`minimal_perturbation`, ``"descents"`` or ``"best"``.
        draws: noisy copies of each input.
        batch_size: inputs attacked at once.
        generator: source of random starts and noise.

    Raises:
        InvalidInput: a bad argument; no norm.
        InvalidModel: see :func:`certify.models.probe`.
    """
    if not epsilons:
        raise InvalidInput("epsilons must hold a budget for at least one norm, got none: pass {2: 0.5}, for example")
    budgets = {
        checked_norm(norm, (0, 1, 2, math.inf)): checks.nonnegative("epsilon", e) for norm, e in epsilons.items()
    }
    norms = {}
    for norm, epsilon in budgets.items():
        shared: dict[str, Any] = {"norm": norm, "low": low, "high": high, "frozen_features": frozen_features}
        shared |= {"batch_size": batch_size, "generator": generator}
        witness = minimal_perturbation(model, x, labels, method=method, **shared)
        distance, noise = witness.distance, None
        if norm > 0:
            attacked = robust_accuracy(model, x, labels, epsilon=epsilon, **shared)
            distance = torch.minimum(distance, attacked.distance)
            noise = noise_accuracy(model, x, labels, epsilon=epsilon, draws=draws, **shared)
        norms[norm] = NormFigures(
            label=witness.label,
            distance=distance,
            robust=(distance > epsilon) & (witness.label == labels.to(x.device)),
            noise_correct=None if noise is None else noise.correct,
            noise_first_correct=None if noise is None else noise.first_correct,
            draws=draws,
            epsilon=epsilon,
            norm=norm,
        )
    return RobustnessFigures(norms=norms)
