"""Variances, norms, distances and products, as roots, sums and products."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.decompositions.known import within
from bounds.decompositions.pooling import amin


def variance(x: Tensor, dim: list[int], unbiased: bool = True, keepdim: bool = False) -> Tensor:
    """Variance over some dimensions."""
    return variance_corrected(x, dim, correction=int(unbiased), keepdim=keepdim)


def variance_corrected(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Variance over some dimensions, with ``n - correction`` for n."""
    dims = list(range(x.ndim)) if not dim else list(dim)
    count = math.prod(x.shape[d] for d in dims)
    squares = (x - x.mean(dims, keepdim=True)) ** 2
    return squares.sum(dims, keepdim) / (count - (1 if correction is None else correction))


def standard_deviation(x: Tensor, dim: list[int], unbiased: bool = True, keepdim: bool = False) -> Tensor:
    """Root of the variance."""
    return _root(variance(x, dim, unbiased, keepdim))


def standard_deviation_corrected(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Root of the variance, with ``n - correction`` for n."""
    return _root(variance_corrected(x, dim, correction=correction, keepdim=keepdim))


def _root(squares: Tensor) -> Tensor:
    """The root of a sum of squares, whose bounds rounding may take below 0."""
    found: Tensor = within(squares, 0.0, math.inf).sqrt()
    return found


def vector_norm(
    x: Tensor, ord: float = 2, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Norms of any order but 0, which has no bounds."""
    dims = list(range(x.ndim)) if dim is None else list(dim)
    if ord == 1:
        return x.abs().sum(dims, keepdim)
    if ord == math.inf:
        return x.abs().amax(dims, keepdim)
    if ord == -math.inf:
        return amin(x.abs(), tuple(dims), keepdim)
    if ord == 2:
        return _root((x**2).sum(dims, keepdim))
    if ord == 0:
        return NotImplemented  # type: ignore[no-any-return]  # export takes it for an operation that stays as it is
    powers: Tensor = within((x.abs() ** ord).sum(dims, keepdim), 0.0, math.inf)
    root: Tensor = powers ** (1 / ord)
    return root


def legacy_norm(x: Tensor, p: float | None = 2, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """A norm under its former name."""
    return vector_norm(x, 2 if p is None else p, list(dim) or None, keepdim)


def with_mean(moment: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A variance or standard deviation, and the mean."""

    def both(x: Tensor, dim: list[int] | None = None, *rest: bool, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        dims = list(range(x.ndim)) if not dim else list(dim)
        keepdim = bool(rest[1] if len(rest) > 1 else options.get("keepdim", False))
        return moment(x, dims, *rest, **options), x.mean(dims, keepdim)

    return both


def norm_of_difference(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """The norm of a difference, of all entries."""
    return vector_norm(x - y, p)


def pairwise_distance(x: Tensor, y: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The norm of a difference along the last dimension, with a number added to all its entries."""
    return vector_norm(x - y + eps, p, [-1], keepdim)


def distances(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Norms of all differences between rows of two matrices."""
    return vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, [-1])


def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The product of two vectors over those of their lengths."""
    directions = (part / vector_norm(part, 2, [dim], True).clamp(min=eps) for part in (x, y))
    first, second = directions
    found: Tensor = within((first * second).sum(dim), -1 - 1e-6, 1 + 1e-6)  # float32 rounds it
    return found


def hypotenuse(x: Tensor, y: Tensor) -> Tensor:
    """The root of the sum of two squares."""
    return _root(x**2 + y**2)


def angle(y: Tensor, x: Tensor) -> Tensor:
    """The angle of the point (x, y), as twice the one at the edge of its circle.

    Where the divisor may be 0, on the negative half of the axis, all that is known is that no angle exceeds pi.
    """
    return 2 * (y / (hypotenuse(x, y) + x)).atan()


def product(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """The product along a dimension, in pairs."""
    parts = list(x.unbind(dim))
    while len(parts) > 1:
        pairs = [first * second for first, second in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0].unsqueeze(dim) if keepdim else parts[0]


def running_product(x: Tensor, dim: int) -> Tensor:
    """The product of all entries so far, along a dimension."""
    parts = x.unbind(dim)
    found = [parts[0]]
    for part in parts[1:]:
        found.append(found[-1] * part)
    return torch.stack(found, dim)


def bilinear_form(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A form in two vectors for each output."""
    outputs, left, right = weight.shape
    of_left: Tensor = F.linear(x, weight.permute(0, 2, 1).reshape(outputs * right, left)).unflatten(
        -1, (outputs, right)
    )
    found = (of_left * y.unsqueeze(-2)).sum(-1)
    return found if bias is None else found + bias
