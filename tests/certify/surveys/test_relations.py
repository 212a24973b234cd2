"""Relations between errors and distances: flat boundaries, laws of chance, and SciPy's regression."""

import itertools
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles.halfspace import Halfspace, generator
from scipy import stats

from bounds import InvalidInput
from certify.surveys import Claim, claims_table, error_distortion_law, noise_error_relation, verdict_of
from certify.surveys.noise_errors import fitted_factor


class Slab(torch.nn.Module):
    """Class 1 within a slab, and 0 on both sides of it: noise errs twice as often as at a half-space."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = 1 - x[:, 0].abs()
        return torch.stack([-margin, margin], 1)


@pytest.mark.slow
def test_a_flat_boundary_obeys_the_relation_and_a_slab_does_not():
    x = torch.zeros(40, 5)
    x[:, 0] = torch.linspace(0.2, 1.5, 40)
    y = torch.ones(40, dtype=torch.long)
    found = noise_error_relation(Halfspace(torch.eye(5)[0]), x, y, sigma=0.8, generator=generator())
    torch.testing.assert_close(found.distance, x[:, 0].double(), rtol=1e-3, atol=0)
    assert found.interval[0] < 1 < found.interval[1]
    assert found.verdict() == "holds"
    assert found.p_value > 1e-4
    exact = stats.binomtest(int(found.errors[3]), 1000, stats.norm.cdf(-float(found.distance[3]) / 0.8)).pvalue
    assert float(found.p_values[3]) == pytest.approx(exact, rel=0.2)
    slab = noise_error_relation(Slab(), x * 0.05, y, sigma=1.0, distance=1 - 0.05 * x[:, 0], generator=generator())
    assert slab.factor == pytest.approx(0.475, abs=0.05)  # -ndtri(0.3173), as the docstring of the theorem tells
    assert slab.verdict() == "does not hold"
    assert slab.p_value < 1e-10
    assert len(found.plot(Figure().subplots()).lines) == 3
    assert list(found.to_dataframe()) == ["label", "distance", "errors", "p_value"]


@pytest.mark.slow
def test_intervals_of_the_factor_cover_and_its_test_keeps_its_level():
    """200 samples of 30 inputs of flat boundaries: the factor 1 is missed in 5 %, within five standard errors."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(200):
        z = rng.uniform(0.3, 2.5, 30)
        errors = torch.from_numpy(rng.binomial(200, stats.norm.cdf(-z)))
        _, (low, high) = fitted_factor(errors, 200, torch.from_numpy(z), 0.95)
        missed += not low <= 1 <= high
    assert abs(missed / 200 - 0.05) < 5 * (0.05 * 0.95 / 200) ** 0.5


def test_the_factor_maximises_the_likelihood_and_has_ends_without_errors():
    z, errors = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([40, 10, 3])
    factor, _ = fitted_factor(errors, 100, z, 0.95)

    def likelihood(c: float) -> float:
        return float(stats.binom.logpmf(errors.numpy(), 100, stats.norm.cdf(-c * z.numpy())).sum())

    assert likelihood(factor) >= max(likelihood(factor * 0.999), likelihood(factor * 1.001))
    factor, (low, high) = fitted_factor(torch.zeros(3), 100, z, 0.9)
    assert factor == high == math.inf
    assert float(100 * stats.norm.logcdf(low * z.numpy()).sum()) == pytest.approx(math.log(0.05))
    factor, (low, high) = fitted_factor(torch.full((3,), 100), 100, z, 0.9)
    assert factor == low == -math.inf
    assert high < 0


def outcomes(errors: list[float], distances: list[float]) -> tuple[dict, dict]:
    """Models of those errors on 1,000 inputs, and of those mean distances."""
    names = [f"model {i}" for i in range(len(errors))]
    right = [torch.arange(1000) >= round(1000 * error) for error in errors]
    sizes = [torch.full((1000,), size, dtype=torch.float64) for size in distances]
    return dict(zip(names, right, strict=True)), dict(zip(names, sizes, strict=True))


