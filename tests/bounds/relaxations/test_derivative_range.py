"""Ranges of slopes against fifty digits: rounding falls on the outer side."""

import mpmath
import pytest
import torch
from oracles.halfspace import generator

from bounds import Interval
from bounds.relaxations.activations import tanh
from bounds.relaxations.derivative_range import slope_range
from bounds.relaxations.elementary import exp

DERIVATIVES = {
    "exp": (exp(), mpmath.exp, False),
    "tanh": (tanh(), lambda x: 1 - mpmath.tanh(x) ** 2, True),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_slopes_hold_in_fifty_digits(name: str):
    """Intervals lie above 0, where the derivative is monotone, so that its ends are the range."""
    function, derivative, falls = DERIVATIVES[name]
    ends = 3 * torch.rand(2, 200, generator=generator(), dtype=torch.float64)
    found = slope_range(function, Interval(ends.amin(0), ends.amax(0)))
    with mpmath.workdps(50):
        columns = (ends.amin(0), ends.amax(0), found.lower, found.upper)
        for first, last, low, high in zip(*(column.tolist() for column in columns), strict=True):
            least, most = sorted((derivative(mpmath.mpf(first)), derivative(mpmath.mpf(last))))
            assert low <= least <= most <= high
            assert most - 1e-12 * most <= derivative(mpmath.mpf(last if not falls else first)) <= most
