"""Published bounds: against exact laws, by simulation, on their counter-example; their conditions are refused."""

import math

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from scipy import stats

from bounds import InvalidInput, RatioLaw, noise_theorems
from bounds.noise.crossings import _noise


@pytest.mark.parametrize("delta", [0.001, 0.05, 0.2])
@pytest.mark.parametrize(("features", "dimension"), [(3, 1), (784, 1), (784, 50), (3072, 3072), (150_528, 8)])
def test_flat_bounds_hold_under_the_exact_law(features: int, dimension: int, delta: float):
    """Each side fails with probability at most delta."""
    bound = noise_theorems.flat_ratio_bound(features, dimension, delta=delta)
    law = RatioLaw(features, dimension)
    below = float(law.cdf(torch.tensor(bound.lower))) if bound.lower > 1 else 0.0
    above = float(law.survival(torch.tensor(bound.upper)))
    assert below <= delta
    assert above <= delta
    assert bound.probability == 1 - 2 * delta


def test_flat_bounds_can_fail():
    law = RatioLaw(784, 50)
    bound = noise_theorems.flat_ratio_bound(784, 50, delta=0.05)
    narrow = float(law.cdf(torch.tensor(bound.lower * 1.25))), float(law.survival(torch.tensor(bound.upper / 1.25)))
    assert max(narrow) > 0.05


def test_curved_bounds_hold_on_spheres_at_the_largest_curvature():
    """The inside of a sphere: the ratio in a subspace in closed form, from the length of the projected normal."""
    features, dimension, delta, distance = 200, 20, 0.02, 1.0
    curvature = noise_theorems.largest_curvature(features, dimension, delta=delta, distance=distance)
    options = {"delta": delta, "curvature": curvature, "distance": distance}
    bound = noise_theorems.curved_ratio_bound(features, dimension, **options)
    kept = RatioLaw(features, dimension).sample(20_000, generator()).pow(-2)  # squared length of the projected normal

    def outside(curvature: float) -> float:
        radius, offset = 1 / curvature, 1 / curvature - distance
        # |offset n + t u|^2 = radius^2 along the projected normal u, from inside of the sphere
        along = offset * kept.sqrt()
        ratio = -along + (along.square() + radius**2 - offset**2).sqrt()
        return float(((ratio < bound.lower) | (ratio > bound.upper)).double().mean())

    assert outside(curvature) <= 1 - bound.probability
    assert outside(50 * curvature) > 1 - bound.probability
    with pytest.raises(InvalidInput, match="curvature must be at most"):
        noise_theorems.curved_ratio_bound(features, dimension, **{**options, "curvature": 1.01 * curvature})


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 4.0, math.inf])
def test_closed_form_of_lp_noise_against_simulation(norm: float):
    """Within 3% at 784 entries, where the constants of the theorem are up to 37% off."""
    features, epsilon = 784, 0.05
    noise = _noise(torch.zeros(6000, features, dtype=torch.float64), norm, generator())
    weight = torch.randn(features, generator=generator(1), dtype=torch.float64)
    along = noise @ (weight / weight.norm())
    simulated = 1 / float(torch.cat([along, -along]).quantile(1 - epsilon))
    exact = noise_theorems.lp_noise_radius(features, 1.0, norm=norm, epsilon=epsilon)
    assert exact == pytest.approx(simulated, rel=0.05)
    assert noise_theorems.lp_entry_deviation(features, norm) == pytest.approx(float(noise.std()), rel=0.01)
    assert noise_theorems.lp_entry_deviation(1, norm) == pytest.approx(math.sqrt(1 / 3))  # of an interval


@pytest.mark.parametrize("norm", [1.5, 2.0, 4.0, math.inf])
def test_factor_of_random_weights(norm: float):
    weight = torch.randn(200_000, generator=generator(), dtype=torch.float64)
    found = noise_theorems.lp_noise_factor(weight, norm) / math.sqrt(len(weight))
    assert found == pytest.approx(noise_theorems.random_weight_factor(norm), rel=0.01)
    assert noise_theorems.lp_noise_factor(torch.eye(1, 100), math.inf) == 1


def test_gaussian_radius_lies_within_the_bounds_of_the_theorem():
    weight = torch.randn(4, generator=generator(), dtype=torch.float64)
    root = torch.randn(4, 4, generator=generator(1), dtype=torch.float64)
    covariance = root @ root.T / (root @ root.T).trace()
    unit = float(weight.norm() / (weight @ covariance @ weight).sqrt())
    for epsilon in (1e-6, 0.01, 0.2, 0.33):
        exact = noise_theorems.gaussian_noise_radius(weight, 0.5, covariance=covariance, epsilon=epsilon)
        crossed = stats.norm.sf(0.5 * float(weight.norm()) / exact, scale=float((weight @ covariance @ weight).sqrt()))
        assert crossed == pytest.approx(epsilon)
        lower, upper = noise_theorems.gaussian_noise_factors(epsilon)
        assert lower <= exact / (0.5 * unit) <= upper
    flat, curved = (
        noise_theorems.gaussian_noise_factors(0.01),
        noise_theorems.gaussian_noise_factors(0.01, flatness=0.1),
    )
    assert curved[0] < flat[0] < flat[1] < curved[1]


