import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm

from bounds import InvalidInput
from certify import RocCurve


def drawn(seed: int, inside: int = 40, outside: int = 60, shift: float = 1.0) -> RocCurve:
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(inside, generator=draw, dtype=torch.float64) + shift
    return RocCurve(first, torch.randn(outside, generator=draw, dtype=torch.float64))


def test_scores_are_tensors():
    with pytest.raises(InvalidInput, match="inside must be a torch tensor, got list"):
        RocCurve([1.0], torch.zeros(1))


def test_the_area_is_the_statistic_of_mann_and_whitney():
    curve = drawn(0)
    rounded = RocCurve((curve.inside * 2).round(), (curve.outside * 2).round())  # with ties
    for one in (curve, rounded):
        statistic = mannwhitneyu(one.inside.numpy(), one.outside.numpy()).statistic
        assert one.auc == pytest.approx(statistic / (40 * 60), abs=1e-12)


def test_the_area_lies_below_the_points():
    curve = drawn(1)
    rounded = RocCurve((curve.inside * 2).round(), (curve.outside * 2).round())
    for one in (curve, rounded):
        false, true = one.points()
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
        assert torch.trapezoid(true, false) == pytest.approx(one.auc, abs=1e-12)


def test_the_false_positive_rate_by_counting():
    curve = RocCurve(torch.arange(20.0).double(), torch.tensor([-1.0, 0.5, 1.0, 1.5, 30.0]).double())
    assert curve.threshold(0.95) == 1.0  # 19 of 20 reach it
    assert curve.fpr(0.95) == pytest.approx(3 / 5)
    assert curve.threshold(0.951) == 0.0
    lower, upper = curve.fpr_interval()
    assert lower < 3 / 5 < upper


def test_the_interval_of_the_area_has_its_level():
    truth, misses = float(norm.cdf(1 / np.sqrt(2))), 0
    for seed in range(1000):
        lower, upper = drawn(seed).interval(0.9)
        misses += not lower <= truth <= upper
    assert 70 <= misses <= 130  # 3 standard errors around 100


def test_an_area_without_variance_has_an_exact_interval():
    apart = drawn(0, shift=50.0)
    assert apart.auc == 1
    lower, upper = apart.interval(0.95)
    assert lower == pytest.approx(0.025 ** (1 / 40))
    assert upper == 1
    same = RocCurve(torch.zeros(5).double(), torch.zeros(5).double())
    assert same.auc == 0.5
    assert same.interval() == (0.0, 1.0)
    assert RocCurve(torch.ones(1).double(), torch.zeros(1).double()).interval()[0] < 0.05


def test_scores_that_are_none_are_refused():
    with pytest.raises(InvalidInput, match="inside must be one score"):
        RocCurve(torch.zeros(0), torch.zeros(2))
    with pytest.raises(InvalidInput, match="outside must be one score"):
        RocCurve(torch.zeros(2), torch.tensor([0.0, torch.nan]))
