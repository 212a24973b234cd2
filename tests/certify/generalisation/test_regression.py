"""Regression of gaps against statsmodels and a loop, its null law, and its power."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds import InvalidInput
from certify import gap_regression


def drawn(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    features = torch.randn(count, size, generator=source, dtype=torch.float64)
    return features, torch.randn(count, generator=source, dtype=torch.float64)


def test_predictions_without_reduction_are_those_of_statsmodels():
    """With all components, the regression is on all features, and what is left out is known in closed form."""
    features, gap = drawn(12, 3)
    found = gap_regression(features, gap, components=3, permutations=19)
    fit = sm.OLS(gap.numpy(), sm.add_constant(features.numpy())).fit()
    np.testing.assert_allclose((gap - found.predicted).numpy(), fit.get_influence().resid_press, rtol=1e-9)
    assert found.adjusted_r2 == pytest.approx(fit.rsquared_adj)
    means = np.array([np.delete(gap.numpy(), i).mean() for i in range(12)])
    press = (fit.get_influence().resid_press ** 2).sum()
    assert found.r2 == pytest.approx(1 - press / ((gap.numpy() - means) ** 2).sum())


def test_components_are_those_of_the_other_networks():
    """A loop over networks, by eigenvectors of the correlation matrix: the one left out takes no part in anything."""
    features, gap = (part.numpy() for part in drawn(15, 6))
    features[:, 1] = features[:, 0] + 0.1 * features[:, 1]
    for i in range(15):
        rest = [j for j in range(15) if j != i]
        values, axes = np.linalg.eigh(np.corrcoef(features[rest].T))
        axes = axes[:, np.argsort(values)[::-1][:2]]
        scores = (features - features[rest].mean(0)) / features[rest].std(0) @ axes
        fit = sm.OLS(gap[rest], sm.add_constant(scores[rest])).fit()
        expected = fit.params @ [1, *scores[i]]
        found = gap_regression(torch.tensor(features), torch.tensor(gap), components=2, permutations=19)
        assert found.predicted[i].item() == pytest.approx(expected, rel=1e-9)


def test_features_that_are_constant_say_nothing():
    features, gap = drawn(10, 3)
    more = torch.cat([features, torch.full((10, 2), 7.0, dtype=torch.float64)], 1)
    one, other = (
        gap_regression(each, gap, components=2, permutations=19, generator=generator()) for each in (features, more)
    )
    torch.testing.assert_close(one.predicted, other.predicted)
    assert one.p_value == other.p_value


def share_rejected(effect: float, runs: int, seed: int) -> float:
    rejected = 0
    for run in range(runs):
        features, noise = drawn(12, 5, seed + run)
        gap = effect * features[:, :2].sum(1) + noise
        p = gap_regression(features, gap, permutations=19, generator=generator(run)).p_value
        rejected += p <= 0.05 + 1e-12
    return rejected / runs


@pytest.mark.slow
def test_the_null_law_holds_and_there_is_power():
    """At 19 permutations the level is 0.05 exactly; 500 runs lie within 5 standard errors, 0.049."""
    assert abs(share_rejected(0.0, 500, 1000) - 0.05) < 5 * (0.05 * 0.95 / 500) ** 0.5
    assert share_rejected(3.0, 40, 5000) > 0.5


@pytest.mark.slow
def test_all_p_values_are_equally_likely_under_the_null():
    counts = torch.zeros(20)
    for run in range(400):
        features, gap = drawn(10, 4, 9000 + run)
        counts[
            round(20 * gap_regression(features, gap.exp(), permutations=19, generator=generator(run)).p_value) - 1
        ] += 1
    chi = float(((counts - 20) ** 2 / 20).sum())
    assert chi < 63  # chi-squared with 19 degrees of freedom exceeds it once in a million


def test_the_level_holds_and_there_is_power_in_few_runs():
    """60 runs reject more than 15 times with probability below 1e-6 under the null."""
    assert share_rejected(0.0, 60, 2000) <= 15 / 60
    assert share_rejected(3.0, 15, 6000) > 0.5


def test_an_exact_law_is_found():
    features, _ = drawn(20, 3)
    gap = 0.1 + 0.05 * features[:, 0] - 0.02 * features[:, 2]
    found = gap_regression(features, gap, components=3, permutations=199, generator=generator())
    assert found.r2 == pytest.approx(1)
    assert found.p_value == 1 / 200
    assert str(found).startswith("leave-one-out R2 1.000 over 20 networks with 3 components, p = 0.005 of 199")
    repeated = gap_regression(features, gap, components=3, permutations=199, generator=generator())
    assert repeated.p_value == found.p_value


@pytest.mark.parametrize(
    ("features", "gap", "options", "message"),
    [
        (torch.ones(4, 2), torch.arange(4.0), {}, "at least 5 networks"),
        (torch.ones(6, 2), torch.ones(6), {}, "not all equal"),
        (torch.ones(6, 2), torch.arange(5.0), {}, "gap must have shape"),
        (torch.full((6, 2), torch.nan), torch.arange(6.0), {}, "features must be finite"),
        (torch.ones(6, 2), torch.arange(6.0), {"components": 3}, "components must be at most 2"),
        (torch.ones(6, 2), torch.arange(6.0), {"permutations": 5}, "permutations must be an integer of at least 19"),
    ],
)
def test_wrong_arguments_are_named(features: Tensor, gap: Tensor, options: dict, message: str):
    with pytest.raises(InvalidInput, match=message):
        gap_regression(features, gap, **options)