def test_probability_of_crossing_planes():
    normals = torch.randn(4, 6, generator=generator(), dtype=torch.float64)
    normals = normals / normals.norm(dim=1, keepdim=True)
    distances = torch.tensor([0.5, 0.7, 1.0, 2.0], dtype=torch.float64)
    noise = torch.randn(200_000, 6, generator=generator(1), dtype=torch.float64) * 0.8
    simulated = float((noise @ normals.T > distances).any(1).double().mean())
    exact = noise_theorems.gaussian_flip_probability(distances, sigma=0.8, normals=normals)
    assert exact == pytest.approx(simulated, abs=5 * math.sqrt(simulated / 200_000))
    sure = noise_theorems.gaussian_flip_probability(distances[:1], sigma=0.8)
    assert sure == pytest.approx(stats.norm.sf(0.5 / 0.8))


def test_mean_distances_of_a_linear_and_a_quadratic_score():
    """An equality for affine scores, and at most half the distance of the means plus the errors; a bound for x'Ax."""
    x = torch.randn(4000, 5, generator=generator(), dtype=torch.float64)
    y = torch.arange(4000) % 2 * 2 - 1
    x[:, 0] += y
    weight = torch.randn(5, generator=generator(1), dtype=torch.float64) + torch.eye(5)[0].double() * 3
    scores = x @ weight - 0.1
    distance = scores.abs() / weight.norm()
    bound = noise_theorems.mean_distance_bound(scores, y, tau=1 / float(weight.norm()))
    assert bound == pytest.approx(float(distance.mean()))
    errors = 2 * float((distance * (scores * y < 0)).mean())
    assert float(distance.mean()) <= noise_theorems.distinguishability_bound(x, y) + errors
    assert float(distance.mean()) > 0.7 * (noise_theorems.distinguishability_bound(x, y) + errors)
    quadratic = torch.tensor([2.0, -1.0], dtype=torch.float64)
    points = torch.randn(500, 2, generator=generator(2), dtype=torch.float64)
    values = points.square() @ quadratic
    # x'Ax = 0 are the lines through 0 with normals (sqrt 2, 1) and (sqrt 2, -1).
    normals = torch.tensor([[math.sqrt(2), 1.0], [math.sqrt(2), -1.0]], dtype=torch.float64) / math.sqrt(3)
    exact = (points @ normals.T).abs().amin(1)
    bound = noise_theorems.mean_distance_bound(values, values.sign(), tau=1.0, gamma=0.5)
    assert float(exact.mean()) <= bound < 5 * float(exact.mean())


def test_noise_error_distance_and_its_counter_example():
    """Exact for a half-space; below the true distance, 1, for errors on both sides."""
    assert noise_theorems.noise_error_distance(float(stats.norm.sf(2.0)), 1.5) == pytest.approx(3.0)
    slab = 2 * stats.norm.sf(1.0)
    assert noise_theorems.noise_error_distance(slab, 1.0) < 0.48
    noisy = np.random.default_rng(0).standard_normal(100_000)
    assert np.median(np.maximum(1 - np.abs(noisy), 0)) <= noise_theorems.noise_error_distance(slab, 1.0) + 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_theorems.flat_ratio_bound(10, 11, delta=0.1), "dimension must be at most 10"),
        (lambda: noise_theorems.flat_ratio_bound(10, 1, delta=0.1, classes=10), "delta must be smaller"),
        (lambda: noise_theorems.subspace_factors(3, 1.5), "delta must lie strictly between 0 and 1"),
        (lambda: noise_theorems.gaussian_noise_factors(0.4), "epsilon must be below 0.3333"),
        (lambda: noise_theorems.gaussian_noise_factors(0.3, flatness=0.1), "epsilon must be below 0.2222"),
        (lambda: noise_theorems.random_weight_factor(1), "norm must be above 1"),
        (lambda: noise_theorems.lp_noise_radius(5, 1.0, norm=2, epsilon=0.6), "epsilon must lie strictly"),
        (lambda: noise_theorems.gaussian_flip_probability(torch.ones(2), sigma=1.0), "normals must have shape"),
        (lambda: noise_theorems.distinguishability_bound(torch.ones(3, 1), torch.zeros(3)), "y must hold two classes"),
    ],
)
def test_conditions_are_checked(call, message: str):
    with pytest.raises(InvalidInput, match=message):
        call()
