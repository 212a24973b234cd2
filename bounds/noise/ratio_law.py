r"""The exact law of random against adversarial distances for flat boundaries: what stands behind "about sqrt(D)".

Let the boundary be a hyperplane with unit normal w at distance r from x, and S a uniformly random linear subspace of
dimension m in D dimensions. The boundary meets x + S at the distance :math:`r / \|P_S w\|`, so the ratio of the two
distances is

.. math:: \rho = 1 / \|P_S w\|, \qquad \rho^{-2} \sim \mathrm{Beta}(m / 2, (D - m) / 2).

For m = 1, a line through x followed both ways, it has no mean: its tail falls like 1 / t. So medians, logarithms and
inverse squares are averaged, never ratios. With several flat boundaries, as of an affine classifier of K classes, the
first one counts; the law then depends on the angles between their normals and on their distances alone.

References:
    Fawzi, Moosavi-Dezfooli, Frossard (2016), Robustness of classifiers: from adversarial to random noise,
    arXiv:1608.08967, for bounds on this law; Muirhead (1982), Aspects of multivariate statistical theory, Theorem
    3.3.1.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.statistics.proportions import FloatArray

NODES = 400  # of the quadrature behind a capped mean


@dataclass(frozen=True)
class RatioLaw:
    """Law of the distance to a flat boundary within a random subspace, over the distance to it.

    Args:
        features: D, entries of an input.
        dimension: m, dimension of the subspace, from 1 (a line, both ways) to D.

    Raises:
        InvalidInput: a dimension outside [1, features].

    >>> law = RatioLaw(features=784)
    >>> round(law.median / math.sqrt(784), 3), law.mean
    (1.481, inf)
    """

    features: int
    dimension: int = 1

    def __post_init__(self) -> None:
        _check_dimension(self.features, self.dimension)

    @property
    def _shapes(self) -> tuple[float, float]:
        return self.dimension / 2, (self.features - self.dimension) / 2

    def cdf(self, ratio: Tensor) -> Tensor:
        """Probability of a ratio of at most each of these, float64."""
        return self._tail(ratio, special.betainc, special.betaincc, 0.0)

    def survival(self, ratio: Tensor) -> Tensor:
        """Probability of a ratio above each of these, float64; without cancellation far out."""
        return self._tail(ratio, special.betaincc, special.betainc, 1.0)

    def _tail(self, ratio: Tensor, near: np.ufunc, far: np.ufunc, below: float) -> Tensor:
        """A tail by 1 - ratio^-2 near 1, where most of the mass is if m is close to D, and by ratio^-2 far out."""
        a, b = self._shapes
        t = np.maximum(_array(ratio), 1.0)
        if b == 0:  # the subspace is everything
            return _tensor(np.where(_array(ratio) >= 1, 1 - below, below), ratio)
        close = np.minimum(t, 2.0)
        tail = np.where(t < 2, near(b, a, (close - 1) * (close + 1) / close**2), far(a, b, t**-2.0))
        return _tensor(np.where(_array(ratio) < 1, below, tail), ratio)

    def quantile(self, probability: Tensor | float) -> Tensor:
        """The ratio below which a probability lies, float64; infinite at 1.

        Raises:
            InvalidInput: a probability outside [0, 1].
        """
        device = probability.device if isinstance(probability, Tensor) else "cpu"
        p = torch.as_tensor(probability, dtype=torch.float64, device=device)
        if not ((p >= 0) & (p <= 1)).all():
            raise InvalidInput(f"probability must lie in [0, 1], got {probability}")
        a, b = self._shapes
        if b == 0:
            return torch.ones_like(p)
        with np.errstate(divide="ignore"):
            return _tensor(1 / np.sqrt(special.betainccinv(a, b, _array(p))), p)

    @property
    def median(self) -> float:
        """Close to 1.4826 sqrt(D) for m = 1."""
        return float(self.quantile(0.5))

    @property
    def mean(self) -> float:
        """Infinite for m = 1, unless D = 1: a sample mean then means nothing."""
        a, b = self._shapes
        if b == 0:
            return 1.0
        if self.dimension == 1:
            return math.inf
        return math.exp(
            math.lgamma(a - 0.5)
            - math.lgamma(a)
            + math.lgamma(self.features / 2)
            - math.lgamma(self.features / 2 - 0.5)
        )

    @property
    def log_mean(self) -> float:
        """Mean of log ratio, (psi(D / 2) - psi(m / 2)) / 2."""
        return float(special.digamma(self.features / 2) - special.digamma(self.dimension / 2)) / 2

    @property
    def log_variance(self) -> float:
        """Variance of log ratio; close to pi^2 / 8 for m = 1."""
        return float(special.polygamma(1, self.dimension / 2) - special.polygamma(1, self.features / 2)) / 4

    @property
    def inverse_square_mean(self) -> float:
        """Mean of ratio^-2, exactly m / D."""
        return self.dimension / self.features

    @property
    def inverse_square_variance(self) -> float:
        """Variance of ratio^-2."""
        m, features = self.dimension, self.features
        return 2 * m * (features - m) / (features**2 * (features + 2))

    def capped_log_mean(self, cap: Tensor) -> Tensor:
        """Mean of log min(ratio, cap) for each cap of at least 1, float64: what a mean of censored logarithms is near.

        Raises:
            InvalidInput: a cap below 1.
        """
        ends = _array(cap)
        if not (ends >= 1).all():
            raise InvalidInput(f"cap must be at least 1, got {ends.min():g}")
        if self.features == self.dimension:
            return _tensor(np.zeros_like(ends), cap)
        # The integral of the survival function over log ratio, which is 1 and 0 beyond these ends up to rounding.
        spread = 40 * math.sqrt(self.log_variance)
        top = np.minimum(np.log(ends), self.log_mean + spread)[..., None]
        bottom = np.minimum(max(0.0, self.log_mean - spread), top)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        places = bottom + (top - bottom) * (nodes + 1) / 2
        inside = (self.survival(torch.from_numpy(np.exp(places))).numpy() * weights).sum(-1, keepdims=True)
        return _tensor((bottom + inside * (top - bottom) / 2)[..., 0], cap)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent ratios (count,), float64, on the device of the generator."""
        checks.at_least("count", count, 0)
        return self.quantile(_uniform((count,), generator))


