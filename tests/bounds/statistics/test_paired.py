"""Paired tests and many tests at once, against enumerations and against statsmodels."""

import math
from itertools import product

import pytest
import torch
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from bounds.statistics.paired import discordant, holm, mcnemar_p_value, paired_interval


@pytest.mark.parametrize(("first", "second"), [*product(range(6), repeat=2), (3, 17), (40, 25)])
def test_the_p_value_is_that_of_a_fair_coin(first: int, second: int):
    """All outcomes that are no likelier than the one seen, of so many tosses."""
    tosses = first + second
    chances = [math.comb(tosses, k) * 0.5**tosses for k in range(tosses + 1)]
    exact = sum(chance for chance in chances if chance <= chances[first] * (1 + 1e-12))
    assert mcnemar_p_value(first, second) == pytest.approx(exact, rel=1e-12)
    assert mcnemar_p_value(second, first) == mcnemar_p_value(first, second)
    assert mcnemar_p_value(first, second) == pytest.approx(mcnemar([[0, first], [second, 0]]).pvalue, rel=1e-12)


@pytest.mark.parametrize(("first", "second"), [*product(range(6), repeat=2), (3, 17), (40, 25)])
def test_one_side_of_the_p_value_is_a_sum_of_the_same_tosses(first: int, second: int):
    """The enumeration, and statsmodels: half of its two-sided value where the first is ahead."""
    tosses = first + second
    exact = sum(math.comb(tosses, k) for k in range(first, tosses + 1)) * 0.5**tosses
    one_sided = mcnemar_p_value(first, second, one_sided=True)
    assert one_sided == pytest.approx(exact, rel=1e-12)
    if first > second:
        assert one_sided == pytest.approx(mcnemar([[0, first], [second, 0]]).pvalue / 2, rel=1e-12)


def by_steps_down(p_values: list[float]) -> list[float]:
    """Holm's definition: the smallest level at which a hypothesis is rejected."""
    count, corrected = len(p_values), {}
    for i in range(count):
        ordered = sorted(p_values)
        place = ordered.index(p_values[i])
        corrected[i] = min(1.0, max((count - j) * ordered[j] for j in range(place + 1)))
    return [corrected[i] for i in range(count)]


@pytest.mark.usefixtures("without_garbage_collection")
def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([]) == []
    assert holm([0.02]) == [0.02]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.001, 0.4]) == pytest.approx([0.9, 0.003, 0.8])
    drawn = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)).tolist()
    for p_values in drawn:
        assert holm(p_values) == pytest.approx(by_steps_down(p_values))
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def trinomial(inputs: int, first: float, second: float) -> dict[tuple[int, int], float]:
    """Probability of every number of inputs that only one of two models has right."""
    rest = 1 - first - second
    return {
        (b, c): math.comb(inputs, b) * math.comb(inputs - b, c) * first**b * second**c * rest ** (inputs - b - c)
        for b in range(inputs + 1)
        for c in range(inputs + 1 - b)
    }


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [4, 11, 25])
def test_intervals_hold_the_difference_as_often_as_they_say(inputs: int):
    """Summed over all outcomes, for models on a grid: no sampling, and no model for which they fall short."""
    ends = {outcome: paired_interval(*outcome, inputs, 0.9) for outcome in trinomial(inputs, 0.1, 0.1)}
    lowest = 1.0
    for first, second in product((0.0, 0.01, 0.05, 0.2, 0.45, 0.8), repeat=2):
        if first + second <= 1:
            law = trinomial(inputs, first, second)
            held = sum(law[each] for each, (low, high) in ends.items() if low <= first - second <= high)
            lowest = min(lowest, held)
    assert lowest >= 0.9


def test_intervals_agree_with_the_test_and_turn_with_the_models():
    for first, second in product(range(9), repeat=2):
        low, high = paired_interval(first, second, 30)
        assert -1 <= low <= (first - second) / 30 <= high <= 1
        assert paired_interval(second, first, 30) == pytest.approx((-high, -low))
        if not low <= 0 <= high:
            assert mcnemar_p_value(first, second) <= 0.05


def test_intervals_are_not_much_wider_than_approximations():
    """Wald's, where inputs are many: 1.96 standard errors to each side."""
    first, second, inputs = 150, 100, 1000
    low, high = paired_interval(first, second, inputs)
    deviation = math.sqrt(first + second - (first - second) ** 2 / inputs) / inputs
    assert high - low < 1.35 * 2 * 1.96 * deviation


def test_models_that_never_differ_may_still_differ_a_little():
    low, high = paired_interval(0, 0, 100)
    assert low == -high
    assert 0.01 < high < 0.08


def test_counts_of_inputs_that_one_alone_has_right():
    first, second = torch.tensor([1, 1, 0, 0, 1]).bool(), torch.tensor([1, 0, 1, 0, 0]).bool()
    assert discordant(first, second) == (2, 1)
