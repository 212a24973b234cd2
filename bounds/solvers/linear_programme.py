r"""Linear programmes whose solver is not trusted: its multipliers are, once they have been checked.

Any multipliers :math:`\lambda \ge 0` bound the programme :math:`\min c v`, :math:`A v \ge b`, :math:`l \le v \le u` by

.. math:: \lambda b + \sum_i \min_{l_i \le v_i \le u_i} (c - A^T \lambda)_i v_i.

So the solver proposes, and this number, with its own rounding errors subtracted, is what counts: a sloppy answer costs
tightness, never soundness. Above 0 for c = 0, it proves that there is no v at all.

References:
    Neumaier, Shcherbina (2004), Safe bounds in linear and mixed-integer linear programming, Math. Program. 99.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.numerics import accumulated_error
from bounds.solvers.simplex import Simplex


class Proposal(NamedTuple):
    """The answer of a solver to a programme; nothing in it is proved.

    Attributes:
        multipliers: (R,), zeros where it says nothing; a ray where it claims that there is no point.
        point: (V,) where the minimum lies; None where it found none.
    """

    multipliers: Tensor
    point: Tensor | None


@dataclass(frozen=True, eq=False)
class LinearProgramme:
    """All v with ``matrix @ v >= right`` and ``lower <= v <= upper``.

    Attributes:
        matrix: (R, V), float64 like the others.
        right: (R,), finite; methods take another one, for which the solver goes on from where it is.
        lower: (V,), infinite where nothing is known.
        upper: likewise.
    """

    matrix: Tensor
    right: Tensor
    lower: Tensor
    upper: Tensor

    def minima(self, costs: Tensor) -> Tensor:
        """Proved lower bounds (B,) on ``costs @ v`` for costs (B, V), the minima where the solver is right."""
        multipliers = [self.propose(cost, self.right).multipliers for cost in costs]
        return self.proved(costs, torch.stack(multipliers), self.right) if multipliers else costs.new_zeros(0)

    def proved(self, costs: Tensor, multipliers: Tensor, right: Tensor) -> Tensor:
        """Lower bounds (B,) on ``costs @ v`` by any multipliers (B, R), rounding included; minus infinity for NaN."""
        weights = multipliers.clamp(min=0)
        reduced = costs - weights @ self.matrix
        value = weights @ right + torch.where(reduced > 0, reduced * self.lower, reduced * self.upper).sum(1)
        reach = torch.maximum(self.lower.abs(), self.upper.abs())
        size = weights @ right.abs() + (costs.abs() + weights @ self.matrix.abs()) @ reach
        rows, variables = self.matrix.shape
        error = 2 * accumulated_error(rows + variables + 8, costs.dtype) * size
        underflow = torch.finfo(costs.dtype).tiny * (rows + 4) * (reach.sum() + variables)
        bound = value - (error + underflow)
        return torch.where(bound < math.inf, bound, -math.inf)  # neither overflow nor NaN proves anything

    def propose(self, cost: Tensor, right: Tensor) -> Proposal:
        """The answer of the solver for one cost (V,)."""
        multipliers, point = self._simplex.minimum(cost, right)
        return Proposal(
            torch.zeros_like(right) if multipliers is None else right.new_tensor(multipliers),
            None if point is None else right.new_tensor(point),
        )

    def with_rows(self, matrix: Tensor, right: Tensor) -> "LinearProgramme":
        """The programme with more rows. The solver goes over to it, with what it has found so far."""
        whole = replace(self, matrix=torch.cat([self.matrix, matrix]), right=torch.cat([self.right, right]))
        simplex = self.__dict__.pop("_simplex", None)
        if simplex is not None:
            simplex.add(matrix)
            whole.__dict__["_simplex"] = simplex
        return whole

    @cached_property
    def _simplex(self) -> Simplex:
        return Simplex(self.matrix, self.lower, self.upper)
