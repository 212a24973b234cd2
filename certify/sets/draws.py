"""Accuracy under random draws from a set of perturbations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from bounds import checks, clopper_pearson_interval
from certify.results import DrawnAccuracy, share_interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class SetAccuracy(DrawnAccuracy):
    """Counts of correct predictions under random draws from a set: nothing about the worst one.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        correct: (N,) int64, changed copies that are classified correctly.
        right: (N, draws) bool, which ones.
        distance: (N, draws) float64, sizes of their changes, in ``unit``.
        draws: copies of each input.
        unit: of the distances.
        reach: the largest size that the set has.
        subject: the classifier it speaks of.
    """

    correct: Tensor
    right: Tensor
    distance: Tensor
    draws: int
    unit: str
    reach: float
    subject: str = "base"

    @property
    def accuracy(self) -> float:
        """Share of all copies that are classified correctly; NaN without any row."""
        return float(self.right.double().mean())

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, without a column for each copy."""
        table = super().to_dataframe()
        return table[[name for name in table if not str(name).startswith("right_")]]

    def error_interval(self, alpha: float = 0.05) -> tuple[Tensor, Tensor]:
        """Exact interval for the probability of an error of each row, (N,) float64 each.

        It holds for one row at a time, with probability at least ``1 - alpha`` over the draws.
        """
        confidence = 1 - checks.probability("alpha", alpha)
        return clopper_pearson_interval(self.draws - self.correct, self.draws, confidence=confidence)

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Exact interval for the accuracy on new inputs, from the first copy of each row.

        Copies of one input are no independent draws of inputs, so more of them do not narrow it; it holds for
        inputs drawn as these were, with probability at least ``1 - alpha``.
        """
        return share_interval(self.right[:, 0], alpha)
