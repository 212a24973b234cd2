"""Lower bounds on the adversarial error of all classifiers, from data alone; accuracy against robustness."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.memory import MEMORY
from bounds.numerics import accumulated_error
from bounds.sets.norms import project
from bounds.sets.pairs import classes_of, pair_distances
from bounds.solvers.conflicts import Violated, conflicts
from bounds.solvers.packing import largest_packing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

GAP = 1e-9  # between both bounds, relative, at which the search for a shift ends
CHECKED_EVERY = 10


def adversarial_error_bound(x: Tensor, y: Tensor, *, epsilon: float, norm: float, chunk: int = 1024) -> float:
    """The least error, under perturbations within ``epsilon``, that any classifier has on these inputs of two classes.

    Two inputs of different classes at most 2 epsilon apart share a perturbed input, on which one of them is
    misclassified. The least number of inputs that leaves no such pair is the size of a maximum matching (König's
    theorem), and every input without a partner can be classified correctly. Exact for the given inputs, in every norm,
    and within a convex box. It speaks of these inputs alone: few samples in many dimensions are far apart, so that 0
    means that no obstruction was found.

    Args:
        x: (N, *D) inputs.
        y: (N,) their classes, two different values.
        epsilon: radius, in units of the input.
        norm: order of the norm, at least 1.
        chunk: rows whose distances are held together.

    Raises:
        InvalidInput: a bad argument, other than two classes.

    References:
        Bhagoji, Cullina, Mittal (2019), Lower bounds on adversarial robustness from optimal transport, Theorem 1,
        arXiv:1909.12272.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    checks.inputs(x)
    checks.nonnegative("epsilon", epsilon)
    checks.norm(norm)
    checks.at_least("chunk", chunk, 1)
    classes = checks.rows("y", y, len(x)).unique()
    if len(classes) != 2:
        raise InvalidInput(f"y must hold two classes, got {len(classes)}: take them in pairs")
    one, two = (x[y == label].flatten(1).double() for label in classes)
    # A pair counts only if it is near for certain.
    room = 2 * epsilon / (1 + accumulated_error(one.shape[1] + 64, one.dtype))
    edges = [(pair_distances(part, two, norm) <= room).cpu().numpy() for part in one.split(chunk)]
    partner = maximum_bipartite_matching(csr_array(np.concatenate(edges)), perm_type="column")
    return float((partner >= 0).sum()) / len(x)


@dataclass(frozen=True, eq=False, kw_only=True)
class LeastError:
    """The least error under perturbations that a classifier of any kind can have on given inputs.

    Attributes:
        lower: proved: no classifier has a smaller one.
        value: optimum of the linear programme, as its solver states it.
        correct: (N,) float64, the probability with which that optimum answers correctly around each input; 1 for inputs
            without a conflict.
        complete: whether all sets of inputs with a common perturbed input were taken into account. Then a classifier
            that may draw its answer at random has error ``value``.
        pairs: inputs of different classes at most 2 epsilon apart.
        larger_sets: sets of more inputs that were added.
        epsilon: radius, in units of the input.
        norm: order of the norm.
    """

    lower: float
    value: float
    correct: Tensor
    complete: bool
    pairs: int
    larger_sets: int
    epsilon: float
    norm: float

    def sentences(self) -> list[str]:
        """The least error in words."""
        floor = math.floor(self.lower * 1e4) / 1e4
        about = f"no classifier has an error below {floor:g} within {self.epsilon:g} in l{self.norm:g}"
        return [f"{about}: {self.pairs} pairs of inputs of different classes share a perturbed input"]

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, with the share of right answers around it that an optimal classifier reaches."""
        import pandas as pd

        return pd.DataFrame({"input": range(len(self.correct)), "correct": self.correct.cpu().numpy()})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how many inputs an optimal classifier gets right with at least a probability."""
        ax, shares = checks.axes(ax), self.correct.sort(descending=True).values.cpu().numpy()
        ax.step(range(1, len(shares) + 1), shares, where="mid")
        ax.set(xlabel="inputs, from the easiest on", ylabel="probability of a right answer", ylim=(-0.02, 1.02))
        return ax


