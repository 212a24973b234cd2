r"""Norms of matrices and convolutions from above, rounding included.

Power iteration approaches the largest singular value from below and proves nothing. Here it comes from the eigenvalues
of the Gram matrix, whose error is bounded afterwards, or from Gram iteration: with any norm bound,
:math:`\|K\|^2 = \|K K^T\|`, and the crude bound :math:`\|K\|_2 \le (\|K\|_1 \|K\|_\infty)^{1/2}` loses less after every
squaring. A convolution with zero padding is a part of the convolution of the whole plane, whose Gram operator is again
a convolution; strides are put into channels first.

References:
    Delattre, Barthélemy, Araujo, Allauzen (2023), Efficient bound of Lipschitz constant for convolutional layers by
    Gram iteration, arXiv:2305.16173; Schur (1911) for the crude bound; Riesz and Thorin for orders between.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.numerics import accumulated_error
from bounds.solvers.semidefinite import least_eigenvalue

UP = 1 + 64 * 2.0**-53  # for a few rounded operations on nonnegative numbers


class Matrix(NamedTuple):
    """A real matrix (rows, columns) known up to an error entry by entry, float64."""

    value: Tensor
    error: Tensor

    @property
    def size(self) -> Tensor:
        """Absolute values from above."""
        return (self.value.abs() + self.error) * UP

    def __matmul__(self, other: "Matrix") -> "Matrix":
        """The product, with its rounding."""
        gamma = 2 * accumulated_error(self.value.shape[1] + 4, self.value.dtype)
        rounding_error = self.error @ other.size + self.value.abs() @ other.error + gamma * (self.size @ other.size)
        return Matrix(self.value @ other.value, rounding_error * (1 + gamma))

    def scaled(self, rows: Tensor) -> "Matrix":
        """Rows multiplied with exact factors (rows,)."""
        value = self.value * rows[:, None]
        return Matrix(value, (self.error * rows.abs()[:, None] + 2.0**-52 * value.abs()) * UP)


def exact(matrix: Tensor) -> Matrix:
    """A matrix that is just what it says."""
    return Matrix(matrix, torch.zeros_like(matrix))


def matrix_norm(matrix: Matrix, order: float) -> float:
    """An upper bound on the norm induced by the l_p norm on both sides, exact up to rounding for p = 1, 2, infinity.

    Between these it is interpolated (Riesz and Thorin).
    """
    if matrix.value.numel() == 0:
        return 0.0
    return interpolated(order, *row_and_column_sums(matrix), lambda: spectral_norm(matrix))


def interpolated(order: float, rows: float, columns: float, spectral: Callable[[], float]) -> float:
    """A bound on the induced norm from those for infinity (rows), 1 (columns) and 2 (called if needed)."""
    if order == 1:
        return columns
    if order == math.inf:
        return rows
    two = spectral()
    if order == 2:
        return float(two)
    share, other = (2 / order - 1, columns) if order < 2 else (1 - 2 / order, rows)
    return float(other**share * two ** (1 - share) * UP)


def row_and_column_sums(matrix: Matrix) -> tuple[float, float]:
    """Largest sums of absolute values: the norms for infinity and 1."""
    rows, columns = (float(matrix.size.sum(dim).max()) for dim in (1, 0))
    gamma = accumulated_error(max(matrix.value.shape) + 4, matrix.value.dtype)
    return rows * (1 + 2 * gamma), columns * (1 + 2 * gamma)


def spectral_norm(matrix: Matrix) -> float:
    """An upper bound on the largest singular value, by the eigenvalues of the smaller Gram matrix."""
    value = matrix.value if matrix.value.shape[0] <= matrix.value.shape[1] else matrix.value.T
    gamma = 2 * accumulated_error(value.shape[1] + 4, value.dtype)
    absolute = value.abs()
    rounding = float(torch.linalg.matrix_norm(gamma * (absolute @ absolute.T)))
    square = float(-least_eigenvalue(-(value @ value.T))) + rounding * (1 + gamma) + torch.finfo(value.dtype).tiny
    error = float(torch.linalg.matrix_norm(matrix.error)) if bool(matrix.error.any()) else 0.0
    return (math.sqrt(square) + error) * UP * (1 + gamma)


def plane_norm(kernel: Tensor, iterations: int = 4) -> float:
    """An upper bound on the spectral norm of a convolution of the whole plane, of stride 1.

    Args:
        kernel: (out, in, height, width) float64; of size 1 by 1 it is a matrix.
        iterations: squarings; each doubles the size of the kernel.
    """
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1).flip(2, 3)  # the transpose has the same norm, and a smaller Gram operator
    scale = 2.0 ** math.ceil(math.log2(max(float(kernel.abs().max()), 1e-300)))
    return scale * _plane_norm(kernel / scale, iterations)


def _plane_norm(kernel: Tensor, iterations: int) -> float:
    absolute = kernel.abs()
    rows, columns = (float(absolute.sum(dims).max()) for dims in ((1, 2, 3), (0, 2, 3)))
    gamma = 2 * accumulated_error(kernel.numel() // min(kernel.shape[:2]) + 8, kernel.dtype)
    crude = math.sqrt(rows * columns) * (1 + gamma) * UP
    if iterations == 0:
        return crude
    height, width = kernel.shape[2:]
    gram = F.conv2d(kernel, kernel, padding=(height - 1, width - 1))  # every shift of the kernel over itself
    # Each entry of the Gram kernel is off by at most gamma times that of absolute values.
    error = gamma * rows * columns + torch.finfo(kernel.dtype).tiny
    return min(crude, math.sqrt(plane_norm(gram, iterations - 1) + error) * UP)


def without_stride(kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """The kernel of stride 1 on the plane whose channels are the phases of the stride: the same operator."""
    for axis, step in zip((2, 3), stride, strict=True):
        size = kernel.shape[axis]
        fill = [0, 0] * (3 - axis) + [0, -size % step]
        kernel = F.pad(kernel, fill).unflatten(axis, (-1, step))
        kernel = kernel.movedim(axis + 1, 2).flatten(1, 2)
    return kernel
