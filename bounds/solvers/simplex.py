"""The simplex method of HiGHS on one programme after another, each from where the last one ended."""

from functools import cache
from typing import Any

import numpy as np
from torch import Tensor


class Simplex:
    """Programmes ``matrix @ v >= right``, ``lower <= v <= upper`` that share matrix and sides, and grow by rows.

    Args:
        matrix: (R, V), float64.
        lower: (V,), infinite where nothing is known.
        upper: likewise.
    """

    def __init__(self, matrix: Tensor, lower: Tensor, upper: Tensor) -> None:
        self._highs = silent_highs()
        self._variables = len(lower)
        places = np.arange(self._variables, dtype=np.int32)
        self._highs.addVars(self._variables, lower.cpu().numpy(), upper.cpu().numpy())
        self._places = places
        self.add(matrix)

    def add(self, matrix: Tensor) -> None:
        """More rows (R, V) behind those that are there."""
        dense = matrix.cpu().numpy()
        rows, columns = dense.nonzero()
        starts = np.searchsorted(rows, np.arange(len(dense))).astype(np.int32)
        free = np.full(len(dense), -np.inf)
        self._highs.addRows(len(dense), free, -free, len(rows), starts, columns.astype(np.int32), dense[rows, columns])

    def minimum(self, cost: Tensor, right: Tensor) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Multipliers (R,) of the rows and the point (V,) of the minimum of ``cost @ v``, as far as there are any.

        Where the solver sees that no point meets all rows, the multipliers are those that show it.
        """
        import highspy

        highs, sides = self._highs, right.cpu().numpy()
        if not (np.isfinite(sides).all() and bool(cost.isfinite().all())):
            return None, None
        highs.changeColsCost(self._variables, self._places, cost.cpu().numpy())
        rows = np.arange(len(sides), dtype=np.int32)
        highs.changeRowsBounds(len(sides), rows, sides, np.full(len(sides), np.inf))
        highs.run()
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            found = highs.getSolution()
            return np.array(found.row_dual), np.array(found.col_value)
        if status == highspy.HighsModelStatus.kInfeasible:
            _, known, ray = highs.getDualRay()
            return (np.array(ray) if known else None), None
        return None, None


def silent_highs() -> Any:  # noqa: ANN401  # HiGHS carries few annotations
    """A new instance of HiGHS that prints nothing."""
    highs = _kind()()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("presolve", "off")  # which would hide the multipliers of programmes without a point
    return highs


@cache
def _kind() -> Any:  # noqa: ANN401
    """The class, imported late."""
    import highspy

    class Silent(highspy.Highs):
        """HiGHS prints its banner once in a process, when an instance first takes callbacks: stopped before that."""

        def enableCallbacks(self) -> None:  # the name that HiGHS gives it
            self.setOptionValue("log_to_console", False)
            super().enableCallbacks()  # type: ignore[no-untyped-call]  # it has no annotations

    return Silent