def test_the_line_is_that_of_scipy():
    errors, distances = [0.05, 0.1, 0.2, 0.4, 0.6], [0.9, 1.3, 1.4, 2.2, 2.0]
    correct, sizes = outcomes(errors, distances)
    sizes["model 0"][:50], sizes["model 1"][500] = 0.0, math.inf  # wrong inputs, and one without a perturbation
    found = error_distortion_law(correct, sizes)
    expected = stats.linregress(np.log(errors), distances)
    assert found.slope == pytest.approx(expected.slope)
    assert found.intercept == pytest.approx(expected.intercept)
    assert found.r_squared == pytest.approx(expected.rvalue**2)
    reach = stats.t.ppf(0.975, 3) * expected.stderr
    assert found.interval == pytest.approx((expected.slope - reach, expected.slope + reach))
    slopes = [stats.linregress(np.log(errors), order).slope for order in itertools.permutations(distances)]
    assert found.p_value == pytest.approx(np.mean(np.abs(slopes) >= expected.slope * (1 - 1e-9)))
    assert found.to_dataframe().fitted[0] == pytest.approx(expected.intercept + expected.slope * math.log(0.05))
    assert found.plot(Figure().subplots()).has_data()


def test_without_a_relation_both_tests_keep_their_level():
    """300 sets of 6 models: 5 % or less, within five standard errors; with one, it is found."""
    rng, limit, rejected = np.random.default_rng(1), 0.05 + 5 * (0.05 * 0.95 / 300) ** 0.5, np.zeros(2)
    errors = [0.05, 0.1, 0.15, 0.25, 0.35, 0.5]
    for _ in range(300):
        correct, sizes = outcomes(errors, list(3 + rng.normal(size=6)))
        found = error_distortion_law(correct, sizes)
        rejected += [found.p_value <= 0.05, found.interval[0] > 0 or found.interval[1] < 0]
    assert (rejected > 0).all()
    assert (rejected / 300 < limit).all()
    correct, sizes = outcomes([*errors, 0.6, 0.7], list(np.log([*errors, 0.6, 0.7]) + 5 + 0.1 * rng.normal(size=8)))
    found = error_distortion_law(correct, sizes)
    assert found.p_value < 0.01
    assert found.interval[0] > 0.8
    assert found.p_value == error_distortion_law(correct, sizes).p_value


def test_verdicts_and_their_table():
    claim = Claim(claim="c", source="s", model="m", figure=0.7, interval=(0.6, 0.8), low=0.5)
    assert claim.verdict == "holds"
    assert verdict_of((math.nan, math.nan), low=0.0) == "undecided"
    assert verdict_of((0.1, 0.2), high=0.05) == "does not hold"
    assert claims_table([claim]).iloc[0].tolist() == ["c", "s", "m", "", 0.7, 0.6, 0.8, "holds"]


def test_bad_arguments():
    correct, sizes = outcomes([0.1, 0.2, 0.3], [1, 2, 3])
    for wrong, other, message in (
        (correct, {}, "distance must be of the models"),
        (
            outcomes([0.1, 0.2], [1, 2])[0],
            outcomes([0.1, 0.2], [1, 2])[1],
            "number of models must be an integer of at least 3",
        ),
        (outcomes([0.1] * 3, [1, 2, 3])[0], sizes, "different errors"),
        ({**correct, "model 0": torch.ones(1000, dtype=torch.bool)}, sizes, "must be wrong on some input"),
    ):
        with pytest.raises(InvalidInput, match=message):
            error_distortion_law(wrong, other)
    model = Halfspace(torch.eye(5)[0])
    with pytest.raises(InvalidInput, match="at least 2 inputs that count"):
        noise_error_relation(model, torch.ones(3, 5), torch.zeros(3, dtype=torch.long), sigma=1.0, draws=5)
