"""Affine operations on complex numbers, which are kept as pairs of real ones in a last dimension.

Fourier transforms are products with matrices of sines and cosines, one for each dimension: errors of a fast transform
are small against the largest of all terms only, not against the terms of each entry.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations.node import Function, Node, part_of

Nodes = Mapping[str, Node]

OF_COMPLEX = " of complex numbers"  # in the names of operations that take or give them
FOURIER = "certify_bounds.fourier.default"


def in_pairs(function: Function, places: list[bool]) -> Function:
    """A function of complex numbers as one of pairs, in the given places; its value likewise."""

    def paired(*data: Tensor) -> Tensor:
        numbers = (torch.view_as_complex(x.contiguous()) if pair else x for x, pair in zip(data, places, strict=True))
        value = function(*numbers)
        return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value

    return paired


def split_spread(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """For matrices that take at most one real and one imaginary part to each entry, as products with a constant do."""
    (moves,) = reach
    start = node.function(torch.zeros_like(moves))
    imaginary = torch.arange(moves.shape[-1], device=moves.device) % 2
    parts = (moves * (1 - imaginary), moves * imaginary)
    return torch.stack([(node.function(part) - start).abs() for part in parts]).sum(0)


# --------------------------------------------------------------------------------------------------- Fourier transforms


def along(x: Tensor, dim: int, matrix: Tensor, real: bool) -> Tensor:
    """The product of a matrix (n 2, m 2) or (n 2, m) with the pairs along one dimension of (.., n, .., 2)."""
    product = x.movedim(dim, -2).flatten(-2) @ matrix.to(x)
    return product.movedim(-1, dim) if real else product.unflatten(-1, (-1, 2)).movedim(-2, dim)


def fourier_spread(node: Node, reach: tuple[Tensor, ...]) -> Tensor:
    """With the absolute values of the matrix."""
    _, dim, matrix, real = node.arguments
    return along(reach[0], dim, matrix.abs(), real)


def fourier_terms(node: Node, parents: tuple[Tensor, ...]) -> int:
    """A sum along one dimension, or along that of the result."""
    matrix: Tensor = node.arguments[2]
    return max(matrix.shape) + 2


def waves(n: int, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, n) of all products of two indices, in units of 1/n turn, each accurate to its own size."""
    index = torch.arange(n)
    turn = torch.outer(index, index) % n
    # The nearest quarter, and what is left of at most an eighth: no digits are lost near zeros.
    quarter = (8 * turn + n) // (2 * n)
    rest = (4 * turn - n * quarter).double() * (math.pi / (2 * n))
    cosine, sine = rest.cos(), rest.sin()
    table = torch.stack([cosine, -sine, -cosine, sine])  # cosines of rest + quarter
    first = table.gather(0, (quarter % 4)[None])[0]
    second = table.gather(0, ((quarter + 3) % 4)[None])[0]
    return first, second if inverse else -second


def _transform(n: int, *, inverse: bool, scale: float, kept: int | None = None) -> Tensor:
    """Matrix (n 2, m 2) of the transform of n pairs, of which the first m remain."""
    cosine, sine = waves(n, inverse=inverse)
    cosine, sine = cosine[:, :kept], sine[:, :kept]
    rows = torch.stack([torch.stack([cosine, sine], 2), torch.stack([-sine, cosine], 2)], 1)  # (n, 2, m, 2)
    return rows.flatten(2).flatten(0, 1) * scale


