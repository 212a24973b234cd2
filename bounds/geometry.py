"""Local geometry of a network: curvature of its decision boundary and of its loss, normals, planes, frequencies.

Networks of pieces that are linear have no curvature within a piece: theirs sits in the kinks, which derivatives do not
see. Use a smooth network, or the loss instead of the logits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.models import frozen
from bounds.noise.directions import Alignment as Alignment
from bounds.noise.directions import NormalRank as NormalRank
from bounds.noise.directions import alignment as alignment
from bounds.noise.directions import normal_rank as normal_rank
from bounds.noise.ratio_law import RatioLaw
from bounds.noise.spans import EnergyShare as EnergyShare
from bounds.noise.spans import energy_share as energy_share
from bounds.noise.spans import leading_directions as leading_directions
from bounds.numerics import per_row
from bounds.statistics.proportions import FloatArray

Level = Callable[[Tensor], Tensor]  # of points (N, *D), one number each, (N,)


class BoundaryCurvature(NamedTuple):
    """Mean of the principal curvatures at each point, its standard error, and their root mean square, (N,) float64.

    Curvatures of both signs cancel in the mean, and not in the last.
    """

    mean: Tensor
    error: Tensor
    size: Tensor


@isolated
def boundary_curvature(
    level: Level, points: Tensor, *, probes: int = 32, generator: torch.Generator | None = None
) -> BoundaryCurvature:
    """Mean curvature of a level set, by the trace of its shape operator, and the size of its curvatures.

    With the unit normal n and P = I - n n', the shape operator is ``P H P / |gradient|``, whatever function has the
    level set. Its trace over D - 1 is estimated from Hessian products with random tangents (Hutchinson); positive where
    the set bends away from the direction of the gradient, as a sphere does for the distance from its centre.

    Args:
        level: such as the margin between two logits, twice differentiable, row by row.
        points: (N, *D) on the level set, D of at least 2.
        probes: random tangents, at least 2.
        generator: source of the tangents.

    Raises:
        InvalidInput: a bad argument, a vanishing gradient.
    """
    checks.inputs(points)
    checks.at_least("probes", probes, 2)
    checks.at_least("entries of an input", points[0].numel() if len(points) else 2, 2)
    generator = checks.generator(generator, points.device)
    normal, length = _normals(level, points)
    found, squares = [], []
    for _ in range(probes):
        signs = torch.empty_like(points).bernoulli_(generator=generator) * 2 - 1
        tangent = signs - _dot(signs, normal) * normal
        product = _hessian_product(level, points, tangent)
        squared = _dot(tangent, tangent).flatten().double().clamp(min=1e-12)  # its mean is D - 1
        found.append((_dot(tangent, product).flatten() / length).double() / squared)
        bent = product - _dot(product, normal) * normal
        squares.append((_dot(bent, bent).flatten() / length**2).double() / squared)
    values = torch.stack(found)
    return BoundaryCurvature(values.mean(0), values.std(0) / math.sqrt(probes), torch.stack(squares).mean(0).sqrt())


@isolated
def normal_curvature(level: Level, points: Tensor, directions: Tensor) -> Tensor:
    """Curvature of a level set in given directions, projected onto its tangent plane, (N,) float64.

    Raises:
        InvalidInput: a bad argument, a vanishing gradient, a direction along the normal.
    """
    normal, length = _normals(level, points)
    tangent = directions - _dot(directions, normal) * normal
    squared = _dot(tangent, tangent).flatten().double()
    if not (squared > 1e-12 * _dot(directions, directions).flatten().double()).all():
        raise InvalidInput("directions must not lie along the normal")
    bent = _dot(tangent, _hessian_product(level, points, tangent)).flatten().double()
    return bent / squared / length.double()


@isolated
def gradient_change(level: Level, points: Tensor, *, step: float) -> Tensor:
    """Change of a gradient over a step, as a share of its length, (N,) float64.

    The step has l_2 length ``step`` and equal size in all entries, along the signs of the gradient. In contrast to a
    second derivative this sees the kinks of a piecewise linear network; as a share it is the same for a multiple of the
    function, such as a network of other logits. 0 where the function is linear.

    Args:
        level: such as the margin between two logits, or the loss, row by row.
        points: (N, *D).
        step: l_2 length, in units of the input.

    Raises:
        InvalidInput: a bad argument, a vanishing gradient.

    References:
        Moosavi-Dezfooli, Fawzi, Uesato, Frossard (2019), arXiv:1811.09716, section 4, without the share.
    """
    checks.inputs(points)
    checks.positive("step", step)
    normal, length = _normals(level, points)
    signs = normal.sign()
    after, _ = _gradients(level, points + step * signs / _dot(signs, signs).sqrt())
    change: Tensor = (after / length.view_as(_dot(signs, signs)) - normal).flatten(1).double().norm(dim=1)
    return change


class PairedRatio(NamedTuple):
    """Geometric mean of ratios, and the ends of its confidence interval."""

    ratio: float
    low: float
    high: float


def paired_ratio(first: Tensor, second: Tensor, *, alpha: float = 0.05) -> PairedRatio:
    """By which factor a quantity of two networks differs on the same inputs: Student's interval of the log ratio.

    Args:
        first: (N,) values above 0, at least 2.
        second: (N,) likewise, of the network that is compared with.
        alpha: of the interval.

    Raises:
        InvalidInput: a bad argument.
    """
    checks.probability("alpha", alpha)
    checks.at_least("rows of first", len(first), 2)
    checks.rows("second", second, len(first))
    if not ((first > 0) & (second > 0)).all():
        raise InvalidInput("first and second must be above 0: leave out inputs where a quantity vanishes")
    logs = first.double().log() - second.double().log()
    reach = -special.stdtrit(len(logs) - 1, alpha / 2) * float(logs.std()) / math.sqrt(len(logs))
    center = float(logs.mean())
    return PairedRatio(math.exp(center), math.exp(center - reach), math.exp(center + reach))


@isolated
def hessian_eigenvalues(level: Level, point: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """The eigenvalues of largest size of the Hessian at one point, from low to high, and their eigenvectors.

    By Lanczos iteration on Hessian products, without the Hessian itself. Of the cross-entropy of a piecewise linear
    network with K classes at most K - 1 are not 0.

    Args:
        level: such as the loss, row by row.
        point: (1, *D).
        count: of eigenvalues, below the number of entries.

    Returns:
        (count,) float64 and (count, *D).
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    features = checks.inputs(point)[0].numel()
    checks.at_most("count", checks.at_least("count", count, 1), features - 1)

    def product(vector: FloatArray) -> FloatArray:
        direction = torch.from_numpy(np.asarray(vector, dtype=np.float64)).to(point).view_as(point)
        return np.asarray(_hessian_product(level, point, direction).flatten().double().cpu().numpy())

    operator = LinearOperator((features, features), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(features)  # any vector with all of the eigenvectors in it
    values, vectors = eigsh(operator, k=count, which="LM", v0=start)
    order = np.argsort(values)
    basis = torch.from_numpy(np.ascontiguousarray(vectors[:, order].T)).to(point)
    return torch.from_numpy(values[order]), basis.view(count, *point.shape[1:])


class CurvatureBounds(NamedTuple):
    """Bounds on the distance to a level where a loss is replaced by its expansion of second order."""

    lower: float
    upper: float


def curvature_bounds(gap: float, gradient: Tensor, curvature: float, eigenvector: Tensor) -> CurvatureBounds:
    r"""Bounds on the way to where a quadratic loss has risen by a gap, from its gradient and its largest curvature.

    Args:
        gap: threshold minus loss, at least 0.
        gradient: of the loss.
        curvature: nu, the largest eigenvalue of its Hessian, above 0.
        eigenvector: of that eigenvalue.

    Returns:
        :math:`\frac{\|g\|}{\nu} (\sqrt{1 + 2 \nu c / \|g\|^2} - 1)`, and the same with :math:`|g \cdot u|`.

    References:
        Moosavi-Dezfooli, Fawzi, Uesato, Frossard (2019), Robustness via curvature regularization, and vice versa,
        Theorem 1, arXiv:1811.09716.
    """
    c, nu = checks.nonnegative("gap", gap), checks.positive("curvature", curvature)
    g, u = gradient.detach().double().flatten(), eigenvector.detach().double().flatten()
    sizes = float(g.norm()), float((g @ u / u.norm()).abs())
    # 2 c / (s + sqrt(s^2 + 2 nu c)): the same root without cancellation.
    lower, upper = (2 * c / (size + math.sqrt(size**2 + 2 * nu * c)) if c > 0 else 0.0 for size in sizes)
    return CurvatureBounds(lower, upper)


# ------------------------------------------------------------------------------------------------------ planes, normals


class CrossSection(NamedTuple):
    """Predictions on a plane: coordinates (G,); by first and second one labels, margins (G, G), logits (G, G, K)."""

    coordinates: Tensor
    label: Tensor
    margin: Tensor
    logits: Tensor


@isolated
def cross_section(
    model: nn.Module,
    x: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    extent: float,
    grid: int = 101,
    batch_size: int = 1000,
) -> CrossSection:
    """The decision regions of a model in the plane through an input that two directions span.

    The second direction is made orthogonal to the first; both count in units of length. The margin is the logit of the
    class predicted for the input minus the largest other one: the boundary is where it is 0.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (*D), the input.
        first: (*D) direction, such as that to the nearest boundary point.
        second: (*D) direction that is not parallel to it.
        extent: largest coordinate, in units of the input.
        grid: coordinates on each axis; an odd number has the input in the middle.
        batch_size: points of a forward pass.

    Raises:
        InvalidInput: a bad argument, parallel directions.
    """
    checks.inputs(x[None])
    checks.positive("extent", extent)
    checks.at_least("grid", grid, 2)
    one = first / first.norm()
    rest = second - (second * one).sum() * one
    if not rest.norm() > 1e-6 * second.norm():
        raise InvalidInput("first and second must not be parallel")
    two = rest / rest.norm()
    places = torch.linspace(-extent, extent, grid, dtype=x.dtype, device=x.device)
    pairs = torch.cartesian_prod(places, places)
    wide = (-1, *[1] * x.ndim)
    with frozen(model), torch.no_grad():
        center = model(x[None].clone()).argmax(1)
        logits = torch.cat(
            [model(x + part[:, 0].view(wide) * one + part[:, 1].view(wide) * two) for part in pairs.split(batch_size)]
        )
    label = torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
    own = logits[:, center].squeeze(1)
    margin = own - logits.index_fill(1, center, -math.inf).amax(1)
    return CrossSection(places, label.view(grid, grid), margin.view(grid, grid), logits.view(grid, grid, -1))


def normal_spectrum(perturbations: Tensor) -> Tensor:
    """Singular values (min(N, D),) of the unit normals (N, *D) of a boundary, from large to small, float64.

    Their squares sum to N. Few large ones tell that normals lie close to a subspace of few dimensions, which is what
    universal perturbations live on.
    """
    flat = checks.inputs(perturbations).flatten(1).double()
    if not (flat.norm(dim=1) > 0).all():
        raise InvalidInput("perturbations must be of a length above 0: leave out inputs without a boundary point")
    values: Tensor = torch.linalg.svdvals(flat / flat.norm(dim=1, keepdim=True))
    return values


def frequency_basis(shape: tuple[int, int, int], *, size: int, offset: int, like: Tensor) -> Tensor:
    """Orthonormal images (C size^2, C, H, W) of a block of frequencies of the discrete cosine transform.

    Args:
        shape: (C, H, W).
        size: frequencies of the block along each side.
        offset: of its first frequency, along both.
        like: a tensor whose dtype and device to take.

    Raises:
        InvalidInput: a block that goes beyond the frequencies of the image.

    References:
        Ortiz-Jimenez, Modas, Moosavi-Dezfooli, Frossard (2020), Hold me tight!, arXiv:2002.06349, section 3.
    """
    channels, height, width = shape
    checks.at_least("size", size, 1)
    checks.at_most("offset", checks.at_least("offset", offset, 0), min(height, width) - size)
    rows, columns = (cosine_transform(length, like)[offset : offset + size] for length in (height, width))
    images = torch.einsum("ah,bw->abhw", rows, columns).reshape(size**2, 1, 1, height, width)
    each = torch.eye(channels, dtype=like.dtype, device=like.device).view(1, channels, channels, 1, 1)
    return (images * each).reshape(channels * size**2, channels, height, width)


def cosine_transform(length: int, like: Tensor) -> Tensor:
    """The orthonormal matrix of the discrete cosine transform (type II), (length, length)."""
    k = torch.arange(length, dtype=torch.float64, device=like.device)
    matrix = torch.cos(math.pi / length * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like.dtype)


def margin_quantiles(least: Tensor, *, features: int, dimension: int, probability: float) -> Tensor:
    """Quantile (N,) of the margin in a subspace if it were random, for inputs at those least distances (N,).

    What margins in a block of frequencies are to be compared with: below it, the network is sensitive to them.
    """
    return least.double() * RatioLaw(features, dimension).quantile(probability).to(least.device)


# --------------------------------------------------------------------------------------------------------------- parts


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows, shaped to broadcast over them."""
    return per_row((a * b).flatten(1).sum(1), a)


def _normals(level: Level, points: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals (N, *D) and lengths of the gradient (N,)."""
    gradient, length = _gradients(level, points)
    if not (length > 0).all():
        raise InvalidInput("the gradient must not vanish at the points")
    return gradient / per_row(length, points), length


def _gradients(level: Level, points: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (N, *D) and their lengths (N,)."""
    at = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(level(at).sum(), at)
    return gradient, gradient.flatten(1).norm(dim=1)


def _hessian_product(level: Level, points: Tensor, directions: Tensor) -> Tensor:
    """Hessian of each row times its direction, (N, *D); 0 of a function that is linear in pieces."""
    at = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(level(at).sum(), at, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros_like(points)
        (product,) = torch.autograd.grad((gradient * directions).sum(), at, allow_unused=True)
    return torch.zeros_like(points) if product is None else product.detach()
