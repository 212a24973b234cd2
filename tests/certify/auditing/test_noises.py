"""Rules of noises: the audit allows what the library certifies, and nothing above it."""

import math
from fractions import Fraction

import pytest
import torch

from certify.auditing.smoothed.noises import allows, norm_of, subject_of
from certify.methods.noises import NOISES, plain_noise
from certify.smoothing import (
    Ablation,
    DiscreteNoise,
    Gaussian,
    GeneralizedGaussian,
    InNorm,
    Laplace,
    Noise,
    SplittingNoise,
    Uniform,
    UniformInBox,
    UniformLInf,
)

NOISY = [
    Gaussian(sigma=0.25),
    Laplace(scale=0.5),
    Uniform(half_width=0.7),
    UniformInBox(half_width=0.7),
    UniformLInf(half_width=0.6, dimension=48),
    SplittingNoise(half_width=0.5),
    DiscreteNoise(keep_probability=0.2, levels=256),
    DiscreteNoise(keep_probability=Fraction(2, 5), levels=4),
    Ablation(keep=3, pixels=16),
    InNorm(Gaussian(sigma=0.5), math.inf, dimension=48),
    InNorm(Laplace(scale=0.5), 2.0, dimension=48),
    GeneralizedGaussian(sigma=0.5, dimension=48, k=0),
    GeneralizedGaussian(sigma=0.5, dimension=48, k=12),
]
PAIRS = [(0.51, None), (0.7, None), (0.99, None), (0.9995, None), (0.6, 0.3), (0.45, 0.2), (0.99, 0.009)]


def test_every_noise_of_the_library_has_a_rule():
    assert {plain_noise(noise)["name"] for noise in NOISY} == set(NOISES)


@pytest.mark.parametrize(
    "noise",
    [pytest.param(noise, marks=[pytest.mark.slow] * isinstance(noise, GeneralizedGaussian)) for noise in NOISY],
    ids=str,
)
def test_radii_of_the_library_are_the_largest(noise: Noise):
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    plain, flat = plain_noise(noise), x.double().flatten().tolist()
    assert norm_of(plain) == noise.norm
    assert subject_of(plain) == f"smoothed({noise}"
    slack = 1e-5 if isinstance(noise, GeneralizedGaussian) else 1e-9
    for p, other in PAIRS:
        pair = [None if value is None else torch.tensor([value], dtype=torch.float64) for value in (p, other)]
        assert pair[0] is not None
        radius = float(noise.radius_at(x, pair[0], pair[1]))
        assert allows(plain, radius, p, other, flat) is True
        if radius > 0:
            above = radius + 1 if noise.norm == 0 else radius * (1 + slack)
            assert allows(plain, above, p, other, flat) is False


def test_a_noise_of_ones_own_is_not_judged():
    assert allows({"name": "mine:Noise"}, 0.1, 0.9) is None
    assert subject_of({"name": "mine:Noise"}) == ""


def test_a_label_that_is_not_ahead_has_no_radius():
    assert allows(plain_noise(Gaussian(sigma=1.0)), 1e-9, 0.5) is False
    assert allows(plain_noise(Gaussian(sigma=1.0)), 0.0, 0.5) is True