def _to_real(n: int, given: int, *, scale: float) -> Tensor:
    """Matrix (given 2, n) of the inverse transform of the first half of a symmetric sequence."""
    cosine, sine = waves(n, inverse=True)
    twice = torch.full((n // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[0] = 1
    if n % 2 == 0:
        twice[-1] = 1
    half = n // 2 + 1
    # Where a number and its conjugate are one and the same, the imaginary part does not matter.
    rows = torch.stack([twice * cosine[:half], -twice * sine[:half] * (twice > 1)], 1).flatten(0, 1) * scale
    return F.pad(rows, (0, 0, 0, 2 * (given - half)))


def _scale(n: int, normalization: int) -> float:
    return (1.0, n**-0.5, 1.0 / n)[normalization]


def _chain(node: Node, start: Node, steps: list[tuple[int, Tensor, bool]]) -> list[Node]:
    """Products along several dimensions, one after another."""
    made: list[Node] = []
    for i, (dim, matrix, real) in enumerate(steps):
        suffix = "" if i == len(steps) - 1 else f"dimension {i}"
        function = partial(along, dim=dim, matrix=matrix, real=real)
        made.append(part_of(node, suffix, FOURIER, (made[-1] if made else start,), function, (None, dim, matrix, real)))
    return made


def _dims(node: Node, ndim: int) -> list[int]:
    """Transformed dimensions, without that of pairs."""
    return [dim % ndim for dim in node.arguments[1]]


def _paired(node: Node, x: Node, suffix: str) -> Node:
    """Real numbers with imaginary parts 0."""
    return part_of(node, suffix, "aten.constant_pad_nd.default", (x,), lambda v: F.pad(v[..., None], (0, 1)), (None,))


def _cast(node: Node, nodes: Nodes) -> list[Node]:
    """The numbers as they are, whatever their precision was; a cast that drops imaginary parts has no rule."""
    (x,) = (nodes[parent] for parent in node.parents)
    if node.value.ndim == x.value.ndim + 1:
        return [_paired(node, x, "")]
    if node.value.ndim == x.value.ndim:
        return [part_of(node, "", "aten.clone.default", (x,), lambda v: v, (None,))]
    return [node]


def _from_real(node: Node, nodes: Nodes) -> list[Node]:
    """The transform of real numbers, or the first half of it."""
    (x,) = (nodes[parent] for parent in node.parents)
    dims, (_, _, normalization, half) = _dims(node, x.value.ndim), node.arguments
    pairs = _paired(node, x, "pairs")
    steps = []
    for dim in reversed(dims):
        n = x.value.shape[dim]
        kept = n // 2 + 1 if half and dim == dims[-1] else None
        steps.append((dim, _transform(n, inverse=False, scale=_scale(n, normalization), kept=kept), False))
    return [pairs, *_chain(node, pairs, steps)]


def _of_complex(node: Node, nodes: Nodes) -> list[Node]:
    """The transform of complex numbers, or the inverse one."""
    (x,) = (nodes[parent] for parent in node.parents)
    _, _, normalization, forward = node.arguments
    steps = []
    for dim in _dims(node, x.value.ndim - 1):
        n = x.value.shape[dim]
        steps.append((dim, _transform(n, inverse=not forward, scale=_scale(n, normalization)), False))
    return _chain(node, x, steps)


def _back(node: Node, nodes: Nodes) -> list[Node]:
    """The inverse transform to real numbers, of the first half along the last dimension."""
    (x,) = (nodes[parent] for parent in node.parents)
    *others, last = _dims(node, x.value.ndim - 1)
    _, _, normalization, size = node.arguments
    steps = [
        (dim, _transform(n := x.value.shape[dim], inverse=True, scale=_scale(n, normalization)), False)
        for dim in others
    ]
    steps.append((last, _to_real(size, x.value.shape[last], scale=_scale(size, normalization)), True))
    return _chain(node, x, steps)


def _magnitude(node: Node, nodes: Nodes) -> list[Node]:
    """The root of the sum of both squares."""
    (x,) = (nodes[parent] for parent in node.parents)
    squares = part_of(node, "squares", "aten.square.default", (x,), torch.square, (None,))
    total = part_of(node, "total", "aten.sum.dim_IntList", (squares,), lambda y: y.sum(-1), (None, [-1]))
    within: Callable[..., Any] = lambda y: y.clamp(min=0)  # noqa: E731  # rounding may take bounds below 0
    known = part_of(node, "known", "certify_bounds.within.default", (total,), within, (None, 0.0, math.inf))
    return [squares, total, known, part_of(node, "", "aten.sqrt.default", (known,), torch.sqrt, (None,))]


COMPLEX_PARTS: Mapping[str, Callable[[Node, Nodes], list[Node]]] = {
    f"aten._fft_r2c.default{OF_COMPLEX}": _from_real,
    f"aten._fft_c2c.default{OF_COMPLEX}": _of_complex,
    f"aten._fft_c2r.default{OF_COMPLEX}": _back,
    f"aten.abs.default{OF_COMPLEX}": _magnitude,
    f"aten._to_copy.default{OF_COMPLEX}": _cast,
}
