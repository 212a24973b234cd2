"""Calibration: whether a classifier is right as often as it says."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_interval
from bounds.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibrationError:
    """Confidence and accuracy of inputs that are put into bins by their confidence.

    Attributes:
        counts: (B,) int64, inputs in each bin that holds any.
        correct: (B,) int64, those that are classified correctly.
        confidence: (B,) float64, their mean confidence.
        adaptive: whether bins hold equally many inputs, instead of being equally wide.
    """

    counts: Tensor
    correct: Tensor
    confidence: Tensor
    adaptive: bool

    @property
    def accuracy(self) -> Tensor:
        """Share of the inputs of each bin that are classified correctly, (B,) float64."""
        return self.correct.double() / self.counts

    @property
    def error(self) -> float:
        """Expected calibration error: the mean over the inputs of the gap between accuracy and confidence of their bin.

        It is biased upward: accuracies of finite bins miss the confidence even of a calibrated classifier.
        """
        return float((self._weights * (self.accuracy - self.confidence).abs()).sum())

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval for the error with the accuracies of the bins on new inputs in the place of those at hand.

        Bins, their weights and mean confidences stay as they are. It holds with probability at least ``confidence``,
        since it rests on exact (Clopper-Pearson) intervals of all bins at once (Bonferroni): it is wide, and needs no
        correction of the bias.
        """
        lower, upper = self._ends(confidence)
        nearest = self.confidence.clamp(lower, upper)
        least = (nearest - self.confidence).abs()
        most = torch.maximum(self.confidence - lower, upper - self.confidence)
        return float((self._weights * least).sum()), float((self._weights * most).sum())

    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """A row for each bin: inputs, confidence, accuracy, and its interval, which holds for all bins at once."""
        import pandas as pd

        lower, upper = self._ends(confidence)
        columns = {"inputs": self.counts, "confidence": self.confidence, "accuracy": self.accuracy}
        ends = {"lower": lower, "upper": upper}
        return pd.DataFrame({name: values.cpu().numpy() for name, values in {**columns, **ends}.items()})

    def plot(self, ax: "Axes | None" = None, *, confidence: float = 0.95) -> "Axes":
        """Draw accuracy against confidence on ``ax`` (the current axes if None) and return the axes."""
        ax, table = checks.axes(ax), self.to_dataframe(confidence)
        ax.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as sure as right")
        gaps = (table.accuracy - table.lower).to_numpy(), (table.upper - table.accuracy).to_numpy()
        ax.errorbar(table.confidence, table.accuracy, yerr=gaps, marker="o", linestyle="", label="bins of inputs")
        ax.set_xlabel("Mean confidence")
        ax.set_ylabel("Share classified correctly")
        ax.legend(loc="upper left")
        return ax

    @property
    def _weights(self) -> Tensor:
        return self.counts.double() / self.counts.sum()

    def _ends(self, confidence: float) -> tuple[Tensor, Tensor]:
        alpha = (1 - checks.probability("confidence", confidence)) / len(self.counts)
        return clopper_pearson_interval(self.correct, self.counts, confidence=1 - alpha)


def calibration_error(
    probabilities: Tensor, labels: Tensor, *, bins: int = 15, adaptive: bool = False
) -> CalibrationError:
    """Calibration of the class that leads: is a classifier right as often as its confidence says?

    Args:
        probabilities: (N, K), as ``model(x).softmax(1)``; rows sum to 1.
        labels: (N,) correct classes.
        bins: of confidence, from 0 to 1; those without an input are left out.
        adaptive: whether bins hold equally many inputs, instead of being equally wide.

    Raises:
        InvalidInput: probabilities that are none; labels out of range; no input.

    References:
        Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, arXiv:1706.04599, section 2;
        Nixon et al. (2019), Measuring calibration in deep learning, arXiv:1904.01685, for adaptive bins.
    """
    checks.tensor("probabilities", probabilities)
    if probabilities.ndim != 2 or not probabilities.is_floating_point() or len(probabilities) == 0:
        raise InvalidInput(
            f"probabilities must be floating, of shape (N, K) with at least one row, got {probabilities.dtype} of "
            f"{tuple(probabilities.shape)}: pass model(x).softmax(1)"
        )
    values = probabilities.detach().double()
    if not bool(((values >= 0) & (values <= 1)).all() and ((values.sum(1) - 1).abs() < 1e-2).all()):
        raise InvalidInput("probabilities must lie between 0 and 1 and sum to 1 in every row: pass model(x).softmax(1)")
    bins = checks.at_least("bins", bins, 1)
    label = checks.labels(labels, len(values), values.shape[1]).to(values.device)
    confidence, predicted = values.max(1)
    if adaptive:
        place = torch.empty_like(predicted)
        place[confidence.argsort()] = torch.arange(len(values), device=values.device) * bins // len(values)
    else:
        place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    counts = torch.bincount(place, minlength=bins)
    held = counts > 0
    correct = torch.bincount(place, weights=(predicted == label).double(), minlength=bins).long()
    total = torch.bincount(place, weights=confidence, minlength=bins)
    return CalibrationError(
        counts=counts[held], correct=correct[held], confidence=(total / counts)[held], adaptive=adaptive
    )
