"""Shares of directions in spans of normals: projections by hand, and the level and the power of the test by chance."""

import pytest
import torch
from matplotlib.figure import Figure
from oracles.halfspace import generator
from scipy import stats

from bounds import InvalidInput
from bounds.geometry import energy_share, leading_directions


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_the_share_is_that_of_a_projection():
    normals, directions = uniform(5, 3, 4), uniform(6, 3, 4, seed=1)
    found = energy_share(7 * directions, normals)
    projected = torch.linalg.lstsq(normals.flatten(1).T, directions.flatten(1).T).solution.T @ normals.flatten(1)
    expected = projected.square().sum(1) / directions.flatten(1).square().sum(1)
    torch.testing.assert_close(found.share, expected)
    assert (found.dimension, found.features, found.chance) == (5, 12, 5 / 12)
    low, high = stats.t.interval(0.95, 5, expected.mean(), expected.std() / 6**0.5)
    assert found.interval == pytest.approx((low, high))
    assert found.chance_interval() == pytest.approx(stats.beta(2.5, 3.5).interval(0.95))
    assert found.to_dataframe().shape == (6, 2)
    assert found.plot(Figure().subplots()).has_data()


def test_leading_directions_hold_the_most_energy():
    strong = torch.eye(10, dtype=torch.float64)[:2]
    normals = torch.cat([strong[[0, 1] * 10], 0.1 * torch.eye(10, dtype=torch.float64)[5:6]])
    found = leading_directions(normals, 2)
    torch.testing.assert_close(found.T @ found, strong.T @ strong)
    assert len(leading_directions(normals)) == 3


def test_by_chance_the_test_rejects_at_its_level_and_each_share_has_its_law():
    """2,000 sets of uniform directions: rejections of 5 % within five standard errors; a Kolmogorov-Smirnov test."""
    normals = uniform(4, 20)
    every = energy_share(uniform(8000, 20, seed=2), normals)
    assert stats.kstest(every.share.numpy(), stats.beta(2, 8).cdf).pvalue > 1e-6
    sets = every.p_values.view(2000, 4)
    rejected = stats.chi2.sf(-2 * sets.log().sum(1), 8) < 0.05
    assert abs(rejected.mean() - 0.05) < 5 * (0.05 * 0.95 / 2000) ** 0.5
    assert energy_share(uniform(8000, 20, seed=2)[:4], normals).p_value == pytest.approx(
        float(stats.chi2.sf(-2 * sets[0].log().sum(), 8))
    )


def test_directions_near_the_span_are_found():
    normals = uniform(4, 50)
    directions = uniform(5, 4, seed=3) @ normals + uniform(5, 50, seed=4)
    assert energy_share(directions, normals).p_value < 1e-4


def test_bad_arguments():
    normals = uniform(3, 5)
    for change, message in (
        ({"directions": normals * 0}, "directions must hold at least one"),
        ({"normals": normals * 0}, "normals must hold at least one"),
        ({"dimension": 4}, "dimension must be at most 3"),
        ({"directions": uniform(2, 6)}, "directions must have the 5 entries"),
        ({"normals": uniform(9, 5)}, "dimension must be below the number of entries"),
    ):
        with pytest.raises(InvalidInput, match=message):
            energy_share(**{"directions": normals, "normals": normals, **change})
