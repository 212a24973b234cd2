r"""Does random noise have to be sqrt(D) times as large as the worst perturbation? A test of a trained network.

Two questions that are often mixed up get an answer each. *The law holds* if the effective dimension, one over the mean
squared ratio of the two distances, is that of a flat boundary. *The boundary is flat* if the ratios follow the whole
law. Curved boundaries often pass the first and fail the second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.noise.boundary import BoundaryPoints, nearest_boundary, random_basis
from bounds.noise.crossings import CAP, Crossings, default_limit, random_crossings
from bounds.noise.flat_boundaries import FlatBoundaries, flat_boundaries
from bounds.numerics import per_row

if TYPE_CHECKING:
    import pandas as pd

LARGEST_DIMENSION = 64  # of the subspaces that are looked at unless others are asked for
WIDEST = 4.0  # quotient of the ends of the interval, beyond which the effective dimension is not known well enough
CONSISTENT = 1e-4  # share by which a certificate may exceed a known distance, for rounding in the model
BASIS_ENTRIES = 2**24  # of all bases that are held at a time
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Minimal = Tensor | tuple[Tensor, Tensor]


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
        return values[ranks]

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


@isolated
def noise_ratio_test(
    model: nn.Module,
    x: Tensor,
    *,
    minimal: Minimal | None = None,
    directions: int = 200,
    dimensions: Sequence[int] | None = None,
    subspaces: int = 8,
    alpha: float = 0.05,
    batch_size: int = 1000,
    generator: torch.Generator | None = None,
) -> NoiseRatioTest:
    """Whether random and adversarial distances of a model are related as those of flat boundaries are.

    Everything is in l_2 and without a box. For more than two classes, flat boundaries are those tangent where the
    nearest point of each other class was found. Ratios of lines have no mean: inverse squares, logarithms and quantiles
    are averaged, with censored lines treated as such.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating and finite.
        minimal: what is known of the distance to the boundary: (N,) distances to points behind it, infinite where none
            is known, or (N, *D) perturbations that lead there; or a pair, of (N,) certified distances and of these. A
            search of the model improves on them, and is all there is for None. A certificate has to hold without a box.
        directions: M, random lines through each input.
        dimensions: of the random subspaces for the slope; powers of 4 up to 64 for None.
        subspaces: of each dimension above 1, for each input.
        alpha: of intervals and verdicts.
        batch_size: points of a forward pass.
        generator: source of all randomness.

    Raises:
        InvalidInput: a bad argument; no boundary near any input; a certificate beyond a point behind the boundary.
        InvalidModel: the model returns no (N, K) logits, or such that are not finite at an input.

    References:
        Fawzi, Moosavi-Dezfooli, Frossard (2016), arXiv:1608.08967. The exact law is in :mod:`bounds.noise.ratio_law`.
    """
    checks.inputs(x)
    checks.probability("alpha", alpha)
    checks.at_least("directions", directions, 2)
    checks.at_least("subspaces", subspaces, 1)
    checks.at_least("batch_size", batch_size, 2)
    checks.generator(generator)
    sampling = _Sampling(model, directions, subspaces, batch_size, generator)
    wanted = _checked_dimensions(dimensions, x[0].numel() if len(x) else 1)
    near = nearest_boundary(model, x, batch_size=sampling.searched)
    certified, upper, toward = _least_distances(minimal, near, x)
    rows = upper.isfinite().nonzero().squeeze(1)
    if len(rows) == 0:
        raise InvalidInput("no boundary was found near any input: the model may be constant around them")
    x, toward = x[rows], toward[rows]
    crossed = sampling.lines(x, upper[rows], toward)
    first = torch.minimum(upper[rows], crossed.distance.amin(1))
    lower = first if certified is None else _not_beyond(certified[rows], first)
    planes = flat_boundaries(model, x, first, batch_size=sampling.searched)
    law = planes.law(1, generator)
    ratio, cap = crossed.distance / first[:, None], crossed.limit / first
    cosine = torch.ones_like(ratio) if crossed.cosine is None else crossed.cosine
    q = crossed.distance * cosine / toward.flatten(1).double().norm(dim=1, keepdim=True)
    p_values = law.p_values(crossed.distance, crossed.limit, (lower, first), generator)
    flat, measured = sampling.log_means(x, first, planes, wanted, ratio, cap)
    slope, slope_interval, intercept = _slope(flat, measured, alpha)
    return NoiseRatioTest(
        rows=rows,
        label=crossed.label,
        lower=lower,
        upper=first,
        ratio=ratio,
        cap=cap,
        flatness_ratio=torch.where(crossed.censored, math.nan, q),
        effective_dimension=1 / float(ratio.pow(-2).mean()),
        effective_dimension_interval=(
            _dimension_interval(ratio, alpha)[0],
            _dimension_interval(crossed.distance / lower[:, None], alpha)[1],
        ),
        expected_effective_dimension=1 / law.inverse_square_mean(),
        median_ratio=float(ratio.flatten().sort().values[ratio.numel() // 2]),
        median_interval=law.median_interval(ratio.numel(), alpha),
        slope=slope,
        slope_interval=slope_interval,
        intercept=intercept,
        p_values=p_values,
        p_value=_fisher(p_values),
        not_minimal=int((first < upper[rows] * (1 - CONSISTENT)).sum()),
        dimensions=torch.tensor(wanted, device=x.device),
        log_ratio=measured,
        flat_log_ratio=flat,
        alpha=alpha,
    )


@dataclass(frozen=True, eq=False)
class _Sampling:
    """Random lines and subspaces through the inputs of a model."""

    model: nn.Module
    directions: int
    subspaces: int
    batch_size: int
    generator: torch.Generator | None

    @property
    def searched(self) -> int:
        """Inputs whose boundary is searched together; of each, several tensors are held."""
        return max(1, self.batch_size // 4)

    def lines(self, x: Tensor, least: Tensor, along: Tensor) -> Crossings:
        return random_crossings(
            self.model,
            x,
            directions=self.directions,
            limit=default_limit(x, least),
            along=along,
            batch_size=self.batch_size,
            generator=self.generator,
        )

    def log_means(
        self, x: Tensor, least: Tensor, planes: FlatBoundaries, dimensions: Sequence[int], ratio: Tensor, cap: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean log ratios, (N, dimensions) each: of flat boundaries and as measured, both capped alike."""
        expected, measured = [], []
        for m in dimensions:
            found, limit = (ratio, cap) if m == 1 else self._within_subspaces(x, least, m)
            expected.append(planes.law(m, self.generator).capped_log_mean(limit))
            measured.append(torch.minimum(found, limit[:, None]).log().mean(1))
        return torch.stack(expected, 1), torch.stack(measured, 1)

    def _within_subspaces(self, x: Tensor, least: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
        """Ratios (N, subspaces) of the least distances found within random subspaces, and the cap (N,) on them."""
        features = x[0].numel()
        whole = dimension == features
        copies = torch.arange(len(x), device=x.device).repeat_interleave(1 if whole else self.subspaces)
        held = max(1, min(self.searched, BASIS_ENTRIES // (dimension * features)))
        found = []
        for rows in copies.split(held):
            basis = None if whole else random_basis(x, len(rows), dimension, self.generator)
            near = nearest_boundary(self.model, x[rows], basis=basis, batch_size=held)
            found.append(near.distance / least[rows])
        limit = torch.full_like(least, CAP * math.sqrt(features / dimension))
        return torch.cat(found).view(len(x), -1), limit


def _checked_dimensions(dimensions: Sequence[int] | None, features: int) -> list[int]:
    if dimensions is None:
        return [4**k for k in range(5) if 4**k <= min(features, LARGEST_DIMENSION)]
    wanted = checks.several("dimensions", dimensions)
    return sorted({int(checks.at_most("dimensions", checks.at_least("dimensions", m, 1), features)) for m in wanted})


def _least_distances(minimal: Minimal | None, near: BoundaryPoints, x: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Certified distances (N,) if there are any, the least known ones to points behind the boundary, the way there.

    Where the caller knows a nearer point by its distance alone, the way is that to the point that was found.
    """
    if minimal is None:
        return None, near.distance, near.perturbation
    pair = minimal if isinstance(minimal, tuple) else (None, minimal)
    if len(pair) != 2 or not all(isinstance(each, Tensor) for each in pair[pair[0] is None :]):
        raise InvalidInput(
            f"minimal must be a tensor or a pair of tensors, certified and found distances, got {minimal!r:.80}"
        )
    certified, given = pair
    given = given.detach()
    toward = near.perturbation
    if given.shape == x.shape:
        move, given = given, given.flatten(1).double().norm(dim=1)
        closer = (given < near.distance) & (given > 0)
        toward = torch.where(per_row(closer, x), move.to(x.dtype), toward)
    for distances in (given, certified):
        if distances is not None and not (checks.rows("minimal", distances, len(x)) >= 0).all():
            raise InvalidInput("minimal must hold distances of at least 0, and no NaN")
    if not (given > 0).all():
        raise InvalidInput("minimal must hold distances above 0: leave out inputs that are misclassified as they are")
    reached = (toward != 0).flatten(1).any(1)  # a distance alone gives no direction
    upper = torch.where(reached, torch.minimum(given.double(), near.distance), math.inf)
    return None if certified is None else certified.double(), upper, toward


def _not_beyond(certified: Tensor, known: Tensor) -> Tensor:
    """Certified distances, after a look at whether they contradict a point that is known."""
    wrong = certified > known * (1 + CONSISTENT)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InvalidInput(
            f"minimal must not certify beyond a point with another prediction, got {float(certified[row]):g} with "
            f"one at {float(known[row]):g}: use a certificate that holds without a box, of this model"
        )
    return torch.minimum(certified, known)


def _dimension_interval(ratio: Tensor, alpha: float) -> tuple[float, float]:
    """Confidence interval of the effective dimension: over inputs, or over the lines of a single one."""
    kept = ratio.pow(-2)
    if len(ratio) == 1:
        # Matched to the variance of the Beta law; exact for many dimensions, where the sum has a chi-squared law.
        variance = float(kept.var() / kept.mean() ** 2) / kept.numel()
        low, high = (float(special.gammaincinv(1 / variance, p)) * variance for p in (alpha / 2, 1 - alpha / 2))
        return low / float(kept.mean()), high / float(kept.mean())
    means = kept.mean(1)
    spread = float(means.std() / means.mean()) / math.sqrt(len(means))
    reach = math.exp(-float(special.stdtrit(len(means) - 1, alpha / 2)) * spread)
    return 1 / (float(means.mean()) * reach), reach / float(means.mean())


def _fisher(p_values: Tensor) -> float:
    """The p-value of independent ones together."""
    return float(special.chdtrc(2 * len(p_values), -2 * float(p_values.clamp(min=1e-300).log().sum())))


def _slope(expected: Tensor, measured: Tensor, alpha: float) -> tuple[float, tuple[float, float], float]:
    """Least squares of measured on expected mean logarithms, (N, dimensions) each, with errors clustered by input."""
    import statsmodels.api as sm

    inputs, dimensions = expected.shape
    if inputs < 2 or dimensions < 2:
        return math.nan, (math.nan, math.nan), math.nan
    groups = np.repeat(np.arange(inputs), dimensions)
    design = sm.add_constant(expected.cpu().numpy().ravel())
    line = sm.OLS(measured.cpu().numpy().ravel(), design)
    fit = line.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fit.conf_int(alpha)[1]
    return float(fit.params[1]), (float(low), float(high)), float(fit.params[0])
