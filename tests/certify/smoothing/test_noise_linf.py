"""Uniform noise for the l_inf norm against many digits and the worst classifier."""

import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from oracles.devices import elsewhere
from oracles.halfspace import generator

from bounds import InvalidInput
from certify.smoothing.noises.base import InNorm, Uniform
from certify.smoothing.noises.linf import UniformLInf

DIMENSIONS = [1, 2, 3072, 150_528]
each_dimension = pytest.mark.parametrize("dimension", DIMENSIONS)
PROBABILITIES = [0.5 + 2.0**-40, 0.51, 0.7, 0.99, 1 - 1e-6, 1.0]


def p_of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@each_dimension
@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("other", [None, 0.0, 0.05])
def test_worst_classifier_keeps_the_label_up_to_the_radius_and_no_further(dimension: int, p: float, other: float):
    """It gives up the label, for the strongest other class, wherever the shifted box does not overlap."""
    noise = UniformLInf(0.8, dimension)
    radius = noise.radius(p_of(p), None if other is None else p_of(other)).item()
    with mpmath.workdps(50):
        rest = 1 - mpf(p) if other is None else min(mpf(other), 1 - mpf(p))

        def lead(shift: mpf) -> mpf:
            lost = 1 - (1 - shift / (2 * mpf(0.8))) ** dimension
            return mpf(p) - rest - 2 * lost

        assert lead(mpf(radius)) >= 0
        assert lead(mpf(radius) * (1 + mpf(10) ** -11) + mpf(2) ** -54) < 0
        assert lead(mpf(radius) * mpf(1.05)) < 0  # a radius that is 5 % larger is false


@each_dimension
def test_no_other_shift_within_the_radius_has_a_smaller_overlap(dimension: int):
    radius = UniformLInf(0.8, dimension).radius(p_of(0.9)).item()
    shifts = radius * np.random.default_rng(0).uniform(-1, 1, (50, min(dimension, 3072)))
    overlap = np.exp(np.log1p(-np.abs(shifts) / 1.6).sum(1))
    assert (overlap >= 1 - 0.4).all()


@each_dimension
@pytest.mark.parametrize("radius", [0.0, 1e-7, 1e-4, 0.1, 1.5, 7.0])
def test_probability_needed_is_the_inverse_and_rounded_up(dimension: int, radius: float):
    noise = UniformLInf(0.8, dimension)
    needed = noise.probability_needed(radius).item()
    with mpmath.workdps(50):
        exact = mpf(1.5) - max(0, 1 - mpf(radius) / (2 * mpf(0.8))) ** dimension
        assert needed >= min(exact, 1)
        assert needed <= min(exact * (1 + mpf(10) ** -14), 1)


@each_dimension
def test_radii_grow_with_the_probability_and_exceed_those_converted_from_l1(dimension: int):
    p = torch.linspace(0.5, 1, 50, dtype=torch.float64)
    radius = UniformLInf(0.3, dimension).radius(p)
    assert (radius.diff() > 0).all()
    converted = InNorm(Uniform(0.3), math.inf, dimension=dimension).radius(p)
    assert (radius >= converted * (1 - 1e-14)).all()
    assert (radius > 1.01 * converted)[5:].all() == (dimension > 1)


def test_it_is_the_same_classifier_as_uniform_noise_and_knows_its_dimension():
    noise = UniformLInf(0.3, dimension=6)
    assert (str(noise), noise.norm) == (str(Uniform(0.3)), math.inf)
    assert noise.distribution == Uniform(0.3).distribution
    noise.check(torch.zeros(2, 2, 3))
    with pytest.raises(InvalidInput, match="dimension is 6, but the inputs have 5 entries"):
        noise.check(torch.zeros(2, 5))
    with pytest.raises(InvalidInput, match="half_width must be a finite number above 0"):
        UniformLInf(-1.0, 6)
    with pytest.raises(InvalidInput, match="dimension must be an integer of at least 1"):
        UniformLInf(1.0, 0)


def test_everything_follows_the_device():
    noise, x, p = UniformLInf(0.3, 15), torch.rand(2, 3, 5, generator=generator()), p_of(0.7, 0.9)
    expected = noise.radius_at(x, p), noise.radius_at(x, p, 0.5 * (1 - p))
    with elsewhere():
        actual = noise.radius_at(x, p), noise.radius_at(x, p, 0.5 * (1 - p))
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
