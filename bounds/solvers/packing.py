"""Fractional packings: numbers in [0, 1] of largest sum that exceed 1 in none of given sets; the bound is checked."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bounds.statistics.proportions import FloatArray

IntArray = NDArray[np.int64]
UNIT = 2**36  # multipliers become integers of this unit, with which sums are exact
LARGEST_SUM = 2**62  # of such integers, which int64 holds


class Packing(NamedTuple):
    """A packing of n elements, as large as the solver could find, and a proof of how large any other can be.

    Attributes:
        values: (n,), of the solver, up to its tolerance.
        upper: no packing has a larger sum.
    """

    values: FloatArray
    upper: Fraction


def largest_packing(count: int, sets: list[IntArray]) -> Packing:
    r"""Solve :math:`\max \sum_v q_v`, :math:`\sum_{v \in e} q_v \le 1` for all sets e, :math:`0 \le q \le 1`, by HiGHS.

    Any multipliers :math:`\lambda \ge 0` of the sets prove the bound
    :math:`\sum_e \lambda_e + \sum_v \max(0, 1 - \sum_{e \ni v} \lambda_e)`. Those of the solver are rounded to
    multiples of :math:`2^{-36}`, and the bound is computed from them in integers. A sloppy answer of the solver costs
    tightness, never soundness.

    Args:
        count: n, of elements.
        sets: elements of each set, (R, k) int64 for sets of the same size k.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    sizes = np.concatenate([np.full(len(part), part.shape[1]) for part in sets] or [np.zeros(0, dtype=np.int64)])
    if len(sizes) == 0:
        return Packing(np.ones(count), Fraction(count))
    elements = np.concatenate([part.reshape(-1) for part in sets])
    starts = np.concatenate([[0], sizes.cumsum()])
    matrix = csr_array((np.ones(len(elements)), elements, starts), shape=(len(sizes), count))
    limits = np.ones(len(sizes))
    found = linprog(-np.ones(count), A_ub=matrix, b_ub=limits, bounds=(0, 1), method="highs")  # type: ignore[call-overload]  # its stubs know dense matrices only
    if found.x is None:
        return Packing(np.zeros(count), Fraction(count))
    return Packing(np.clip(found.x, 0, 1), checked_bound(-found.ineqlin.marginals, elements, sizes, count))


def checked_bound(multipliers: FloatArray, elements: IntArray, sizes: IntArray, count: int) -> Fraction:
    """The bound that multipliers (R,) prove, exactly; the elements of the sets stand in a row, ``sizes`` (R,) each."""
    whole = np.rint(np.clip(np.nan_to_num(multipliers), 0, 1) * UNIT).astype(np.int64)
    if sum(size * value for size, value in zip(sizes.tolist(), whole.tolist(), strict=True)) >= LARGEST_SUM:
        return Fraction(count)
    covered = np.zeros(count, dtype=np.int64)
    np.add.at(covered, elements, np.repeat(whole, sizes))
    rest = np.maximum(UNIT - covered, 0)
    total = sum(whole.tolist()) + sum(rest.tolist())
    return min(Fraction(total, UNIT), Fraction(count))