@dataclass(frozen=True, eq=False)
class MulticlassRatioLaw:
    """Law of the distance to the first of several flat boundaries within a random subspace, over the least distance.

    It has no closed form, but an exact sampler at a cost that does not depend on the dimension of inputs. The distance
    to the complement of a polyhedron, such as the region of one class of an affine classifier, is that to its faces.

    Args:
        normals: (J, F) unit normals of the boundaries; or any rows with the same inner products.
        distances: (J,) their distances, above 0.
        features: D, entries of an input.
        dimension: m, dimension of the subspace.

    Raises:
        InvalidInput: other shapes, normals that are not of length 1, a distance that is not finite and above 0.
    """

    normals: Tensor
    distances: Tensor
    features: int
    dimension: int = 1

    def __post_init__(self) -> None:
        _check_dimension(self.features, self.dimension)
        if checks.tensor("normals", self.normals).ndim != 2 or len(self.normals) == 0:
            raise InvalidInput(f"normals must have shape (J, F), got {tuple(self.normals.shape)}")
        checks.rows("distances", self.distances, len(self.normals))
        if not ((self.distances > 0) & self.distances.isfinite()).all():
            raise InvalidInput(f"distances must be finite and above 0, got {self.distances.tolist()}")
        lengths = self.normals.double().norm(dim=1)
        if not ((lengths - 1).abs() < 1e-4).all():
            raise InvalidInput(f"normals must be of length 1, got lengths from {lengths.min():g} to {lengths.max():g}")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent ratios (count,), float64, on the device of the generator."""
        checks.at_least("count", count, 0)
        device = "cpu" if generator is None else generator.device
        share, basis = torch.linalg.eigh((self.normals.double() @ self.normals.double().T).to(device))
        kept = share > 1e-12 * share[-1]
        within = basis[:, kept] * share[kept].sqrt()  # (J, R): the normals in coordinates of the space they span
        lengths = self._projected(within, count, generator)
        distances = self.distances.double().to(device)
        found: Tensor = (distances / distances.min() / lengths).amin(1)
        return found

    def _projected(self, within: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Lengths (count, J) of the normals after projection onto random subspaces.

        Of R orthonormal vectors, the inner products after projection follow a matrix-variate Beta law: with A and B of
        Wishart laws with m and D - m degrees of freedom and A + B = L L^T, they are L^-1 A L^-T.
        """
        rank = within.shape[1]
        root = _wishart_root(count, rank, self.dimension, within, generator)
        rest = _wishart_root(count, rank, self.features - self.dimension, within, generator)
        whole = torch.linalg.cholesky(root @ root.mT + rest @ rest.mT)
        part = torch.linalg.solve_triangular(whole, root, upper=False)
        length: Tensor = (within @ part).norm(dim=2)
        return length


def affine_ratio_law(weight: Tensor, bias: Tensor, x: Tensor, *, dimension: int = 1) -> RatioLaw | MulticlassRatioLaw:
    """The exact law of the ratio at one input of an affine classifier.

    Args:
        weight: (K, F) of the logits ``weight @ x + bias``.
        bias: (K,).
        x: (F,), an input that is on no boundary.
        dimension: of the random subspaces.

    Raises:
        InvalidInput: other shapes, or an input on a boundary.
    """
    classes, features = weight.shape
    checks.rows("bias", bias, classes)
    checks.rows("x", x, features)
    logits = weight.double() @ x.double() + bias.double()
    others = torch.arange(classes, device=weight.device) != logits.argmax()
    normals = weight.double()[logits.argmax()] - weight.double()[others]
    lengths = normals.norm(dim=1)
    met = lengths > 0  # equal rows never change places
    distances = (logits.max() - logits[others])[met] / lengths[met]
    if len(distances) == 1:
        checks.positive("distance of x to the boundary", float(distances))
        return RatioLaw(features, dimension)
    return MulticlassRatioLaw(normals[met] / lengths[met, None], distances, features, dimension)


def _wishart_root(count: int, rank: int, freedom: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Square roots (count, rank, ...) of Wishart matrices: Bartlett's triangle, or a factor if that is thinner."""
    if freedom < rank:
        return torch.randn(count, rank, freedom, generator=generator, dtype=like.dtype, device=like.device)
    root = torch.randn(count, rank, rank, generator=generator, dtype=like.dtype, device=like.device).tril(-1)
    shapes = (freedom - np.arange(rank)) / 2
    squares = 2 * special.gammaincinv(shapes, _array(_uniform((count, rank), generator)))
    return root + torch.diag_embed(_tensor(np.sqrt(squares), like))


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Strictly between 0 and 1, float64."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device).clamp(min=2.0**-54)


def _check_dimension(features: int, dimension: int) -> None:
    checks.at_least("features", features, 1)
    checks.at_most("dimension", checks.at_least("dimension", dimension, 1), features)


def _array(values: Tensor) -> FloatArray:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)


def _tensor(values: FloatArray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(like.device)
