"""The exact law of random against adversarial distances: simulation by hand, closed forms, wrong degrees of freedom."""

import math

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from scipy import integrate, stats

from bounds import InvalidInput, MulticlassRatioLaw, RatioLaw, affine_ratio_law

FALSE_ALARM = 1e-6


def ratios_by_hand(features: int, dimension: int, count: int, seed: int) -> np.ndarray:
    """Distance to a plane within random subspaces over the distance to it, from projections onto QR bases."""
    random = np.random.default_rng(seed)
    normal = random.standard_normal(features)
    normal /= np.linalg.norm(normal)
    if dimension == 1:
        lines = random.standard_normal((count, features))
        return np.linalg.norm(lines, axis=1) / np.abs(lines @ normal)
    bases = np.linalg.qr(random.standard_normal((count, features, dimension)))[0]
    return 1 / np.linalg.norm(normal @ bases, axis=1)


SIZES = [(2, 1), (3, 1), (10, 1), (100, 1), (784, 1), (3072, 1), (60, 7)]


@pytest.mark.parametrize(("features", "dimension"), SIZES)
def test_ks_p_values_are_uniform_over_seeds(features: int, dimension: int):
    """Second level: p-values of many samples are themselves uniform. With one more degree of freedom they are not."""
    seeds, count = (40, 200) if features < 3000 else (25, 100)
    law, mutant = RatioLaw(features, dimension), RatioLaw(features, dimension + 1)
    p_values = {law: [], mutant: []}
    for seed in range(seeds):
        ratios = torch.from_numpy(ratios_by_hand(features, dimension, count, seed))
        for one, values in p_values.items():
            values.append(stats.kstest(one.cdf(ratios).numpy(), "uniform").pvalue)
    assert stats.kstest(p_values[law], "uniform").pvalue > FALSE_ALARM
    if features > 2:  # of m = D = 2 the ratio is 1
        assert stats.kstest(p_values[mutant], "uniform").pvalue < FALSE_ALARM


@pytest.mark.parametrize(("features", "dimension"), [(2, 1), (3, 2), (10, 1), (60, 7), (784, 49), (3072, 1)])
def test_moments_are_those_of_the_density(features: int, dimension: int):
    law = RatioLaw(features, dimension)
    share = stats.beta(dimension / 2, (features - dimension) / 2)  # of the squared length that is kept
    log_mean = share.expect(lambda t: -0.5 * math.log(t))
    assert law.log_mean == pytest.approx(log_mean, rel=1e-6)
    assert law.log_variance == pytest.approx(share.expect(lambda t: (-0.5 * math.log(t) - log_mean) ** 2), rel=1e-5)
    assert law.inverse_square_mean == pytest.approx(share.mean())
    assert law.inverse_square_variance == pytest.approx(share.var())
    assert law.mean == (math.inf if dimension == 1 else pytest.approx(share.expect(lambda t: t**-0.5), rel=1e-6))
    cap = 1.2 * law.median
    inside = integrate.quad(lambda s: float(law.survival(torch.tensor(math.exp(s)))), 0, math.log(cap), limit=200)[0]
    assert float(law.capped_log_mean(torch.tensor(cap))) == pytest.approx(inside, rel=1e-6)
    assert float(law.capped_log_mean(torch.tensor(1e300))) == pytest.approx(law.log_mean, rel=2e-6)


