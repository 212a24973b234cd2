"""Enclosures of probabilities and distances, against sums of fractions, mpmath and enumeration."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

from bounds import clopper_pearson_lower, sequential_lower
from certify.auditing.distances import length
from certify.auditing.exact import binomial_tail, log_evidence, normal_probability

PROBABILITIES = st.integers(1, 999).map(lambda thousandths: Fraction(thousandths, 1000))


def exact_tail(successes: int, draws: int, p: Fraction) -> Fraction:
    return sum((math.comb(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(successes, draws + 1)), Fraction(0))


@settings(max_examples=40)
@given(st.integers(1, 40), st.data(), PROBABILITIES)
def test_tails_enclose_the_sum_of_fractions(draws: int, data: st.DataObject, p: Fraction):
    successes = data.draw(st.integers(0, draws))
    exact, found = exact_tail(successes, draws, p), binomial_tail(successes, draws, p)
    assert found.low <= exact <= found.high
    if p * draws < successes:
        assert found.high - found.low <= exact * Fraction(1, 10**20)


@settings(max_examples=25, deadline=None)
@given(st.floats(-37, 37))
def test_normal_probabilities_enclose_those_of_another_library(t: float):
    with mp.workdps(60):
        exact = Fraction(str(mp.erfc(-mp.mpf(t) / mp.sqrt(2)) / 2))
    found = normal_probability(Fraction(t))
    assert found.low * (1 - Fraction(1, 10**30)) <= exact <= found.high * (1 + Fraction(1, 10**30))
    assert found.high - found.low <= Fraction(1, 10**40)


@pytest.mark.parametrize(("successes", "draws", "p"), [(9, 10, 0.5), (40, 40, 0.9), (30, 50, 0.4), (1, 3, 0.01)])
def test_evidence_is_the_integral_over_the_prior(successes: int, draws: int, p: float):
    with mp.workdps(30):

        def density(q: float) -> object:
            return 1 / mp.sqrt(q * (1 - q))

        ratio = mp.quad(
            lambda q: density(q) * (q / p) ** successes * ((1 - q) / (1 - p)) ** (draws - successes), [p, 0.97, 1]
        )
        exact = float(mp.log(ratio / mp.quad(density, [p, 0.97, 1])))
    found = log_evidence(successes, draws, Fraction(p))
    assert found is not None
    assert float(found.low) == pytest.approx(exact, rel=1e-7)
    assert found.high - found.low < Fraction(1, 10**20)


@pytest.mark.parametrize("alpha", [1e-3, 0.05])
@pytest.mark.parametrize(("successes", "draws"), [(95, 100), (100, 100), (7_700, 10_000), (99_990, 100_000), (3, 9)])
def test_bounds_of_the_library_are_the_largest_that_the_audit_allows(successes: int, draws: int, alpha: float):
    """Two computations that share nothing: the library's bound passes, and one a billionth above it does not."""
    count = torch.tensor(successes)
    lower = float(clopper_pearson_lower(count, draws, alpha=alpha))
    assert binomial_tail(successes, draws, Fraction(lower)).at_most(Fraction(alpha))
    assert binomial_tail(successes, draws, Fraction(lower * (1 + 1e-9))).at_most(Fraction(alpha)) is False
    always = float(sequential_lower(count, draws, alpha=alpha))
    limit = Fraction(math.log(1 / alpha))
    below, above = (log_evidence(successes, draws, Fraction(always * factor)) for factor in (1, 1 + 1e-6))
    assert below is not None
    assert below.at_least(limit)
    assert above is None or not above.at_least(limit)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)), min_size=1, max_size=8),
    st.sampled_from([0, 1, 2, 3.5, math.inf]),
)
def test_lengths_enclose_sums_of_fractions(pairs: list[tuple[float, float]], norm: float):
    point, x = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    found = length(point, x, norm)
    sizes = [abs(Fraction(a) - Fraction(b)) for a, b in pairs]
    if norm == 0:
        assert found.low == found.high == sum(size > 0 for size in sizes)
    elif norm == math.inf:
        assert found.low == found.high == max(sizes)
    elif norm == 1:
        assert found.low <= sum(sizes) <= found.high
    elif norm == 2:
        assert found.low**2 <= sum(size**2 for size in sizes) <= found.high**2
    else:
        with mp.workdps(40):
            total = mp.fsum(mp.mpf(s.numerator) / mp.mpf(s.denominator) ** 1 if s == 0 else
                            (mp.mpf(s.numerator) / mp.mpf(s.denominator)) ** norm for s in sizes)  # fmt: skip
            exact = float(total ** (1 / mp.mpf(norm)))
        assert float(found.low) <= exact * (1 + 1e-15)
        assert float(found.high) >= exact * (1 - 1e-15)
    assert float(found.high - found.low) <= 1e-14 * float(found.high)


def test_a_difference_that_float64_does_not_hold_is_not_lost():
    found = length(np.array([1.0]), np.array([2.0**-80]), math.inf)
    assert found.low == found.high == 1 - Fraction(1, 2**80)
