r"""Theorems on random against adversarial distances, with their conditions checked.

Throughout, r is the l_2 distance from an input to the boundary and D the number of its entries. Where an exact law is
known, :class:`bounds.RatioLaw` is sharper than every bound here.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput

CURVATURE_LIMIT = 0.2  # of Theorem 2 of Fawzi et al. (2016)


class RatioBound(NamedTuple):
    """Between ``lower`` and ``upper`` lies the ratio of the two distances with at least this probability."""

    lower: float
    upper: float
    probability: float


# --------------------------------------------------------------------- Fawzi, Moosavi-Dezfooli, Frossard (2016)


def subspace_factors(dimension: int, delta: float) -> tuple[float, float]:
    """The constants zeta_1 and zeta_2 of Fawzi, Moosavi-Dezfooli, Frossard (2016), arXiv:1608.08967, equation (3).

    Raises:
        InvalidInput: a dimension below 1, delta outside (0, 1).
    """
    m = checks.at_least("dimension", dimension, 1)
    log = math.log(1 / checks.probability("delta", delta))
    lower = 1 / (1 + 2 * math.sqrt(log / m) + 2 * log / m)
    power = math.exp(-2 * log / m)
    return lower, 1 / max(power / math.e, 1 - math.sqrt(2 * (1 - power)))


def flat_ratio_bound(features: int, dimension: int, *, delta: float, classes: int = 2) -> RatioBound:
    """Bounds on the ratio within a random subspace of an affine classifier.

    Args:
        features: D.
        dimension: of the subspace.
        delta: the ratio lies outside with probability at most 2 (L + 1) delta for L > 2 classes, 2 delta for two.
        classes: L.

    Raises:
        InvalidInput: a dimension outside [1, D], delta outside (0, 1), or so large that nothing is promised.

    References:
        Fawzi, Moosavi-Dezfooli, Frossard (2016), arXiv:1608.08967, Lemma 1 and Theorem 1.
    """
    checks.at_most("dimension", checks.at_least("dimension", dimension, 1), checks.at_least("features", features, 1))
    lower, upper = subspace_factors(dimension, delta)
    failures = 2 if checks.at_least("classes", classes, 2) == 2 else 2 * (classes + 1)
    scale = math.sqrt(features / dimension)
    return RatioBound(math.sqrt(lower) * scale, math.sqrt(upper) * scale, _confidence_left(failures * delta, delta))


def largest_curvature(features: int, dimension: int, *, delta: float, distance: float) -> float:
    """The curvature up to which :func:`curved_ratio_bound` holds at an input with that distance to the boundary.

    The curvature is one over the radius of the largest ball that touches the boundary anywhere from either side without
    crossing it.
    """
    checks.at_least("features", features, 1)
    _, upper = subspace_factors(dimension, delta)
    return CURVATURE_LIMIT / (upper * checks.positive("distance", distance)) * dimension / features


def curved_ratio_bound(
    features: int, dimension: int, *, delta: float, curvature: float, distance: float, classes: int = 2
) -> RatioBound:
    """Bounds on the ratio within a random subspace where boundaries are curved a little.

    Args:
        features: D.
        dimension: of the subspace.
        delta: the ratio lies outside with probability at most 4 delta for two classes, 4 (L + 2) delta for L > 2.
        curvature: bound on the curvature of the boundaries between each two classes, in one over units of the input.
        distance: of the input to the boundary.
        classes: L.

    Raises:
        InvalidInput: a curvature beyond :func:`largest_curvature`, for which the theorem promises nothing.

    References:
        Fawzi, Moosavi-Dezfooli, Frossard (2016), arXiv:1608.08967, Theorem 2.
    """
    checks.nonnegative("curvature", curvature)
    largest = largest_curvature(features, dimension, delta=delta, distance=distance)
    if curvature > largest:
        raise InvalidInput(
            f"curvature must be at most 0.2 m / (zeta_2 r D) = {largest:.6g}, got {curvature:g}: use a larger dimension"
        )
    checks.at_most("dimension", dimension, features)
    lower, upper = subspace_factors(dimension, delta)
    scale = math.sqrt(features / dimension)
    failures = 4 if checks.at_least("classes", classes, 2) == 2 else 4 * (classes + 2)
    return RatioBound(
        0.875 * math.sqrt(lower) * scale, 1.45 * math.sqrt(upper) * scale, _confidence_left(failures * delta, delta)
    )


def _confidence_left(failure: float, delta: float) -> float:
    if failure >= 1:
        raise InvalidInput(f"delta must be smaller, got {delta:g}, for which the theorem promises nothing")
    return 1 - failure


# ------------------------------------------------------------------------------ Franceschi, Fawzi, Fawzi (2018)


def lp_noise_radius(features: int, distance: float, *, norm: float, epsilon: float) -> float:
    r"""Scale at which noise, uniform in an l_p ball, crosses a plane with probability epsilon; for many entries.

    It is :math:`r / (z \sigma_p)` with the variance :math:`\sigma_p^2` of one entry of the noise and
    the normal quantile z: sharper than the theorem, whose constants are up to 37% off for 784 entries, but a limit by
    the central limit theorem, which wants many entries of the weight to matter.

    Args:
        features: D.
        distance: l_2 distance of the input to the plane.
        norm: p, at least 1.
        epsilon: probability, below 1/2.

    References:
        Franceschi, Fawzi, Fawzi (2018), arXiv:1802.07971, Theorem 1, for what is made sharper.
    """
    deviation = lp_entry_deviation(features, norm)
    return checks.positive("distance", distance) / (_normal_quantile(epsilon) * deviation)


def lp_entry_deviation(features: int, norm: float) -> float:
    """Standard deviation of one entry of noise that is uniform in the unit l_p ball of that many dimensions."""
    p = checks.norm(norm)
    d = checks.at_least("features", features, 1)
    if p == math.inf:
        return math.sqrt(1 / 3)
    log = math.lgamma(3 / p) + math.lgamma(d / p) - math.lgamma(1 / p) - math.lgamma((d + 2) / p)
    return math.sqrt(d / (d + 2) * math.exp(log))


def lp_noise_factor(weight: Tensor, norm: float) -> float:
    r"""The factor :math:`D^{1/p} \|w\|_{p'} / \|w\|_2` that noise in l_p is farther off than the nearest point in l_p.

    Up to constants that depend on the probability alone. Of the order of sqrt(D) for random weights and p > 1, and of
    order 1 for a single weight in l-infinity.

    References:
        Franceschi, Fawzi, Fawzi (2018), arXiv:1802.07971, Theorem 1.
    """
    p = checks.norm(norm)
    dual = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    flat = _weight(weight)
    dual_length, length = float(flat.norm(dual)), float(flat.norm(2))
    return math.pow(len(flat), 1 / p) * dual_length / length


def random_weight_factor(norm: float) -> float:
    """Limit of :func:`lp_noise_factor` of random normal weights, over sqrt(D); for norms above 1.

    References:
        Franceschi, Fawzi, Fawzi (2018), arXiv:1802.07971, Proposition 1.
    """
    p = checks.norm(norm)
    if p == 1:
        raise InvalidInput("norm must be above 1, got 1: in l_1 the factor grows like sqrt(2 D log D)")
    power = 1.0 if p == math.inf else 1 - 1 / p
    shape = 1.0 if p == math.inf else (2 * p - 1) / (2 * (p - 1))
    return math.sqrt(2) * math.pow(math.gamma(shape) / math.sqrt(math.pi), power)


def gaussian_noise_radius(weight: Tensor, distance: float, *, covariance: Tensor, epsilon: float) -> float:
    r"""Scale at which Gaussian noise crosses a plane with probability epsilon, exactly.

    It is :math:`r \|w\| / (\|\Sigma^{1/2} w\| z)` with the normal quantile z.

    Args:
        weight: (F,) normal of the plane.
        distance: l_2 distance of the input to the plane.
        covariance: (F, F), of the noise at scale 1.
        epsilon: probability, below 1/2.

    References:
        Franceschi, Fawzi, Fawzi (2018), arXiv:1802.07971, Theorem 2, for bounds on it.
    """
    w = _weight(weight)
    if checks.tensor("covariance", covariance).shape != (len(w), len(w)):
        raise InvalidInput(f"covariance must have shape ({len(w)}, {len(w)}), got {tuple(covariance.shape)}")
    spread = float((w @ covariance.double() @ w).sqrt())
    return checks.positive("distance", distance) * float(w.norm()) / (spread * _normal_quantile(epsilon))


def gaussian_noise_factors(epsilon: float, *, flatness: float = 0.0) -> tuple[float, float]:
    r"""Lower and upper factor of the scale, in units of :math:`r \|w\| / \|\Sigma^{1/2} w\|` with trace 1.

    Args:
        epsilon: probability of a crossing; below 1/3, and below 2/9 where the boundary is not flat.
        flatness: gamma, if the boundary lies between planes parallel to its tangent plane, at (1 - gamma) and
            (1 + gamma) times its distance, as far as the noise gets.

    Raises:
        InvalidInput: an epsilon for which the theorem promises nothing; a flatness outside [0, 1).

    References:
        Franceschi, Fawzi, Fawzi (2018), arXiv:1802.07971, Theorems 2 and 4.
    """
    checks.probability("epsilon", epsilon)
    if not checks.nonnegative("flatness", flatness) < 1:
        raise InvalidInput(f"flatness must lie in [0, 1), got {flatness}")
    below, above = (epsilon, epsilon) if flatness == 0 else (epsilon / 2, 1.5 * epsilon)
    if not above < 1 / 3:
        raise InvalidInput(f"epsilon must be below {1 / 3 * epsilon / above:.4g}, got {epsilon:g}")
    return (1 - flatness) / math.sqrt(2 * math.log(1 / below)), (1 + flatness) / math.sqrt(1 - math.sqrt(3 * above))


def gaussian_flip_probability(distances: Tensor, *, sigma: float, normals: Tensor | None = None) -> float:
    """Probability that Gaussian noise with independent entries crosses one of several planes.

    Args:
        distances: (J,) of the planes.
        sigma: standard deviation of each entry.
        normals: (J, F) unit normals; needed for more than one plane.

    Raises:
        InvalidInput: several planes without normals, other shapes.
    """
    d = checks.tensor("distances", distances).detach().cpu().double().flatten() / checks.positive("sigma", sigma)
    if len(d) == 1:
        return float(special.ndtr(-float(d)))
    if normals is None or checks.tensor("normals", normals).ndim != 2 or len(normals) != len(d):
        raise InvalidInput(f"normals must have shape ({len(d)}, F) for {len(d)} planes")
    unit = normals.detach().cpu().double()
    gram = (unit @ unit.T).numpy()
    from scipy import stats

    alone = special.ndtr(-d.numpy())
    inside = stats.multivariate_normal.cdf(d.numpy(), cov=gram, allow_singular=True, rng=np.random.default_rng(0))
    return float(np.clip(1 - inside, alone.max(), min(1.0, alone.sum())))


def _weight(weight: Tensor) -> Tensor:
    """The entries of a normal, float64, not all of them 0."""
    flat = checks.tensor("weight", weight).double().flatten()
    if not bool((flat != 0).any() & flat.isfinite().all()):
        raise InvalidInput(f"weight must be finite and not 0, got {tuple(weight.shape)}: pass the normal of the plane")
    return flat


def _normal_quantile(epsilon: float) -> float:
    if not checks.probability("epsilon", epsilon) < 0.5:
        raise InvalidInput(f"epsilon must lie strictly between 0 and 1/2, got {epsilon}")
    return float(-special.ndtri(epsilon))


# -------------------------------------------------------------------------------- Fawzi, Fawzi, Frossard (2018)


def distinguishability_bound(x: Tensor, y: Tensor) -> float:
    """Half the distance between the means of two classes: about the most that a linear classifier is away on average.

    For balanced classes and every affine classifier, the mean distance to its boundary is at most this plus twice the
    mean over all inputs of the distance where it errs, see :func:`mean_distance_bound`.

    Args:
        x: (N, *D) inputs.
        y: (N,) their classes, two different values.

    Raises:
        InvalidInput: not two classes.

    References:
        Fawzi, Fawzi, Frossard (2018), Analysis of classifiers' robustness to adversarial perturbations,
        arXiv:1502.02590.
    """
    classes = checks.rows("y", y, len(checks.not_empty(checks.inputs(x)))).unique()
    if len(classes) != 2:
        raise InvalidInput(f"y must hold two classes, got {len(classes)}")
    flat = x.flatten(1).double()
    return float((flat[y == classes[0]].mean(0) - flat[y == classes[1]].mean(0)).norm() / 2)


def mean_distance_bound(scores: Tensor, signs: Tensor, *, tau: float, gamma: float = 1.0) -> float:
    """Upper bound on the mean distance of inputs to the zero set of a score f.

    Holds where every distance is at most ``tau |f|^gamma``: of affine scores with gamma 1 and tau one over the length
    of the weight, where it is an equality; of a quadratic x'Ax with gamma 1/2 and tau the larger of one over the roots
    of the extreme eigenvalues, in absolute value.

    Args:
        scores: (N,), f at each input.
        signs: (N,), the correct sign of each, -1 or 1.
        tau: above 0.
        gamma: in (0, 1].

    Raises:
        InvalidInput: other signs, a gamma outside (0, 1].

    References:
        Fawzi, Fawzi, Frossard (2018), arXiv:1502.02590; by Jensen's inequality.
    """
    if checks.tensor("scores", scores).ndim != 1 or len(scores) == 0:
        raise InvalidInput(f"scores must have shape (N,) with N of at least 1, got {tuple(scores.shape)}")
    if not (checks.rows("signs", signs, len(scores)).abs() == 1).all():
        raise InvalidInput("signs must be -1 or 1")
    if not checks.positive("gamma", gamma) <= 1:
        raise InvalidInput(f"gamma must lie in (0, 1], got {gamma}")
    right = scores.double() * signs.double()
    wrong = 2 * (-right).clamp(min=0)  # y f + 2 |f| where it errs, which is |f| again
    mean = float((right + wrong).mean())
    return checks.positive("tau", tau) * math.pow(mean, gamma)


# --------------------------------------------------------------------- Ford, Gilmer, Carlini, Cubuk (2019)


def noise_error_distance(error_rate: float, sigma: float) -> float:
    """The distance -sigma Phi^-1(error rate) that belongs to an error rate under Gaussian noise around an input.

    What holds: half of the *noisy* inputs are no farther than this from an error (isoperimetry). If the region of the
    label is convex, the input itself is at least as far from an error; if the set of errors is convex, at most; if both
    are, as for two classes and an affine classifier, exactly.

    It is *no* bound on the distance of the input to an error. Errors beyond 1 on both sides of it have a rate of 0.317
    under noise of sigma 1, for which this is 0.475:

    >>> round(noise_error_distance(0.3173, 1.0), 3)
    0.475

    Args:
        error_rate: in (0, 1).
        sigma: standard deviation of each entry of the noise.

    References:
        Ford, Gilmer, Carlini, Cubuk (2019), Adversarial examples are a natural consequence of test error in noise,
        arXiv:1901.10513.
    """
    return -checks.positive("sigma", sigma) * float(special.ndtri(checks.probability("error_rate", error_rate)))
