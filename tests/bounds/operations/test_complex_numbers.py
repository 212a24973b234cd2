"""Fourier transforms inside of networks: their matrices, and magnitudes of what they give."""

import numpy as np
import pytest
import torch
from oracles.affine_operations import LINE, Case, Made
from oracles.halfspace import generator

from bounds import LpBall, crown
from bounds.operations.complex_numbers import waves

BATCH = 3


@pytest.mark.parametrize("n", [1, 2, 3, 8, 12, 35, 97])
def test_waves_are_accurate_near_their_zeros(n: int):
    """Closed forms: exact zeros at quarters of a turn; elsewhere right to the last digits, however small."""
    for inverse in (False, True):
        cosine, sine = (part.numpy() for part in waves(n, inverse=inverse))
        turn = np.outer(np.arange(n), np.arange(n)) % n
        angle = 2 * np.arccos(np.longdouble(-1)) * turn / n
        sign = 1 if inverse else -1
        for found, exact, zeros in (
            (cosine, np.cos(angle), (4 * turn % n == 0) & (4 * turn // n % 2 == 1)),
            (sine, sign * np.sin(angle), (2 * turn) % n == 0),
        ):
            assert (found[zeros] == 0).all()
            error = np.abs(found[~zeros] - exact[~zeros])
            assert (error <= 1e-15 * np.abs(exact[~zeros]) + 3e-16 * np.abs(exact[~zeros])).all()


@pytest.mark.slow
def test_the_magnitude_of_frequencies_is_enclosed():
    model = Made(Case(lambda x: torch.fft.rfft(x).abs(), LINE), bent=False).double()
    x = torch.randn(BATCH, *LINE, generator=generator(4), dtype=torch.float64)
    for radius in (0.0, 0.1, 1.0):
        found = crown(model, LpBall(x, radius, low=None, high=None))
        step = torch.rand(60, *x.shape, generator=generator(5), dtype=x.dtype) * 2 - 1
        y = torch.stack([model(x + radius * part.sign()) for part in step])
        assert ((found.lower <= y + 1e-12) & (y - 1e-12 <= found.upper)).all()
    assert (crown(model, LpBall(x, 0.0, low=None, high=None)).upper - model(x)).max() <= 1e-7
