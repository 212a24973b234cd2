"""Generalised Gaussian noise against the Gaussian, published radii, many digits and simulation."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.selection import some
from torch import Tensor

from bounds import InvalidInput
from certify.smoothing.noises import generalized_gaussian
from certify.smoothing.noises.base import Gaussian
from certify.smoothing.noises.generalized_gaussian import QUADRATURE_ERROR, GeneralizedGaussian, _mass


def p_of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.slow
def test_without_the_factor_it_is_gaussian():
    noise, gaussian = GeneralizedGaussian(0.5, 3072, k=0), Gaussian(0.5)
    p = torch.cat([torch.linspace(0, 1, 101, dtype=torch.float64), 1 - 10 ** -torch.arange(3.0, 5).double()])
    radius, exact = noise.radius(p), gaussian.radius(p)
    assert (radius <= exact).all()
    finite = p < 1
    assert torch.allclose(radius[finite], exact[finite], rtol=2e-5, atol=1e-6)
    r = p_of(0.0, 1e-3, 0.2, 1.0, 2.0, 100.0)
    needed, exact = noise.probability_needed(r), gaussian.probability_needed(r)
    assert (needed >= exact).all()
    assert torch.allclose(needed, exact, rtol=0, atol=3e-9)


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["50000-0.0005", "100000-0.001"])
def test_published_radii(shared_data: Path, tag: str):
    """Lower confidence bounds and radii of 1000 images; the search there ends within about 1e-4."""
    folder, model = shared_data / "smoothing/dsrs/data", "cohen-cifar-1530-0.50.pth"
    sampled = (folder / "sampling" / model / f"general-gaussian-1530-0.5-{tag}.txt").read_text().splitlines()
    stored = (folder / "orig-radius" / model / f"orig-rad-general-gaussian-1530-0.5-{tag}.txt").read_text()
    bounds = {int(row[1]): float(row[2]) for row in map(str.split, sampled) if row and row[0] == "o"}
    published = {int(i): float(r) for i, r in map(str.split, stored.splitlines())}
    radius = GeneralizedGaussian(0.5, 3072, 1530).radius(p_of(*[bounds[i] for i in published]))
    expected = p_of(*published.values())
    assert (expected > 0).sum() > 600
    assert torch.allclose(radius, expected, rtol=0, atol=1.5e-4)
    assert (radius - expected).abs().median() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dimension", "k", "r", "evidence"),
    some([(32, 6, 2.0, -4.0), (32, 14, 0.3, 0.05), (3072, 1530, 0.3, 0.05)], [(32, 14, 0.3, 0.05)]),
)
def test_masses_against_many_digits(dimension: int, k: int, r: float, evidence: float):
    """Adaptive quadrature of the gamma law itself, with the equation for the squared norm solved by Lambert's W."""
    with mpmath.workdps(25):
        m, scale = mpmath.mpf(dimension) / 2 - k, mpmath.sqrt(mpmath.mpf(dimension) / (dimension - 2 * k))
        half = mpmath.mpf(dimension - 1) / 2

        def integrand(t: mpmath.mpf) -> mpmath.mpf:
            other = k * mpmath.lambertw(mpmath.exp((evidence + t) / k) * t / k).real
            rho = scale * mpmath.sqrt(2 * t)
            position = min(max(((rho + r) ** 2 - 2 * scale**2 * other) / (4 * rho * r), 0), 1)
            inside = scipy.stats.beta(float(half), float(half)).cdf(float(position))
            return inside * mpmath.exp((m - 1) * mpmath.log(t) - t - mpmath.loggamma(m))

        spread = mpmath.sqrt(m)
        points = [max(m + s * spread, mpmath.mpf(10) ** -8) for s in (-9, -5, -2, 0, 2, 5, 9, 14, 30)]
        exact = float(mpmath.quad(integrand, points, maxdegree=6))
    mass = _mass(np.array([r]), np.array([evidence]), dimension, k)[0] - QUADRATURE_ERROR
    assert mass == pytest.approx(exact, abs=1e-11)


@pytest.mark.parametrize(
    ("dimension", "k"), [(32, 0), (32, 6), (32, 14), (33, 14), (784, 380), (3072, 0), (3072, 1534)]
)
def test_twice_the_nodes_give_the_same(dimension: int, k: int, monkeypatch):
    r = np.repeat([1e-3, 0.1, 0.7, 2.0, 4.0, 8.0], 5)
    evidence = np.tile([-1.0, -0.5, 0.0, 0.5, 1.0], 6) * r**2
    whole = _mass(r, evidence, dimension, k)
    monkeypatch.setattr(generalized_gaussian, "QUADRATURE_NODES", 2 * generalized_gaussian.QUADRATURE_NODES - 1)
    assert np.abs(_mass(r, evidence, dimension, k) - whole).max() < QUADRATURE_ERROR / 1000


