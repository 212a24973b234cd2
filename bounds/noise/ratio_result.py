"""Result of a noise ratio test, with its verdicts."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

WIDEST = 4.0  # quotient of the ends of the interval, beyond which the effective dimension is not known well enough
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseRatioTest:
    """Random against adversarial distances of a model, and what follows.

    Attributes:
        rows: (N,) int64, the inputs near which a boundary was found; only they count, and come in this order below.
        label: (N,) int64, their predicted classes.
        lower: (N,) float64, least distance to the boundary that is not excluded: a certificate, or ``upper``.
        upper: (N,) float64, distance of the nearest point behind the boundary that is known.
        ratio: (N, M) float64, distance along random lines over ``upper``; infinite where censored.
        cap: (N,) float64, the ratio up to which lines were followed.
        flatness_ratio: (N, M) float64, distance along a line times its cosine with the direction to the nearest
            boundary, over the distance to that: 1 where the boundary is flat; NaN where censored.
        effective_dimension: one over the mean of ratio^-2.
        effective_dimension_interval: its confidence interval over inputs and lines, over lines alone for one input;
            with the least distance anywhere between ``lower`` and ``upper``.
        expected_effective_dimension: of flat boundaries: D for two classes; less where several boundaries are near.
        median_ratio: of all lines.
        median_interval: in which the median of as many lines lies for flat boundaries.
        slope: of the mean log ratio in random subspaces on that of flat boundaries, over dimensions; 1 for them. NaN
            for a single input or dimension.
        slope_interval: its confidence interval, robust to what lines and subspaces of an input have in common.
        intercept: of the same line; 0 for flat boundaries.
        p_values: (N,) float64, Kolmogorov-Smirnov test of each input against the law of flat boundaries; the largest
            over least distances between ``lower`` and ``upper``.
        p_value: of all inputs together (Fisher).
        not_minimal: inputs at which a random line met the boundary nearer than the given distance, which was replaced.
        dimensions: (J,) int64, of the subspaces behind the slope.
        log_ratio: (N, J) float64, mean log ratio found within random subspaces of each dimension, up to a cap.
        flat_log_ratio: (N, J) float64, the same of flat boundaries.
        alpha: of the intervals and verdicts.
    """

    rows: Tensor
    label: Tensor
    lower: Tensor
    upper: Tensor
    ratio: Tensor
    cap: Tensor
    flatness_ratio: Tensor
    effective_dimension: float
    effective_dimension_interval: tuple[float, float]
    expected_effective_dimension: float
    median_ratio: float
    median_interval: tuple[float, float]
    slope: float
    slope_interval: tuple[float, float]
    intercept: float
    p_values: Tensor
    p_value: float
    not_minimal: int
    dimensions: Tensor
    log_ratio: Tensor
    flat_log_ratio: Tensor
    alpha: float

    @property
    def conclusive(self) -> bool:
        """Whether the ends of the interval of the effective dimension are within a factor of 4."""
        low, high = self.effective_dimension_interval
        return high <= WIDEST * low

    @property
    def law_holds(self) -> bool | None:
        """Whether the effective dimension may be that of flat boundaries; None where that is not decided.

        False where the interval excludes it, for flat boundaries with probability about ``alpha``, however few inputs
        there are; True where it does not and is narrow enough to mean something, see :attr:`conclusive`. Two inputs
        of 200 lines leave it undecided in four of ten cases, four hardly ever.
        """
        low, high = self.effective_dimension_interval
        if self.expected_effective_dimension < low or self.expected_effective_dimension > high:
            return False
        return True if self.conclusive else None

    @property
    def boundary_is_flat(self) -> bool:
        """Whether the ratios may follow the whole law; False for flat boundaries with probability ``alpha``."""
        return self.p_value > self.alpha

    @property
    def censored(self) -> float:
        """Share of the lines that were followed to the end without a change."""
        return float(self.ratio.isinf().double().mean())

    def flatness_quantiles(self) -> Tensor:
        """Quantiles 5, 25, 50, 75 and 95% of the flatness ratio, (5,) float64, censored lines counted as infinite."""
        values = self.flatness_ratio.nan_to_num(math.inf).flatten().sort().values
        ranks = [min(len(values) - 1, int(share * len(values))) for share in QUANTILES]
        return torch.stack([values[rank] for rank in ranks])

    def __str__(self) -> str:
        low, high = self.effective_dimension_interval
        confidence = f"{100 * (1 - self.alpha):.4g}%"
        verdict = {True: "holds", False: "does not hold", None: "is not decided"}[self.law_holds]
        q = self.flatness_quantiles()
        return (
            f"{len(self.rows)} inputs, {self.ratio.shape[1]} lines each, {self.censored:.1%} censored\n"
            f"effective dimension {self.effective_dimension:.4g}, {confidence} interval [{low:.4g}, {high:.4g}], "
            f"of flat boundaries {self.expected_effective_dimension:.4g}: the law {verdict}\n"
            f"median ratio {self.median_ratio:.4g}, of flat boundaries within [{self.median_interval[0]:.4g}, "
            f"{self.median_interval[1]:.4g}]; slope over dimensions {self.slope:.3g} "
            f"[{self.slope_interval[0]:.3g}, {self.slope_interval[1]:.3g}]\n"
            f"p-value of flat boundaries {self.p_value:.2g}, flatness ratio 25-75% [{q[1]:.3g}, {q[3]:.3g}]: the "
            f"boundary {'may be' if self.boundary_is_flat else 'is not'} flat"
        )

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input that counts, by its index."""
        import pandas as pd

        columns = {
            "label": self.label,
            "lower": self.lower,
            "upper": self.upper,
            "median_ratio": self.ratio.quantile(0.5, dim=1, interpolation="lower"),
            "effective_dimension": 1 / self.ratio.pow(-2).mean(1),
            "median_flatness_ratio": self.flatness_ratio.nanquantile(0.5, dim=1),
            "censored": self.ratio.isinf().double().mean(1),
            "p_value": self.p_values,
        }
        index = pd.Index(self.rows.cpu().numpy(), name="row")
        return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()}, index=index)
