"""Corruption errors in units of a baseline, as ImageNet-C states them: mCE and relative mCE, with intervals."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.statistics.proportions import FloatArray
from certify.corruptions.accuracy import CorruptionAccuracy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RESAMPLES = 2000


@dataclass(frozen=True, eq=False, kw_only=True)
class CorruptionError:
    """Errors under corruptions over those of a baseline, with bootstrap intervals over the inputs.

    Attributes:
        names: C names of corruptions.
        error: (C,) float64, sum over severities of the errors over that of the baseline.
        relative: (C,) float64, of the rise of the errors over clean inputs, over that of the baseline; NaN or infinite
            where the baseline loses nothing.
        intervals: (C, 2) float64, of ``error``.
        relative_intervals: (C, 2) float64, of ``relative``.
        mean: mCE in units of that baseline, the mean of ``error``: below 1, the model errs less than the baseline.
        mean_interval: of it.
        relative_mean: relative mCE, the mean of ``relative``.
        relative_mean_interval: of it.
        confidence: of each interval.
    """

    names: tuple[str, ...]
    error: FloatArray
    relative: FloatArray
    intervals: FloatArray
    relative_intervals: FloatArray
    mean: float
    mean_interval: tuple[float, float]
    relative_mean: float
    relative_mean_interval: tuple[float, float]
    confidence: float

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per corruption, and one for the mean."""
        import pandas as pd

        table = pd.DataFrame({"name": self.names, "error": self.error})
        table["lower"], table["upper"] = self.intervals.T
        table["relative"] = self.relative
        table["relative_lower"], table["relative_upper"] = self.relative_intervals.T
        means: list[Any] = ["mean", self.mean, *self.mean_interval, self.relative_mean, *self.relative_mean_interval]
        table.loc[len(table)] = means
        return table

    def sentences(self) -> list[str]:
        """The mean corruption errors, in words."""
        said = []
        for name, mean, (low, high) in (
            ("mCE", self.mean, self.mean_interval),
            ("relative mCE", self.relative_mean, self.relative_mean_interval),
        ):
            said.append(f"{name} {mean:.3g} [{low:.3g}, {high:.3g}] in units of the baseline")
        return said

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the error of each corruption over that of the baseline, with its interval."""
        ax = checks.axes(ax)
        ends = [self.error - self.intervals[:, 0], self.intervals[:, 1] - self.error]
        ax.barh(self.names, self.error, xerr=ends, color="#8b949e", ecolor="#d55e00")
        ax.axvline(1, color="#0072b2", linestyle="--", label="baseline")
        ax.set(xlabel="error over that of the baseline")
        return ax


@isolated
def corruption_error(
    found: CorruptionAccuracy, baseline: CorruptionAccuracy, *, confidence: float = 0.95, seed: int = 0
) -> CorruptionError:
    """Corruption errors of a model in units of those of a baseline on the same inputs: mCE and relative mCE.

    Inputs are drawn anew with replacement, the same ones for both models, so what they share cancels out. The benchmark
    takes AlexNet for the baseline, and states percent: only figures against AlexNet, of all corruptions and severities
    on the images of ImageNet, compare with published ones.

    Args:
        found: accuracies of the model.
        baseline: accuracies of another model, under the same corruptions and severities.
        confidence: of each interval.
        seed: of the resampling.

    Raises:
        InvalidInput: accuracies of other inputs, corruptions or severities; a baseline without an error under some
            corruption.

    References:
        Hendrycks, Dietterich (2019), arXiv:1903.12261, section 4.1; Efron (1979) for the bootstrap.
    """
    checks.probability("confidence", confidence)
    if set(found.correct) != set(baseline.correct) or found.severities != baseline.severities:
        raise InvalidInput("baseline must be of the same corruptions and severities: measure both in the same way")
    checks.rows("clean of the baseline", baseline.clean, len(found.clean))
    wrong = [_errors(each, tuple(found.correct)) for each in (found, baseline)]  # (N, C) and (N,) each
    if not wrong[1][0].sum(0).all():
        raise InvalidInput("baseline must err under every corruption: take a weaker one, or more inputs")
    count = len(found.clean)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    weights = np.concatenate([np.full((1, count), 1 / count), weights])
    (own, clean), (base, base_clean) = ((weights @ errors, (weights @ first)[:, None]) for errors, first in wrong)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample, or the baseline, may lose nothing
        error, relative = own / base, (own - clean) / (base - base_clean)
        error = np.where(np.isfinite(error), error, np.inf)
        parts = [_with_interval(values, confidence) for values in (error, relative)]
        means = [_with_interval(values.mean(1, keepdims=True), confidence) for values in (error, relative)]
    return CorruptionError(
        names=tuple(found.correct),
        error=parts[0][0],
        relative=parts[1][0],
        intervals=parts[0][1],
        relative_intervals=parts[1][1],
        mean=float(means[0][0][0]),
        mean_interval=(float(means[0][1][0, 0]), float(means[0][1][0, 1])),
        relative_mean=float(means[1][0][0]),
        relative_mean_interval=(float(means[1][1][0, 0]), float(means[1][1][0, 1])),
        confidence=confidence,
    )


def _errors(found: CorruptionAccuracy, names: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    """Mean errors over severities of each input (N, C), and errors on clean inputs (N,)."""
    rows: Tensor = torch.stack([(~found.correct[name]).double().mean(0) for name in names], 1)
    return rows.cpu().numpy(), (~found.clean).double().cpu().numpy()


def _with_interval(values: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """First row of resamples (B + 1, C), and percentiles (C, 2) of the others; without end where many are undefined."""
    tail = (1 - confidence) / 2
    kept = np.sort(np.where(np.isnan(values[1:]), np.inf, values[1:]), axis=0)
    low, high = math.floor(tail * (len(kept) - 1)), math.ceil((1 - tail) * (len(kept) - 1))
    return values[0], np.stack([kept[low], kept[high]], 1)
