"""The figures of surveys: by hand, in closed form, and by coverage of their intervals."""

import math
from itertools import combinations

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from oracles.linear import LinearClassifier
from oracles.selection import some

from bounds import InvalidInput, clopper_pearson_interval
from certify.attacks import NormFigures, robustness_figures


def figures(distance: list[float], epsilon: float = 1.0) -> NormFigures:
    values = torch.tensor(distance, dtype=torch.float64)
    return NormFigures(
        label=torch.zeros(len(distance), dtype=torch.long),
        distance=values,
        robust=values > epsilon,
        noise_correct=None,
        noise_first_correct=None,
        draws=1,
        epsilon=epsilon,
        norm=2.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([0, 1, 2, math.inf], [2]))
def test_figures_of_a_linear_classifier(norm: float):
    """Distances are exact, misclassified inputs count as 0, and the accuracy is that of the exact distances."""
    model = LinearClassifier(6, 3, torch.float64, generator())
    x = torch.rand(20, 6, generator=generator(1), dtype=torch.float64)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 3
    exact = model.distance(x, norm) if norm > 0 else torch.ones(20, dtype=torch.float64)  # one entry goes far enough
    exact[:2] = 0
    epsilon = 0.5 if norm == 0 else float(exact.median()) * 1.001
    options = {"low": None, "high": None, "draws": 7, "generator": generator()}
    result = robustness_figures(model, x, y, epsilons={norm: epsilon}, **options)
    (found,) = result.norms.values()
    torch.testing.assert_close(found.distance, exact, rtol=1e-4, atol=0)
    assert found.mean_distance == pytest.approx(float(exact.mean()), rel=1e-4)
    assert found.median_distance == pytest.approx(float(exact.sort().values[10]), rel=1e-4)
    assert found.robust_accuracy == float((exact > epsilon).double().mean())
    lower, upper = clopper_pearson_interval((exact > epsilon).sum(), 20, confidence=0.9)
    assert found.robust_accuracy_interval(0.1) == (float(lower), float(upper))
    assert not found.robust[:2].any()
    assert math.isnan(found.noise_accuracy) == (norm == 0)
    if norm > 0:
        assert found.noise_accuracy > found.robust_accuracy
        lower, upper = found.noise_accuracy_interval()
        assert lower < found.noise_accuracy < upper
    table = result.to_dataframe()
    assert table.norm.tolist() == [norm]
    assert table.mean_distance_at_most[0] == found.mean_distance
    assert table.median_distance_at_most_upper[0] == found.median_distance_interval()[1]
    assert len(found.to_dataframe()) == 20


def test_what_no_attack_broke_keeps_the_mean_open_but_not_the_median():
    shown = figures([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf])
    assert shown.mean_distance == math.inf
    assert shown.mean_distance_interval() == (0.0, math.inf)
    assert shown.median_distance == 4.0
    assert shown.median_distance_interval(0.05) == (1.0, 7.0)
    assert figures([1.0, 2.0]).median_distance_interval(0.05) == (0.0, math.inf)
    assert figures([2.0]).mean_distance_interval() == (0.0, math.inf)
    assert shown.robust_accuracy == pytest.approx(7 / 9)


@pytest.mark.parametrize("count", [6, 9, 12])
def test_coverage_of_the_interval_of_the_median_is_enumerated(count: int):
    """Values on both sides of the median are equally likely: sum the probability over how many lie above."""
    low, high = figures([float(i) for i in range(count)]).median_distance_interval(0.05)
    covered = sum(
        len(list(combinations(range(count), below))) * 0.5**count
        for below in range(count + 1)
        if low < below <= high  # with so many values below it, the median lies in [low-th, high-th] of 0, 1, ...
    )
    assert covered >= 0.95
    narrower = sum(math.comb(count, below) * 0.5**count for below in range(count + 1) if low + 1 < below <= high - 1)
    assert narrower < 0.95


def test_coverage_of_the_interval_of_the_mean():
    """2,000 samples of 50 exponential numbers: about 93 % cover the mean; 90 % is missed once in 10 million."""
    values = torch.empty(2000, 50, dtype=torch.float64).exponential_(generator=generator())
    covered = [low <= 1 <= high for low, high in (figures(row.tolist()).mean_distance_interval() for row in values)]
    assert 0.90 <= sum(covered) / 2000 <= 0.97


def test_bad_input():
    model = Halfspace(torch.ones(3), bias=-1.5)
    x = torch.rand(3, 3, generator=generator())
    y = model(x).argmax(1)
    for epsilons, message in (
        ({}, "epsilons must hold a budget for at least one norm"),
        ({3: 0.1}, "norm must be 0, 1, 2 or math.inf, got 3"),
        ({2: -0.1}, "epsilon must be a finite number of at least 0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            robustness_figures(model, x, y, epsilons=epsilons)
