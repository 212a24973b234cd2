"""Values that are affine in the variables of a programme, up to what rounding can have changed."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.numerics import unit_roundoff
from bounds.solvers.linear_programme import LinearProgramme


class Form(NamedTuple):
    """``sum of v_i * matrix[i]``, plus ``offset``, up to ``doubt``: values of a node, affine in the variables.

    Attributes:
        matrix: (V, *shape); variables that came later do not occur.
        offset: of shape *shape.
        doubt: likewise, what rounding can have changed for any values of the variables.
    """

    matrix: Tensor
    offset: Tensor
    doubt: Tensor

    def at(self, chosen: Tensor, count: int) -> "Form":
        """Some entries in a row, for ``count`` variables: (V, J), (J,), (J,)."""
        return Form(padded(self.matrix[:, chosen], count, 0), self.offset[chosen], self.doubt[chosen])

    def negated(self) -> "Form":
        """The opposite values."""
        return Form(-self.matrix, -self.offset, self.doubt)


def nonnegative(form: Form) -> tuple[Tensor, Tensor]:
    """Matrix and right side of the rows that say that the entries of a form are at least 0."""
    return form.matrix.T, -(form.offset + form.doubt)


def lowest(programme: LinearProgramme, form: Form) -> Tensor:
    """Lower bounds (J,) on the entries of a form over a programme."""
    return shifted(programme.minima(form.matrix.T), form)


def shifted(least: Tensor, form: Form) -> Tensor:
    """Lower bounds (J,) on the entries of a form, from those on its linear part."""
    error = form.doubt + 4 * unit_roundoff(least.dtype) * (least.abs() + form.offset.abs() + form.doubt)
    bound = least + form.offset - error
    return torch.where(bound.isnan(), -math.inf, bound)


def padded(matrix: Tensor, count: int, dim: int) -> Tensor:
    """Zeros for variables that came later."""
    shape = list(matrix.shape)
    shape[dim] = count - shape[dim]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim)
