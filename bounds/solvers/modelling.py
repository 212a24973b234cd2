"""cvxpy, imported late since that takes long, and silent about what nothing rests on."""

import warnings
from functools import cache
from typing import Any

from torch import Tensor

from bounds.solvers.simplex import silent_highs


@cache
def modelling() -> Any:  # noqa: ANN401  # cvxpy carries few annotations
    """The module."""
    import cvxpy

    silent_highs()  # the first instance in a process would print, whoever makes it
    return cvxpy


def solved(problem: Any, solver: str, **parameters: Tensor) -> bool:  # noqa: ANN401
    """Run a solver with the parameters of a problem; whether it came to an end, with any answer."""
    cvxpy = modelling()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cvxpy about accuracy, on which nothing rests
        try:
            for name, value in parameters.items():
                problem.param_dict[name].value = value.cpu().numpy()
            problem.solve(solver=solver)
        except (cvxpy.SolverError, ValueError):  # the latter of data that are not finite
            return False
    return True
