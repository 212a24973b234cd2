"""ROC curves of two samples of scores, with the area below and its interval."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_interval
from bounds.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class RocCurve:
    """The ROC curve of a score that tells inputs of the known classes from others: high scores count as known.

    Attributes:
        inside: (N,) float64, scores of inputs of the known classes.
        outside: (M,) float64, scores of others.
        name: what the scores are.
    """

    inside: Tensor
    outside: Tensor
    name: str = "scores"

    def __post_init__(self) -> None:
        for name in ("inside", "outside"):
            scores = checks.tensor(name, getattr(self, name))
            if scores.ndim != 1 or len(scores) == 0 or scores.isnan().any():
                raise InvalidInput(f"{name} must be one score for each of at least one input and no NaN, got {scores}")

    @property
    def auc(self) -> float:
        """Probability that a known input scores higher than another one, of those at hand; a tie counts as half."""
        return float(self._shares_below().mean())

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval for the area on new inputs, drawn as these were.

        DeLong's variance, on the logit scale: it holds the area with about the stated probability. Where the variance
        is 0, as of an area of 0 or 1, it is the exact (Clopper-Pearson) interval of disjoint pairs of inputs.

        References:
            DeLong, DeLong, Clarke-Pearson (1988), Comparing the areas under two or more correlated receiver operating
            characteristic curves, Biometrics 44, 837-845; Pepe (2003), The statistical evaluation of medical tests for
            classification and prediction, section 5.2.5, for the scale.
        """
        alpha = 1 - checks.probability("confidence", confidence)
        above, below = self._shares_below(), _shares_below(-self.outside, -self.inside)
        area = float(above.mean())
        variance = sum(float(shares.var()) / len(shares) if len(shares) > 1 else math.inf for shares in (above, below))
        if not 0 < area < 1 or not 0 < variance < math.inf:
            return self._of_pairs(confidence)
        reach = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(variance) / (area * (1 - area))
        center = math.log(area / (1 - area))
        return _logistic(center - reach), _logistic(center + reach)

    def threshold(self, tpr: float = 0.95) -> float:
        """The highest score that at least the share ``tpr`` of the known inputs at hand reaches."""
        needed = math.ceil(checks.probability("tpr", tpr) * len(self.inside) - 1e-9)
        return float(self.inside.sort(descending=True).values[max(needed, 1) - 1])

    def fpr(self, tpr: float = 0.95) -> float:
        """Share of the other inputs that reach the threshold, and pass as known."""
        return float((self.outside >= self.threshold(tpr)).double().mean())

    def fpr_interval(self, tpr: float = 0.95, confidence: float = 0.95) -> tuple[float, float]:
        """Exact (Clopper-Pearson) interval for that share of new other inputs, at the threshold as it is."""
        passed = (self.outside >= self.threshold(tpr)).sum()
        lower, upper = clopper_pearson_interval(passed, len(self.outside), confidence=confidence)
        return float(lower), float(upper)

    def points(self) -> tuple[Tensor, Tensor]:
        """False and true positive rates at every threshold, from (0, 0) to (1, 1), (P,) float64 each."""
        scores = torch.cat([self.inside, self.outside]).unique().flip(0)
        rates = [torch.searchsorted(part.sort().values, scores) for part in (self.outside, self.inside)]
        sizes = len(self.outside), len(self.inside)
        found = [1 - below.double() / size for below, size in zip(rates, sizes, strict=True)]
        return tuple(torch.cat([rate.new_zeros(1), rate]) for rate in found)  # type: ignore[return-value]

    def to_dataframe(self) -> "pd.DataFrame":
        """Columns false_positive_rate and true_positive_rate."""
        import pandas as pd

        names = ("false_positive_rate", "true_positive_rate")
        return pd.DataFrame({name: rate.cpu().numpy() for name, rate in zip(names, self.points(), strict=True)})

    def plot(self, ax: "Axes | None" = None, *, label: str | None = None, color: str | None = None) -> "Axes":
        """Draw the curve on ``ax`` (the current axes if None) and return the axes."""
        ax = checks.axes(ax)
        false, true = (rate.cpu().numpy() for rate in self.points())
        ax.plot(false, true, label=label or f"{self.name}: area {self.auc:.3f}", color=color)
        ax.set_xlabel("Share of other inputs that pass as known")
        ax.set_ylabel("Share of known inputs that are recognised")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.01)
        return ax

    def _shares_below(self) -> Tensor:
        return _shares_below(self.inside, self.outside)

    def _of_pairs(self, confidence: float) -> tuple[float, float]:
        """The interval of as many disjoint pairs as there are, in the order of the inputs."""
        pairs = min(len(self.inside), len(self.outside))
        first, second = self.inside[:pairs], self.outside[:pairs]
        lower, _ = clopper_pearson_interval((first > second).sum(), pairs, confidence=confidence)
        _, upper = clopper_pearson_interval((first >= second).sum(), pairs, confidence=confidence)
        return float(lower), float(upper)


def _shares_below(scores: Tensor, others: Tensor) -> Tensor:
    """Share of the others below each score, (N,) float64; those that are equal count as half."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
    return below.double() / (2 * len(others))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
