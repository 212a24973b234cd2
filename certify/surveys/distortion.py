"""Errors of models against the size of the perturbations that fool them: a line, with its interval over models."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.statistics.proportions import FloatArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

EXHAUSTIVE = 7  # models up to which all permutations are tried
PERMUTATIONS = 9999


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorDistortionLaw:
    """Least squares line of the mean distortion on the logarithm of the error, over models.

    Attributes:
        names: M names of models.
        error: (M,) errors, shares of wrong inputs.
        distortion: (M,) mean sizes of the smallest perturbations found, over the inputs on which a model is right.
        slope: of the distortion on the natural logarithm of the error: above 0, better models take smaller
            perturbations.
        intercept: distortion at an error of 1, on the line.
        interval: Student's interval of the slope, where models scatter normally around the line.
        p_value: of no relation, two-sided, by permutations of the models: exact, where they are exchangeable.
        r_squared: share of the variance of distortions that the line explains.
        confidence: of the interval.
    """

    names: tuple[str, ...]
    error: FloatArray
    distortion: FloatArray
    slope: float
    intercept: float
    interval: tuple[float, float]
    p_value: float
    r_squared: float
    confidence: float

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per model, with the distortion on the line."""
        import pandas as pd

        table = pd.DataFrame({"model": self.names, "error": self.error, "distortion": self.distortion})
        table["fitted"] = self.intercept + self.slope * np.log(self.error)
        return table

    def sentences(self) -> list[str]:
        """The slope and its interval, in words."""
        low, high = self.interval
        about = f"per unit of the logarithm of the error, over {len(self.names)} models (p = {self.p_value:.2g})"
        return [
            f"the mean size of the smallest perturbation changes by {self.slope:.3g} [{low:.3g}, {high:.3g}] {about}"
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the models with their names, and the line."""
        ax = checks.axes(ax)
        ax.plot(self.error, self.distortion, "o")
        for name, error, distortion in zip(self.names, self.error, self.distortion, strict=True):
            ax.annotate(name, (error, distortion), xytext=(4, 4), textcoords="offset points", fontsize=8)
        ends = np.array([self.error.min(), self.error.max()])
        ax.plot(ends, self.intercept + self.slope * np.log(ends), "--", color="0.5")
        ax.set(xscale="log", xlabel="error on clean inputs", ylabel="mean size of the smallest perturbation")
        return ax


@isolated
def error_distortion_law(
    correct: Mapping[str, Tensor], distance: Mapping[str, Tensor], *, confidence: float = 0.95, seed: int = 0
) -> ErrorDistortionLaw:
    """Fit how the size of smallest perturbations depends on the error of models.

    Args:
        correct: by model, (N,) bool, whether it is right.
        distance: by model, (N,) sizes of the smallest perturbations found, such as ``witness.distance``; infinite ones
            do not count.
        confidence: of the interval.
        seed: of the permutations, where not all are tried.

    Raises:
        InvalidInput: a bad argument; fewer than three models; a model without an error, or right on no input with a
            perturbation; models that all have the same error.

    References:
        Su, Zhang, Chen, Yi, Chen, Gao (2018), Is robustness the cost of accuracy?, arXiv:1808.01688, section 4.1.
    """
    checks.probability("confidence", confidence)
    if set(correct) != set(distance):
        raise InvalidInput(f"distance must be of the models {sorted(correct)}, got {sorted(distance)}")
    checks.at_least("number of models", len(correct), 3)
    points = [_point(name, right, distance[name]) for name, right in correct.items()]
    error, distortion = (np.array(column) for column in zip(*points, strict=True))
    across = np.log(error) - np.log(error).mean()
    if not (across**2).sum() > 1e-12:
        raise InvalidInput("correct must be of models with different errors: no line has a slope otherwise")
    slope = float(across @ distortion / (across @ across))
    centered = distortion - distortion.mean()
    rest, freedom = centered - slope * across, len(points) - 2
    deviation = math.sqrt(float(rest @ rest) / freedom / float(across @ across))
    reach = float(special.stdtrit(freedom, (1 + confidence) / 2)) * deviation
    total = float(centered @ centered)
    return ErrorDistortionLaw(
        names=tuple(correct),
        error=error,
        distortion=distortion,
        slope=slope,
        intercept=float(distortion.mean() - slope * np.log(error).mean()),
        interval=(slope - reach, slope + reach),
        p_value=_permutation_p_value(across, centered, seed),
        r_squared=1 - float(rest @ rest) / total if total > 0 else math.nan,
        confidence=confidence,
    )


def _point(name: str, right: Tensor, distance: Tensor) -> tuple[float, float]:
    """Error and mean distortion of one model."""
    checks.rows(f"distance of {name!r}", distance, len(checks.tensor(f"correct of {name!r}", right)))
    sizes = distance.to(right.device).double()
    counted = right & sizes.isfinite()
    if bool(right.all()) or not bool(counted.any()):
        raise InvalidInput(
            f"model {name!r} must be wrong on some input and right on one with a perturbation, got {int(right.sum())} "
            f"of {len(right)} right: use more inputs"
        )
    return 1 - float(right.double().mean()), float(sizes[counted].mean())


def _permutation_p_value(across: FloatArray, centered: FloatArray, seed: int) -> float:
    """Share of permutations with a slope as far from 0, the one at hand included."""
    count = len(across)
    if count <= EXHAUSTIVE:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (PERMUTATIONS, 1)), axis=1)
        orders = np.concatenate([np.arange(count)[None], drawn])
    products = np.abs(centered[orders] @ across)
    return float((products >= products[0] * (1 - 1e-12)).mean())
