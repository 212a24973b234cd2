"""Arithmetic whose rounding errors fall on the safe side."""

import torch
from torch import Tensor

from bounds.errors import InvalidInput

# Relative error allowed to a correctly implemented special function in float64: eight units in the last place.
SPECIAL_FUNCTION_ERROR = 8 * 2.0**-52


def round_down(x: Tensor, relative_error: float = SPECIAL_FUNCTION_ERROR) -> Tensor:
    """A float64 number at most the exact value that ``x`` approximates within ``relative_error``.

    Infinity gives the largest finite number, since the exact value may have overflowed.
    """
    lowered = torch.where(x.isinf(), x, x - x.abs() * relative_error)
    return torch.nextafter(lowered, torch.full_like(x, -torch.inf))


def round_up(x: Tensor, relative_error: float = SPECIAL_FUNCTION_ERROR) -> Tensor:
    """A float64 number at least the exact value that ``x`` approximates within ``relative_error``."""
    return -round_down(-x, relative_error)


def complement(p: Tensor) -> Tensor:
    """A probability at least ``1 - p``."""
    return round_up(1 - p, 2.0**-53).clamp(max=1.0)


def raised(p: Tensor, error: float) -> Tensor:
    """A probability at least ``p + error``, or 1."""
    return round_up(p + error, 2.0**-52).clamp(max=1.0)


def lowered(p: Tensor, error: float) -> Tensor:
    """A probability at most ``p - error``, or 0."""
    return round_down(p - error, 2.0**-52).clamp(min=0.0) if error else p


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounded operation in ``dtype``, round to nearest."""
    return torch.finfo(dtype).eps / 2


def accumulated_error(terms: int, dtype: torch.dtype) -> float:
    r"""The constant :math:`\gamma_n = n u / (1 - n u)` that bounds ``n`` rounded operations in any order.

    References:
        Higham (2002), Accuracy and Stability of Numerical Algorithms, Lemma 3.1 and section 3.1.
    """
    error = terms * unit_roundoff(dtype)
    if error >= 0.5:
        raise InvalidInput(f"sums of {terms} terms in {dtype} have no useful error bound: use float64")
    return error / (1 - error)
