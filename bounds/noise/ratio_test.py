r"""Does random noise have to be sqrt(D) times as large as the worst perturbation? A test of a trained network.

Two questions that are often mixed up get an answer each. *The law holds* if the effective dimension, one over the mean
squared ratio of the two distances, is that of a flat boundary. *The boundary is flat* if the ratios follow the whole
law. Curved boundaries often pass the first and fail the second.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
from bounds.noise.ratio_result import NoiseRatioTest
from bounds.numerics import per_row

LARGEST_DIMENSION = 64  # of the subspaces that are looked at unless others are asked for
CONSISTENT = 1e-4  # share by which a certificate may exceed a known distance, for rounding in the model
BASIS_ENTRIES = 2**24  # of all bases that are held at a time

Minimal = Tensor | tuple[Tensor, Tensor]
T = TypeVar("T")


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
    progress: Callable[[int, int], None] | None = None,
) -> NoiseRatioTest:
    """Whether random and adversarial distances of a model are related as those of flat boundaries are.

    Everything is in l_2 and without a box. For more than two classes, flat boundaries are those tangent where the
    nearest point of each other class was found. Ratios of lines have no mean: inverse squares, logarithms and quantiles
    are averaged, with censored lines treated as such.

    Most of the time goes into searches for the nearest boundary, each of about 1,000 gradients and as many forward
    passes: one for every input, one of half the size for each of the other classes (where there are several), and
    ``subspaces`` for every dimension above 1. Four inputs of a small convolutional network with 10 classes take 15
    seconds on one core. ``dimensions=[1]`` leaves out the slope and two thirds of that.

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
        progress: called with the number of finished stages and of all: the searches near the inputs, the lines, the
            searches for all classes, and each of the dimensions.

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
    generator = checks.generator(generator, x.device)
    sampling = _Sampling(model, directions, subspaces, batch_size, generator)
    wanted = _checked_dimensions(dimensions, x[0].numel() if len(x) else 1)
    stages = _Stages(3 + len(wanted), progress)
    near = stages.finished(nearest_boundary(model, x, batch_size=sampling.searched))
    certified, upper, toward = _least_distances(minimal, near, x)
    rows = upper.isfinite().nonzero().squeeze(1)
    if len(rows) == 0:
        raise InvalidInput("no boundary was found near any input: the model may be constant around them")
    x, toward = x[rows], toward[rows]
    crossed = stages.finished(sampling.lines(x, upper[rows], toward))
    first = torch.minimum(upper[rows], crossed.distance.amin(1))
    lower = first if certified is None else _not_beyond(certified[rows], first)
    planes = stages.finished(flat_boundaries(model, x, first, batch_size=sampling.searched))
    law = planes.law(1, generator)
    ratio, cap = crossed.distance / first[:, None], crossed.limit / first
    cosine = torch.ones_like(ratio) if crossed.cosine is None else crossed.cosine
    q = crossed.distance * cosine / toward.flatten(1).double().norm(dim=1, keepdim=True)
    p_values = law.p_values(crossed.distance, crossed.limit, (lower, first), generator)
    flat, measured = sampling.log_means(x, first, planes, wanted, (ratio, cap), stages)
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


class _Stages:
    """Stages of a computation, counted for a caller who asks for it."""

    def __init__(self, count: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.count, self.progress = 0, count, progress

    def finished(self, result: T) -> T:
        """The result of a stage, after saying that it is there."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.count)
        return result


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
        self,
        x: Tensor,
        least: Tensor,
        planes: FlatBoundaries,
        dimensions: Sequence[int],
        lines: tuple[Tensor, Tensor],
        stages: "_Stages",
    ) -> tuple[Tensor, Tensor]:
        """Mean log ratios, (N, dimensions) each: of flat boundaries and as measured, both capped alike.

        ``lines`` holds the ratios (N, M) along random lines and the caps (N,) on them.
        """
        expected, measured = [], []
        for m in dimensions:
            found, limit = lines if m == 1 else self._within_subspaces(x, least, m)
            expected.append(planes.law(m, self.generator).capped_log_mean(limit))
            measured.append(stages.finished(torch.minimum(found, limit[:, None]).log().mean(1)))
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