def test_quantiles_invert_the_law_and_tails_keep_their_digits():
    law = RatioLaw(784)
    p = torch.tensor([1e-12, 0.01, 0.5, 0.99, 1 - 1e-9], dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.quantile(p)), p)
    far = torch.tensor([1e9, 1e12], dtype=torch.float64)  # P(ratio > t) -> c / t
    constant = 2 * math.exp(math.lgamma(392) - math.lgamma(391.5)) / math.sqrt(math.pi)
    torch.testing.assert_close(law.survival(far) * far, torch.full_like(far, constant))
    assert law.quantile(1.0).isinf()
    assert law.quantile(0.0) == 1
    below = torch.tensor([0.0, 0.5, 1.0])
    assert law.cdf(below).tolist() == [0, 0, 0]
    assert law.survival(below).tolist() == [1, 1, 1]
    assert RatioLaw(3072).median / math.sqrt(3072) == pytest.approx(1.4823, abs=2e-4)
    everything = RatioLaw(5, 5)
    assert everything.quantile(0.3) == 1
    assert everything.cdf(torch.tensor([0.9, 1.0])).tolist() == [0, 1]
    assert everything.survival(torch.tensor([0.9, 1.0])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("features", "dimension", "classes"),
    [(20, 1, 4), (60, 7, 3), pytest.param(784, 1, 10, marks=pytest.mark.slow), (12, 9, 6), (3, 1, 3)],
)
def test_sampler_of_several_classes_against_brute_force(features: int, dimension: int, classes: int):
    """The mutant forgets the angles between the boundaries."""
    weight = torch.randn(classes, features, generator=generator(3), dtype=torch.float64)
    weight[1:] += 2 * weight[0]  # normals that are far from orthogonal
    bias, x = torch.zeros(classes).double(), torch.randn(features, generator=generator(4), dtype=torch.float64)
    law = affine_ratio_law(weight, bias, x, dimension=dimension)
    logits = weight @ x
    normals = weight[logits.argmax()] - weight[torch.arange(classes) != logits.argmax()]
    distances = (logits.max() - logits[torch.arange(classes) != logits.argmax()]) / normals.norm(dim=1)
    count = 1500
    drawn = torch.randn(count, features, dimension, generator=generator(5), dtype=torch.float64)
    kept = torch.linalg.qr(drawn).Q.mT @ (normals / normals.norm(dim=1, keepdim=True)).T  # (count, m, J)
    brute = (distances / distances.min() / kept.norm(dim=1)).amin(1)
    sampled = law.sample(20_000, generator(6))
    assert stats.ks_2samp(brute.numpy(), sampled.numpy()).pvalue > FALSE_ALARM
    apart = torch.eye(classes - 1).double()
    if classes - 1 <= features:
        mutant = MulticlassRatioLaw(apart, distances.clamp(max=float(distances.min()) * 1.01), features, dimension)
        assert stats.ks_2samp(brute.numpy(), mutant.sample(20_000, generator(6)).numpy()).pvalue < FALSE_ALARM


def test_one_boundary_twice_is_the_law_of_one():
    normals = torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    law = MulticlassRatioLaw(normals, torch.tensor([1.0, 1.7]), 50, 3)
    p_value = stats.kstest(RatioLaw(50, 3).cdf(law.sample(5000, generator())).numpy(), "uniform").pvalue
    assert p_value > FALSE_ALARM
    two = affine_ratio_law(torch.eye(2, 50), torch.tensor([1.0, 0.0]), torch.zeros(50), dimension=3)
    assert two == RatioLaw(50, 3)


def test_own_samples_follow_the_law():
    assert stats.kstest(RatioLaw(30, 4).cdf(RatioLaw(30, 4).sample(5000, generator())), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RatioLaw(0), "features must be an integer of at least 1"),
        (lambda: RatioLaw(3, 4), "dimension must be at most 3"),
        (lambda: RatioLaw(3).quantile(1.5), r"probability must lie in \[0, 1\]"),
        (lambda: RatioLaw(3).capped_log_mean(torch.tensor(0.5)), "cap must be at least 1"),
        (lambda: MulticlassRatioLaw(torch.ones(2, 3), torch.ones(2), 5), "normals must be of length 1"),
        (lambda: MulticlassRatioLaw(torch.eye(2), torch.tensor([1.0, math.nan]), 5), "distances must be finite"),
        (lambda: MulticlassRatioLaw(torch.eye(2), torch.ones(3), 5), r"distances must have shape \(2,\)"),
        (lambda: affine_ratio_law(torch.eye(2), torch.zeros(2), torch.zeros(2)), "distance of x to the boundary"),
    ],
)
def test_bad_input(make, message: str):
    with pytest.raises(InvalidInput, match=message):
        make()
