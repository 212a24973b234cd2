"""Groups: intervals that hold at once, and the test of equality, against enumerations and simulations."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2_contingency, fisher_exact

from bounds import clopper_pearson_interval
from bounds.statistics import groups
from bounds.statistics.groups import equality_test, simultaneous_intervals


@pytest.mark.parametrize(("sizes", "shares"), [((7, 12, 30), (0.5, 0.1, 0.9)), ((5, 5, 5, 5), (0.3, 0.3, 0.6, 0.99))])
def test_all_intervals_hold_at_once(sizes: tuple[int, ...], shares: tuple[float, ...]):
    """Groups are independent, so the coverage of all is a product of sums over all counts: no sampling."""
    held = 1.0
    confidences = []
    for i, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        counts = torch.zeros(size + 1, len(sizes), dtype=torch.int64)
        counts[:, i] = torch.arange(size + 1)
        trials = torch.tensor(sizes)
        ends = [simultaneous_intervals(row, trials, confidence=0.9) for row in counts]
        inside = [float(low[i]) <= share <= float(high[i]) for low, high in ends]
        held *= float(binom.pmf(range(size + 1), size, share) @ np.array(inside))
        alone = clopper_pearson_interval(torch.tensor(3), size, confidence=0.9)
        confidences.append(float(ends[3][0][i]) < float(alone[0]))
    assert held >= 0.9
    assert all(confidences)  # wider than one that holds alone


@pytest.mark.slow
def test_simultaneous_coverage_by_simulation():
    """Ten groups of one law: intervals that hold alone miss one of ten far oftener than one time in twenty."""
    generator = np.random.default_rng(0)
    sizes, share = torch.full((10,), 40), 0.7
    drawn = torch.from_numpy(generator.binomial(40, share, size=(2000, 10)))
    at_once, alone = 0, 0
    for counts in drawn:
        low, high = simultaneous_intervals(counts, sizes)
        at_once += bool(((low <= share) & (share <= high)).all())
        low, high = clopper_pearson_interval(counts, 40)
        alone += bool(((low <= share) & (share <= high)).all())
    assert at_once >= 0.95 * 2000
    assert alone < 0.9 * 2000  # the mutant: without correction


def by_enumeration(counts: tuple[int, ...], sizes: tuple[int, ...]) -> float:
    """Probability, given the total, of tables at least as uneven by Pearson's statistic."""
    total, inputs = sum(counts), sum(sizes)

    def statistic(table: tuple[int, ...]) -> float:
        return sum((k - n * total / inputs) ** 2 / n for k, n in zip(table, sizes, strict=True))

    chances = {
        table: math.prod(math.comb(n, k) for k, n in zip(table, sizes, strict=True))
        for table in product(*(range(size + 1) for size in sizes))
        if sum(table) == total
    }
    extreme = sum(chance for table, chance in chances.items() if statistic(table) >= statistic(counts) - 1e-9)
    return extreme / sum(chances.values())


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [((1, 5), (6, 6)), ((0, 3, 4), (5, 4, 4)), ((2, 2, 2), (3, 4, 5)), ((0, 1, 3, 2), (3, 3, 3, 2))],
)
def test_small_groups_are_tested_exactly(counts: tuple[int, ...], sizes: tuple[int, ...]):
    p_value, test = equality_test(counts, sizes)
    assert test == "exact permutation test"
    assert p_value == pytest.approx(by_enumeration(counts, sizes), rel=1e-9)
    if len(sizes) == 2:  # of one size, Fisher orders tables alike
        table = [[k, n - k] for k, n in zip(counts, sizes, strict=True)]
        assert p_value == pytest.approx(fisher_exact(table).pvalue)


def test_large_groups_are_tested_by_the_limit_law():
    counts, sizes = (50, 60, 80), (100, 100, 120)
    p_value, test = equality_test(counts, sizes)
    table = [[k, n - k] for k, n in zip(counts, sizes, strict=True)]
    assert test == "chi-square test"
    assert p_value == pytest.approx(chi2_contingency(table, correction=False).pvalue)


def test_draws_come_close_to_the_enumeration(monkeypatch: pytest.MonkeyPatch):
    counts, sizes = (1, 6, 3, 3), (7, 7, 6, 5)
    exact, _ = equality_test(counts, sizes)
    monkeypatch.setattr(groups, "TABLES", 0)
    drawn, test = equality_test(counts, sizes, seed=1)
    assert test == "permutation test"
    assert drawn == equality_test(counts, sizes, seed=1)[0] != equality_test(counts, sizes, seed=2)[0]
    assert abs(drawn - exact) < 5.5 * math.sqrt(exact / groups.DRAWS)  # a false alarm in 1e-7


@pytest.mark.parametrize(("counts", "sizes"), [((0, 0), (4, 5)), ((4, 5), (4, 5)), ((3,), (9,)), ((), ())])
def test_what_cannot_differ_is_not_tested(counts: tuple[int, ...], sizes: tuple[int, ...]):
    assert equality_test(counts, sizes) == (1.0, "nothing to test")


@pytest.mark.slow
def test_equal_groups_are_seldom_called_different():
    """The level of the exact test, summed over all outcomes of three small groups of one share."""
    sizes, share = (4, 5, 6), 0.4
    rejected = 0.0
    for counts in product(*(range(size + 1) for size in sizes)):
        chance = math.prod(float(binom.pmf(k, n, share)) for k, n in zip(counts, sizes, strict=True))
        rejected += chance * (equality_test(counts, sizes)[0] <= 0.05)
    assert 0.005 < rejected <= 0.05