@pytest.mark.parametrize(("k", "p"), some([(6, 0.7), (14, 0.95)], [(14, 0.95)]))
def test_the_worst_classifier_keeps_the_label_up_to_the_radius_and_no_further(k: int, p: float):
    """Its set is found from the densities of 100,000 draws: it has p at the input, and 1/2 at the radius."""
    dimension, draws = 32, 100_000
    noise = GeneralizedGaussian(0.8, dimension, k)
    radius = noise.radius(p_of(p)).item()
    x = torch.zeros(1, dimension, dtype=torch.float64)
    z = noise.sample(x, draws, generator=generator(5))[0]
    scale = 2 * 0.8**2 * dimension / (dimension - 2 * k)

    def log_density(v: Tensor) -> Tensor:
        s = v.square().sum(1)
        return -k * s.log() - s / scale

    def kept(distance: float) -> float:
        shift = torch.zeros(dimension, dtype=torch.float64)
        shift[0] = distance
        ratio = log_density(z) - log_density(z - shift)
        threshold = ratio.quantile(1 - p)
        shifted = log_density(z + shift) - log_density(z)  # of the noise around the other input
        return (shifted >= threshold).double().mean().item()

    error = 5.5 / math.sqrt(draws)  # 5.5 deviations of both estimates together, which are 1 / sqrt(draws) at most
    assert kept(radius) == pytest.approx(0.5, abs=error)
    assert kept(1.1 * radius) < 0.5 - error  # a radius that is 10 % larger is false
    assert kept(0.5 * radius) > 0.5 + error  # and shorter shifts are less harmful


@pytest.mark.slow
def test_radii_grow_and_scale_and_the_inverse_is_close():
    noise = GeneralizedGaussian(1.0, 32, 6)
    p = torch.linspace(0.5, 0.9999, 100, dtype=torch.float64)
    radius = noise.radius(p)
    assert radius[0] == 0
    assert (radius.diff() > 0).all()
    assert torch.allclose(GeneralizedGaussian(0.25, 32, 6).radius(p), 0.25 * radius, rtol=1e-12)
    needed = noise.probability_needed(radius)
    assert (needed <= p + 1e-14)[1:].all()
    assert torch.allclose(needed, p, rtol=0, atol=2e-3)
    assert ((p - needed).median()) < 1e-6
    r = p_of(0.0, 0.1, 0.5, 1.0, 2.0)
    assert torch.allclose(noise.radius(noise.probability_needed(r)), r, rtol=1e-4, atol=1e-7)
    assert noise.probability_needed(math.inf) == 1
    assert noise.radius(p.view(4, 25)).shape == (4, 25)
    assert noise.radius(p[:0]).shape == (0,)


@pytest.mark.slow
def test_a_radius_that_is_not_proved_is_never_returned(monkeypatch):
    noise, p = GeneralizedGaussian(1.0, 32, 6), torch.linspace(0.51, 0.999, 50, dtype=torch.float64)
    radius = noise.radius(p)
    monkeypatch.setattr(generalized_gaussian, "SHARE", 1.01)  # what is tried is too large
    fallback = noise.radius(p)
    assert (fallback < radius).all()
    assert (fallback > 0.5 * radius).all()


@pytest.mark.slow
def test_other_classes_change_nothing():
    noise = GeneralizedGaussian(1.0, 32, 6)
    p, other = p_of(0.4, 0.5, 0.8), p_of(0.3, 0.1, 0.1)
    assert noise.radius(p, other)[:2].tolist() == [0, 0]
    assert noise.radius(p, other)[2].item() == pytest.approx(noise.radius(p)[2].item(), rel=1e-14)


@pytest.mark.parametrize("k", [0, 14])
def test_draws_follow_the_distribution(k: int):
    noise, dimension = GeneralizedGaussian(0.5, 32, k), 32
    z = noise.sample(torch.zeros(1, 4, 8), 20_000, generator=generator(6))[0].flatten(1).double()
    squared = z.square().sum(1) / (2 * 0.25 * dimension / (dimension - 2 * k))
    gamma = scipy.stats.gamma(dimension / 2 - k)
    assert scipy.stats.kstest(squared.numpy(), gamma.cdf).pvalue > 1e-6
    assert scipy.stats.kstest(1.1 * squared.numpy(), gamma.cdf).pvalue < 1e-6
    beta = scipy.stats.beta((dimension - 1) / 2, (dimension - 1) / 2)
    for entry in (0, 7):
        cosine = z[:, entry] / z.norm(dim=1)
        assert scipy.stats.kstest((0.5 + 0.5 * cosine).numpy(), beta.cdf).pvalue > 1e-6
    assert z.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.slow
def test_everything_follows_the_device():
    noise, x, p = GeneralizedGaussian(0.5, 32, 6), torch.rand(2, 4, 8, generator=generator()), p_of(0.7, 0.9)
    expected = noise.radius_at(x, p), noise.radius(p, 0.5 * (1 - p)), noise.sample(x, 3, generator=generator())
    with elsewhere():
        actual = noise.radius_at(x, p), noise.radius(p, 0.5 * (1 - p)), noise.sample(x, 3, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_bad_arguments_are_refused():
    for sigma, dimension, k, message in [
        (0.0, 32, 3, "sigma must be a finite number above 0"),
        (0.5, 31, 3, "dimension must be an integer of at least 32"),
        (0.5, 32, -1, "k must be an integer of at least 0"),
        (0.5, 32, 15, "k must be at most 14.0, got 15"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            GeneralizedGaussian(sigma, dimension, k)
    with pytest.raises(InvalidInput, match="dimension is 32, but the inputs have 33 entries"):
        GeneralizedGaussian(0.5, 32, 3).check(torch.zeros(2, 33))
