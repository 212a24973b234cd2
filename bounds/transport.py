"""Lower bounds on the adversarial error of all classifiers, from data alone; accuracy against robustness."""

import math

import numpy as np
import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error


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
    edges = [(_distances(part, two, norm) <= room).cpu().numpy() for part in one.split(chunk)]
    partner = maximum_bipartite_matching(csr_array(np.concatenate(edges)), perm_type="column")
    return float((partner >= 0).sum()) / len(x)


def _distances(one: Tensor, two: Tensor, norm: float) -> Tensor:
    """Distances of all pairs, by differences: torch otherwise multiplies out, and loses the digits of near pairs."""
    return torch.cdist(one, two, p=float(norm), compute_mode="donot_use_mm_for_euclid_dist")


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