@isolated
def least_adversarial_error(
    x: Tensor, y: Tensor, *, epsilon: float, norm: float, rounds: int = 20, memory: int = MEMORY
) -> LeastError:
    """The least error, under perturbations within ``epsilon``, that any classifier has on inputs of several classes.

    Where balls of inputs of different classes share a point, the probabilities of a correct answer around them sum to
    at most 1, also for a classifier that draws its answer at random. The largest sum of such probabilities is a linear
    programme. Its sets are found as they are needed: pairs first, then larger ones that the solution violates. The
    solution of the dual programme is checked in integers, so that ``lower`` holds whatever the solver does. Sets that
    are left out cost tightness only; for two classes it equals :func:`adversarial_error_bound`.

    Sets of any size are decided on in l_2 and l_infinity, of up to three inputs in l_1, and pairs in other norms. The
    statement is about these inputs, and holds within a convex box too.

    Args:
        x: (N, *D) inputs.
        y: (N,) their classes.
        epsilon: radius, in units of the input.
        norm: order of the norm, at least 1.
        rounds: linear programmes that may be solved; 1 takes pairs alone.
        memory: bytes of distances that are held together; the conflicts themselves come on top.

    Raises:
        InvalidInput: a bad argument.

    References:
        Dai, Ding, Bhagoji, Cullina, Zheng, Zhao, Mittal (2023), Characterizing the optimal 0-1 loss for multi-class
        classification with a test-time attacker, arXiv:2302.10722; García Trillos, Jacobs, Kim (2023), The
        multimarginal optimal transport formulation of adversarial multiclass classification, arXiv:2204.12676.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    >>> least_adversarial_error(x, torch.tensor([0, 1, 2, 2]), epsilon=1.1, norm=2).lower
    0.5
    """
    checks.not_empty(checks.inputs(x))
    epsilon, norm = checks.nonnegative("epsilon", epsilon), checks.norm(norm)
    checks.at_least("rounds", rounds, 1)
    checks.at_least("memory", memory, 1)
    _, index = classes_of(y, x).unique(return_inverse=True)
    graph = conflicts(x, index, epsilon=epsilon, norm=norm, memory=memory)
    sets = [graph.pairs]
    best, complete = Fraction(len(x)), False
    for turn in range(rounds):
        packing = largest_packing(len(x), sets)
        best = min(best, packing.upper)
        found = graph.violated(packing.values) if turn + 1 < rounds or graph.largest < 3 else Violated([], False)
        complete = found.complete
        if not found.sets:
            break
        sets += found.sets
    return LeastError(
        lower=_rounded_down(1 - best / len(x)),
        value=1 - float(packing.values.sum()) / len(x),
        correct=torch.from_numpy(packing.values).to(x.device),
        complete=complete,
        pairs=len(graph.pairs),
        larger_sets=sum(len(part) for part in sets[1:]),
        epsilon=epsilon,
        norm=norm,
    )


