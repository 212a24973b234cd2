"""Values that are affine in the variables of a programme, up to what rounding can have changed."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.numerics import unit_roundoff
from bounds.solvers.linear_programme import LinearProgramme


class AffineForm(NamedTuple):
    """``sum of v_i * matrix[i]``, plus ``offset``, up to ``rounding_error``: values of a node, affine in the variables.

    Attributes:
        matrix: (V, *shape); variables that came later do not occur.
        offset: of shape *shape.
        rounding_error: of shape *shape, what rounding can have changed for any values of the variables.
    """

    matrix: Tensor
    offset: Tensor
    rounding_error: Tensor

    def at(self, chosen: Tensor, count: int) -> "AffineForm":
        """Some entries in a row, for ``count`` variables: (V, J), (J,), (J,)."""
        return AffineForm(padded(self.matrix[:, chosen], count, 0), self.offset[chosen], self.rounding_error[chosen])

    def negated(self) -> "AffineForm":
        """The opposite values."""
        return AffineForm(-self.matrix, -self.offset, self.rounding_error)


def at_least_zero(form: AffineForm) -> tuple[Tensor, Tensor]:
    """Matrix and right side of the rows that say that the entries of a form are at least 0."""
    return form.matrix.T, -(form.offset + form.rounding_error)


def lowest(programme: LinearProgramme, form: AffineForm) -> Tensor:
    """Lower bounds (J,) on the entries of a form over a programme."""
    return shifted(programme.minima(form.matrix.T), form)


def shifted(least: Tensor, form: AffineForm) -> Tensor:
    """Lower bounds (J,) on the entries of a form, from those on its linear part."""
    error = form.rounding_error + 4 * unit_roundoff(least.dtype) * (
        least.abs() + form.offset.abs() + form.rounding_error
    )
    bound = least + form.offset - error
    return torch.where(bound.isnan(), -math.inf, bound)


def padded(matrix: Tensor, count: int, dim: int) -> Tensor:
    """Zeros for variables that came later."""
    shape = list(matrix.shape)
    shape[dim] = count - shape[dim]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim)
