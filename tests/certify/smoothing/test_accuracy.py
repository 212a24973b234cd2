"""Statements about whole data sets against exact binomial sums, enumeration and curves counted by hand."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from oracles.certificates import certificate, grouped, zeros
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from oracles.selection import crossed

from bounds import InvalidInput
from certify import SmoothedClassifier
from certify.results import SmoothingCertificate
from certify.smoothing import Gaussian
from certify.smoothing.data_sets.accuracy import (
    abstention_rate,
    average_certified_radius,
    certificate_table,
    certified_accuracy_at_least,
    certified_quantiles,
    wrong_certificates_at_most,
)
from certify.smoothing.data_sets.envelope import CertifiedAccuracyEnvelope


def probability_of_more(pmf: NDArray[np.float64], count: float) -> float:
    """P(X > count) of a distribution on 0, 1, ..."""
    return float(pmf[np.arange(len(pmf)) > count].sum())


def exact_tail(trials: int, p: float, count: int) -> Fraction:
    """P(X > count) for X ~ Binomial(trials, p), in rational numbers."""
    q = Fraction(p)
    return 1 - sum(math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(count + 1))


# ------------------------------------------------------------------------------------------------- wrong certificates


@pytest.mark.parametrize(("rows", "alpha"), [(1, 0.2), (7, 0.001), (100, 0.05), (500, 0.001), (200, 0.3)])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999, 0.999999])
def test_independent_rows_get_the_exact_binomial_quantile(rows: int, alpha: float, confidence: float):
    """Smallest count that holds, in rational numbers: one less fails too often, so the bound is no habit of caution."""
    wrong = wrong_certificates_at_most(certificate([1.0] * rows, alpha=alpha), confidence)
    risk = 1 - Fraction(confidence)
    assert exact_tail(rows, alpha, wrong) <= risk
    assert wrong == 0 or exact_tail(rows, alpha, wrong - 1) > risk * (1 - Fraction(1, 10**8))


def test_figures_of_the_usual_data_sets():
    """500 and 10,000 inputs at alpha = 0.001 with confidence 0.999: scipy.stats.binom.ppf gives 4 and 21."""
    assert [wrong_certificates_at_most(certificate([1.0] * m)) for m in (500, 10_000)] == [4, 21]


@pytest.mark.parametrize(("rows", "alpha"), [(10_000, 0.001), (10_000, 0.05), (500, 0.3)])
def test_the_worst_case_fails_as_seldom_as_stated_and_mutants_fail_more_often(rows: int, alpha: float):
    """No input is robust, every row is wrong with probability alpha: what a bound claims above 0 is false."""
    risk = 0.001
    pmf = scipy.stats.binom.pmf(np.arange(rows + 1), rows, alpha)
    statement = certified_accuracy_at_least(certificate([1.0] * rows, alpha=alpha), zeros(rows), 0.5)
    subtracted = round((1 - float(statement.lower)) * rows)
    assert subtracted == statement.wrong
    assert 0.5 * risk < probability_of_more(pmf, subtracted) <= risk
    # Bernstein's inequality without its factor 2, as in the first published code
    half = math.sqrt(alpha * (1 - alpha) * math.log(1 / risk) / rows)
    assert probability_of_more(pmf, rows * (alpha + half + math.log(1 / risk) / (3 * rows))) > 1.5 * risk
    assert probability_of_more(pmf, 0) > 0.99  # certified accuracy without a correction
    assert probability_of_more(pmf, rows * alpha) > 0.4  # alpha itself subtracted


def convolve(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total = np.ones(1)
    for part in parts:
        total = np.convolve(total, part)
    return total


@crossed(
    (("rows", "group", "first"), [(60, 5, 0), (61, 7, 3), (40, 100, 0), (90, 100, 55), (500, 2, 1)]),
    ("alpha", [0.001, 0.02, 0.2]),
    ("risk", [0.001, 0.05]),
)
def test_rows_that_share_noise_fail_as_seldom_as_stated_however_they_depend(
    rows: int, group: int, first: int, alpha: float, risk: float
):
    """Enumerated: in each group, j rows chosen at random are wrong together, as often as alpha per row allows."""
    result = grouped(rows, group, alpha=alpha, first_index=first)
    wrong = wrong_certificates_at_most(result, 1 - risk)
    sizes = np.bincount((first + np.arange(rows)) // group)
    sizes = sizes[sizes > 0]
    for together in range(1, group + 1):
        parts = []
        for size in sizes:
            jump = min(together, size)
            chance = min(alpha * size / jump, 1.0)
            part = np.zeros(jump + 1)
            part[0], part[jump] = 1 - chance, chance
            parts.append(part)
        assert probability_of_more(convolve(parts), wrong) <= risk * (1 + 1e-9)


def test_shared_noise_costs_little_and_ignoring_it_goes_red():
    """50 groups of 10: all rows of a group wrong together is the case that the independent quantile misses."""
    rows, group, alpha, risk = 500, 10, 0.001, 0.001
    wrong = wrong_certificates_at_most(grouped(rows, group, alpha=alpha))
    together = scipy.stats.binom.sf
    assert together(wrong // group, rows // group, alpha) <= risk
    mutant = wrong_certificates_at_most(certificate([1.0] * rows, alpha=alpha))
    assert together(mutant // group, rows // group, alpha) > 40 * risk
    assert wrong == 20  # and no bound can be smaller: two groups are wrong with probability 0.0012
    assert wrong_certificates_at_most(grouped(rows, 1, alpha=alpha)) == mutant
    assert wrong_certificates_at_most(grouped(1, 10, alpha=alpha), 0.9) == 0  # one row has none to share with
    assert wrong_certificates_at_most(grouped(3, 10, alpha=0.5), 0.999) == 3  # never more than there are


def test_a_proof_needs_no_correction():
    statement = certified_accuracy_at_least(certificate([1.0, 0.5, 2.0], alpha=0.0), zeros(3), [0.5, 1.0])
    assert statement.wrong == 0
    assert torch.equal(statement.lower, statement.accuracy)


# -------------------------------------------------------------------------------------------------- certified accuracy


def test_one_correction_serves_all_radii_at_once():
    """100 inputs, not one of them robust: whatever rows are wrong, at whatever radii, no radius claims any."""
    rows, alpha = 100, 0.05
    draws = torch.rand(rows, generator=generator(1), dtype=torch.float64)
    wrong = wrong_certificates_at_most(certificate([1.0] * rows, alpha=alpha), 0.99)
    radii = torch.where(draws.argsort() < wrong, 3 * draws, -1.0)
    statement = certified_accuracy_at_least(
        certificate(radii.tolist(), alpha=alpha), zeros(rows), torch.linspace(0, 3, 31), confidence=0.99
    )
    assert statement.accuracy[0] == wrong / rows
    assert (statement.lower == 0).all()


def test_the_statement_counted_by_hand():
    result = certificate([1.0] * 300 + [0.25] * 100 + [-1.0] * 50 + [9.0] * 50, right=[True] * 450 + [False] * 50)
    statement = certified_accuracy_at_least(result, zeros(500), [[0.0, 0.25], [0.5, 2.0]])
    assert statement.accuracy.tolist() == [[0.8, 0.8], [0.6, 0.0]]
    assert statement.lower.tolist() == [[396 / 500, 396 / 500], [296 / 500, 0.0]]
    assert (statement.population_lower < statement.lower)[:1].all()
    assert certified_accuracy_at_least(result, zeros(500), 0.5).lower.shape == ()
    assert "within 0.5: at least 296 of these 500 inputs; at least 0.5" in str(statement)
    assert list(statement.to_dataframe().columns) == ["radius", "accuracy", "lower", "population_lower", "confidence"]
    assert len(statement.to_dataframe()) == 4


@pytest.mark.parametrize("robust", [0.0, 0.05, 0.4, 0.9, 0.995])
@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_the_bound_for_the_distribution_fails_as_seldom_as_stated(robust: float, alpha: float):
    """Enumerated over all counts: an input is certified with probability s + (1 - s) alpha at worst."""
    rows, risk = 120, 0.01
    pmf = scipy.stats.binom.pmf(np.arange(rows + 1), rows, robust + (1 - robust) * alpha)

    def failure(share: Sequence[float]) -> float:
        return float(pmf[np.array(share) > robust].sum())

    def population_lower(certified: int) -> float:
        result = certificate([1.0] * certified + [-1.0] * (rows - certified), alpha=alpha)
        return float(certified_accuracy_at_least(result, zeros(rows), 0.5, 1 - risk).population_lower)

    assert failure([population_lower(count) for count in range(rows + 1)]) <= risk
    mutant = scipy.stats.beta.ppf(risk, np.arange(1, rows + 1), rows - np.arange(rows))
    if alpha == 0.1 and robust < 0.9:  # the interval of the certified share, without alpha
        assert failure([0.0, *mutant]) > 3 * risk


def test_the_bound_for_the_distribution_with_shared_noise():
    """No input is robust and groups are wrong as a whole: exact failure of the bound above 0."""
    rows, group, alpha, risk = 200, 10, 0.02, 0.01
    result = grouped(rows, group, alpha=alpha)
    failing = 0.0
    for groups in range(rows // group + 1):
        label = torch.cat([zeros(groups * group), 1 + zeros(rows - groups * group)])
        statement = certified_accuracy_at_least(_all_certified(result), label, 0.5, 1 - risk)
        chance = scipy.stats.binom.pmf(groups, rows // group, alpha)
        failing += chance * bool(statement.population_lower > 0)
        assert statement.population_lower <= statement.lower
    assert failing <= risk / 2
    surely = rows - wrong_certificates_at_most(result, 1 - risk / 2)  # the last statement, of all rows certified
    assert float(statement.population_lower) == pytest.approx(
        scipy.stats.beta.ppf(risk / 2, surely, rows - surely + 1), rel=1e-9
    )


def _all_certified(result: SmoothingCertificate) -> SmoothingCertificate:
    ones = torch.ones(len(result), dtype=torch.float64)
    return dataclasses.replace(
        result, label=zeros(len(result)), radius=ones, abstained=torch.zeros(len(result), dtype=torch.bool)
    )


@pytest.mark.slow
def test_smoothed_inputs_beyond_the_radius_are_not_claimed():
    """2,000 inputs at distance 0.4 and alpha = 0.05: dozens are certified beyond, the corrected share there is 0."""
    smoothed = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(0.5), num_classes=2, batch_size=2000)
    x = torch.full((2000, 1), 0.4)
    result = smoothed.certify(x, n=200, alpha=0.05, generator=generator(5))
    labels = Halfspace(torch.ones(1))(x).argmax(1)
    statement = certified_accuracy_at_least(result, labels, [0.1, 0.4000001], confidence=1 - 1e-6)
    assert statement.lower[0] > 0.9
    assert statement.accuracy[1] > 0.01
    assert statement.lower[1] == 0
    assert statement.population_lower[1] == 0


def test_statements_follow_the_device_of_the_certificate():
    result, labels = certificate([1.0, 0.5, -1.0]), zeros(3)
    with elsewhere():
        statement = certified_accuracy_at_least(result, labels, [0.0, 0.7], confidence=0.9)
        assert statement.accuracy.tolist() == [2 / 3, 1 / 3]
        assert CertifiedAccuracyEnvelope([result], labels).at_least(0.0, 0.9) == statement.lower[0]
        certificate_table({"a": result}, labels)
        certified_quantiles(result, labels)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, y: certified_accuracy_at_least(c, y, 0.5, 1.0), "confidence must lie strictly between 0 and 1"),
        (lambda c, y: certified_accuracy_at_least(c, y, -0.5), "radius must be at least 0, got -0.5"),
        (lambda c, y: certified_accuracy_at_least(c, y[:2], 0.5), r"labels must have shape \(3,\), got \(2,\)"),
        (lambda c, y: certified_accuracy_at_least(certificate([]), y[:0], 0.5), "one limit per input and at least one"),
        (lambda c, y: average_certified_radius(certificate([]), y[:0]), "one limit per input and at least one"),
        (lambda c, y: wrong_certificates_at_most(c, 0.0), "confidence must lie strictly between 0 and 1"),
        (lambda c, y: certified_quantiles(c, y, [1.0]), "share must lie strictly between 0 and 1"),
        (lambda c, y: abstention_rate(certificate([])), "independent rows and at least one, got 0 rows"),
        (lambda c, y: CertifiedAccuracyEnvelope([], y), "certificates must hold at least one, got none"),
        (lambda c, y: CertifiedAccuracyEnvelope([c], y).at_least(0.5, 2.0), "confidence must lie strictly"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        call(certificate([1.0, 0.5, -1.0]), zeros(3))
    assert "\n" not in str(caught.value)
