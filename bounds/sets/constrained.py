r"""Perturbation sets with linear constraints: what of a set satisfies ``matrix @ x <= bound``.

For every :math:`\lambda \ge 0`,

.. math:: \min_{x \in S, G x \le h} a \cdot x \ge \min_{x \in S} (a + G^T \lambda) \cdot x - \lambda \cdot h,

so any multipliers give a lower bound, which is computed anew from them with all rounding errors. They are found by a
search along one multiplier after the other: the right side is concave in each.
"""

from copy import copy
from fractions import Fraction
from typing import Self

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error, underflow
from bounds.sets.balls import Interval, PerturbationSet, perturbation_set
from bounds.sets.linear_minimum import linear_minimum

ROUNDS = 12  # of the search along one multiplier
SWEEPS = 3  # through all multipliers


class Constrained(PerturbationSet):
    """The inputs of another set that satisfy linear constraints, ``matrix @ x <= bound``.

    Minima of linear functions are bounded by multipliers: tight for one constraint up to the search, and for sets that
    are not convex down to the minimum over the convex hull of the set. They are never looser than without constraints.

    Args:
        region: N perturbation sets.
        matrix: (M, *D) floating tensor, or (M, F) with F entries of an input; the same constraints for all inputs.
        bound: (M,).

    Raises:
        InvalidInput: shapes that do not match, entries that are not finite, an input that violates a constraint.
    """

    center: Tensor

    def __init__(self, region: PerturbationSet, matrix: Tensor, bound: Tensor) -> None:
        perturbation_set(region)
        checks.tensor("matrix", matrix)
        checks.tensor("bound", bound)
        size = region.center.shape[1:].numel()
        if matrix.ndim < 2 or matrix.shape[1:].numel() != size or bound.shape != matrix.shape[:1]:
            raise InvalidInput(
                f"matrix must have shape (M, {size}) and bound (M,), got {tuple(matrix.shape)} and "
                f"{tuple(bound.shape)}: write one row for each constraint"
            )
        if not (bool(matrix.isfinite().all()) and bool(bound.isfinite().all())):
            raise InvalidInput("matrix and bound must be finite, but some entry is not: leave out what bounds nothing")
        self.region, self.center = region, region.center
        self.matrix = matrix.flatten(1).to(region.center.device, torch.float64)
        self.bound = bound.to(region.center.device, torch.float64)
        wrong = ~self.satisfied(region.center.double().flatten(1))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InvalidInput(f"x must satisfy the constraints, but row {row} does not: check matrix @ x <= bound")

    def around(self, region: PerturbationSet) -> Self:
        """Constraints of this set on another one."""
        other = copy(self)
        other.region, other.center = region, region.center
        return other

    def rows(self, index: Tensor) -> Self:
        """The sets of some inputs, given by their places (B,)."""
        return self.around(self.region.rows(index))

    def double(self) -> Self:
        """The set in float64."""
        return self.around(self.region.double())

    def hull(self) -> Interval:
        """The box around the set without constraints."""
        return self.region.hull()

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of all entries at once; bounds use :meth:`largest_fall`, for which signs count."""
        return (slopes * reach).sum(-1), reach

    def largest_fall(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The fall by the best multipliers that were found, rounding errors included; see :class:`PerturbationSet`."""
        matrix, bound = self.matrix.to(rows.dtype), self.bound.to(rows.dtype)
        weights = rows.new_zeros(*rows.shape[:2], len(bound))
        for _ in range(SWEEPS if len(bound) > 1 else 1):
            for place in range(len(bound)):
                others = weights.index_fill(2, torch.tensor([place], device=rows.device), 0.0)
                best = self._best(rows + others @ matrix, matrix[place], bound[place])
                weights = others.index_copy(2, torch.tensor([place], device=rows.device), best[..., None])
        moved = rows + weights @ matrix
        shape = (*rows.shape[:2], *self.center.shape[1:])
        least = linear_minimum(moved.reshape(shape), self.region) - weights @ bound
        center = self.center.flatten(1)[:, None].to(rows.dtype)
        hull = self.region.hull()
        sizes = torch.maximum(-hull.lower, hull.upper).flatten(1)[:, None].to(rows.dtype)
        terms = ((rows.abs() + weights @ matrix.abs()) * sizes).sum(2) + weights @ bound.abs() + least.abs()
        error = 4 * accumulated_error(rows.shape[2] + len(bound) + 16, rows.dtype) * terms
        fall = (rows * center).sum(2) - least + (error + underflow(rows.dtype))
        return fall, self.region.largest_fall(moved)[1]

    def _best(self, rows: Tensor, row: Tensor, bound: Tensor) -> Tensor:
        """The best multiplier (N, R) of one constraint, by tangents of the concave dual function and by bisection."""
        center = self.center.flatten(1)[:, None].to(rows.dtype)

        def dual(weight: Tensor) -> tuple[Tensor, Tensor]:
            """Value and slope."""
            moved = rows + weight[..., None] * row
            fall, move = self.region.largest_fall(moved)
            return (moved * center).sum(2) - fall - weight * bound, ((center + move) * row).sum(2) - bound

        least = torch.where(row != 0, row.abs(), torch.inf).amin().clamp(max=torch.finfo(rows.dtype).max ** 0.25)
        low, high = torch.zeros_like(rows[..., 0]), 2 * rows.abs().sum(2) / least
        (low_value, low_slope), (high_value, high_slope) = dual(low), dual(high)
        rising = low_slope > 0
        best = torch.where(rising & (high_value > low_value), high, low)
        best_value = torch.maximum(low_value, high_value)
        for step in range(ROUNDS):
            meet = (high_value - low_value + low_slope * low - high_slope * high) / (low_slope - high_slope)
            middle = (low + high) / 2
            weight = middle if step % 3 == 2 else torch.where((low < meet) & (meet < high), meet, middle)
            value, slope = dual(weight)
            better = rising & (value > best_value)
            best, best_value = torch.where(better, weight, best), torch.where(better, value, best_value)
            up = slope > 0
            low, high = torch.where(up, weight, low), torch.where(up, high, weight)
            low_value, high_value = torch.where(up, value, low_value), torch.where(up, high_value, value)
            low_slope, high_slope = torch.where(up, slope, low_slope), torch.where(up, high_slope, slope)
        return best

    def contains(self, points: Tensor) -> Tensor:
        """Points of the set that satisfy the constraints exactly; see :class:`PerturbationSet`."""
        inside = self.region.contains(points)
        index = inside.nonzero()[:, 0]
        return inside.index_put((index,), self.satisfied(points[index].double().flatten(1)))

    def satisfied(self, points: Tensor) -> Tensor:
        """Points (N, F) that satisfy the constraints; where rounding leaves it in doubt, by exact arithmetic."""
        values = points @ self.matrix.mT
        error = accumulated_error(points.shape[1] + 4, points.dtype) * (points.abs() @ self.matrix.abs().mT)
        held = values + error <= self.bound
        doubt = ~held & ~(values - error > self.bound)
        for place, row in doubt.nonzero().tolist():
            pairs = zip(points[place].tolist(), self.matrix[row].tolist(), strict=True)
            exact = sum((Fraction(one) * Fraction(other) for one, other in pairs if one and other), Fraction(0))
            held[place, row] = exact <= Fraction(float(self.bound[row]))
        return held.all(1)