def _rounded_down(value: Fraction) -> float:
    """A float64 number of at most a fraction."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


class GaussianError(NamedTuple):
    """The least adversarial error for two Gaussian classes.

    Attributes:
        lower: no classifier has a smaller one.
        upper: error of the linear classifier along ``direction``.
        direction: (*D) float64, normal of that classifier, which answers the first class on its side of the midpoint.
        shift: (*D) float64, the perturbation that brings the classes nearest to each other.
    """

    lower: float
    upper: float
    direction: Tensor
    shift: Tensor


@isolated
def gaussian_adversarial_error(
    first: Tensor, second: Tensor, covariance: Tensor, *, epsilon: float, norm: float, iterations: int = 10_000
) -> GaussianError:
    r"""The least error under perturbations of any classifier of two equally likely Gaussian classes of one covariance.

    With the half difference :math:`\Delta` of the means it is :math:`\Phi(-\alpha)`, where

    .. math:: \alpha^2 = \min_{\|z\| \le \epsilon} (\Delta - z)^T \Sigma^{-1} (\Delta - z).

    Every z in the ball gives a lower bound, and the linear classifier along :math:`\Sigma^{-1}(\Delta - z)` an upper
    one. Both are stated, up to the rounding of float64: how far they are apart tells how well z was found, by
    accelerated projected gradients.

    Args:
        first: (*D) mean of one class.
        second: (*D) mean of the other.
        covariance: (F, F) of both, positive definite, F entries of an input.
        epsilon: radius, in units of the input.
        norm: 1, 2 or infinity.
        iterations: of the search for z, at most.

    Raises:
        InvalidInput: a bad argument, a covariance that is not positive definite.

    References:
        Bhagoji, Cullina, Mittal (2019), Lower bounds on adversarial robustness from optimal transport, section 4,
        arXiv:1909.12272.
    """
    epsilon, norm = checks.nonnegative("epsilon", epsilon), checks.norm(norm)
    checks.at_least("iterations", iterations, 1)
    if norm not in (1, 2, math.inf):
        raise InvalidInput(f"norm must be 1, 2 or infinity, got {norm:g}: the search needs projections onto its ball")
    half = (checks.inputs(first[None]) - checks.inputs(second[None])).flatten(1).double()[0] / 2
    matrix = checks.tensor("covariance", covariance).to(half)
    if matrix.shape != (len(half), len(half)):
        raise InvalidInput(f"covariance must have shape {(len(half), len(half))}, got {tuple(matrix.shape)}")
    factor, failed = torch.linalg.cholesky_ex((matrix + matrix.T) / 2)
    if failed or not matrix.isfinite().all():
        raise InvalidInput("covariance must be positive definite: add a small multiple of the identity")
    inverse = torch.cholesky_inverse(factor)
    limit = torch.full((1,), epsilon, dtype=torch.float64, device=half.device)
    step = 1 / torch.linalg.eigvalsh(inverse)[-1]
    z = ahead = project(half[None], limit, norm)[0]
    momentum = 1.0
    for turn in range(iterations):
        if turn % CHECKED_EVERY == 0 and _gaussian_gap(half - z, half, inverse, epsilon, norm) <= GAP:
            break
        new = project((ahead + step * (inverse @ (half - ahead)))[None], limit, norm)[0]
        restart = (ahead - new) @ (new - z) > 0  # where momentum points uphill it starts anew
        grown = 1.0 if restart else (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new if restart else new + (momentum - 1) / grown * (new - z)
        z, momentum = new, grown
    lower, upper, direction = _gaussian_errors(half - z, half, inverse, epsilon, norm)
    return GaussianError(lower, upper, direction.view_as(first), z.view_as(first))


def _gaussian_gap(rest: Tensor, half: Tensor, inverse: Tensor, epsilon: float, norm: float) -> float:
    lower, upper, _ = _gaussian_errors(rest, half, inverse, epsilon, norm)
    return (upper - lower) / max(lower, math.ulp(0.0))


def _gaussian_errors(
    rest: Tensor, half: Tensor, inverse: Tensor, epsilon: float, norm: float
) -> tuple[float, float, Tensor]:
    """Lower and upper bound, and the direction of the classifier, for the difference ``rest`` that z leaves."""
    direction = inverse @ rest
    length = float((rest @ direction).clamp(min=0).sqrt())
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
    margin = float(direction @ half) - epsilon * float(torch.linalg.vector_norm(direction, dual))
    upper = ndtr(-margin / length) if length > 0 else 0.5
    lower = float(ndtr(-length))
    return lower, max(lower, min(float(upper), 0.5)), direction


def accuracy_robustness_front(accuracy: Tensor, robustness: Tensor) -> Tensor:
    """(M,) bool: which of several models no other one exceeds in one of the two and reaches in the other.

    Args:
        accuracy: (M,).
        robustness: (M,), such as a median distance or an accuracy under attack.

    References:
        Su et al. (2018), Is robustness the cost of accuracy?, arXiv:1808.01688.
    """
    checks.rows("robustness", robustness, len(accuracy))
    at_least = (accuracy[None] >= accuracy[:, None]) & (robustness[None] >= robustness[:, None])
    above = (accuracy[None] > accuracy[:, None]) | (robustness[None] > robustness[:, None])
    return ~(at_least & above).any(1)


def margin_features(distance: Tensor) -> dict[str, float]:
    """Features of the distribution of distances to the boundary that predict how a network generalises.

    Quantiles, the mean and the spread of log distances; distances that are infinite or 0 are left out and counted.

    Args:
        distance: (N,), such as those of :func:`bounds.nearest_boundary`.

    Raises:
        InvalidInput: none of them is finite and above 0.

    References:
        Jiang et al. (2019), Predicting the generalization gap in deep networks with margin distributions,
        arXiv:1810.00113.
    """
    kept = distance[distance.isfinite() & (distance > 0)].double()
    if len(kept) == 0:
        raise InvalidInput("distance must hold numbers that are finite and above 0")
    logs = kept.log()
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64, device=kept.device)
    named = zip(("q05", "q25", "q50", "q75", "q95"), kept.quantile(shares).tolist(), strict=True)
    spread = float(logs.std()) if len(logs) > 1 else math.nan
    return {**dict(named), "log_mean": float(logs.mean()), "log_std": spread, "left_out": 1 - len(kept) / len(distance)}
