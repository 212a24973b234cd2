"""Statements about whole data sets against exact binomial sums, enumeration and curves counted by hand."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import matplotlib
import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from oracles.selection import crossed
from torch import Tensor

from bounds import InvalidInput
from certify import Certificate, CertifiedAccuracyCurve, SmoothedClassifier
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
from certify.smoothing.data_sets.logs import read_certification_log, read_class_counts, read_vote_log

matplotlib.use("Agg")


def certificate(radius: Sequence[float], *, alpha: float = 0.001, right: Sequence[bool] | None = None) -> Certificate:
    """Certificates of inputs of class 0; a negative radius abstains."""
    values = torch.tensor(radius, dtype=torch.float64)
    return Certificate(
        label=torch.zeros(len(values), dtype=torch.int64) if right is None else 1 - torch.tensor(right).long(),
        radius=values.clamp(min=0),
        abstained=values < 0,
        norm=2.0,
        alpha=alpha,
        subject="smoothed(gaussian(sigma=0.5))",
        method="smoothing",
    )


def grouped(rows: int, group: int, *, alpha: float, first_index: int = 0) -> Certificate:
    """All rows certified at radius 1, of noise shared by ``group`` consecutive inputs."""
    halfspace = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(1.0), num_classes=2, noise_group=group)
    result = halfspace.certify(5 * torch.ones(rows, 1), n=1, n0=1, alpha=alpha, first_index=first_index)
    assert isinstance(result, SmoothingCertificate)
    return result


def zeros(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.int64)


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


# ------------------------------------------------------------------------------------------------- summaries of radii


def test_average_certified_radius_counts_wrong_and_abstained_rows_as_zero():
    result = certificate([1.0, 0.5, -1.0, 8.0], right=[True, True, True, False])
    assert average_certified_radius(result, zeros(4)) == 1.5 / 4
    endless = certificate([math.inf, math.inf], right=[True, False])
    assert average_certified_radius(endless, zeros(2)) == math.inf


def test_average_certified_radius_is_the_area_under_the_curve():
    radii = torch.rand(50, generator=generator(2), dtype=torch.float64)
    result = certificate(radii.tolist(), right=(radii > 0.3).tolist())
    steps = torch.cat([zeros(1), result.radius.sort().values])
    at = CertifiedAccuracyCurve.from_certificate(result, zeros(50)).at(steps[1:])
    area = float((steps.diff() * at).sum())
    assert average_certified_radius(result, zeros(50)) == pytest.approx(area, rel=1e-12)


def test_quantiles_invert_certified_accuracy():
    radii = torch.rand(37, generator=generator(3), dtype=torch.float64)
    result = certificate(radii.tolist(), right=(radii > 0.2).tolist())
    table = certified_quantiles(result, zeros(37), [k / 37 for k in range(1, 37)])
    curve = CertifiedAccuracyCurve.from_certificate(result, zeros(37))
    right = int((radii > 0.2).sum())
    assert table.radius.isna().tolist() == [k > right for k in range(1, 37)]
    reached = table[table.radius.notna()]
    assert curve.at(reached.radius.tolist()).tolist() == pytest.approx(reached.share.tolist(), abs=1e-15)
    assert "p_lower" not in table
    hundred = certificate([k / 100 for k in range(100)])
    assert certified_quantiles(hundred, zeros(100), [0.07]).radius.item() == 0.93  # though 100 * 0.07 is above 7


def test_quantiles_of_the_probability_belong_to_the_radii():
    smoothed = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(0.5), num_classes=2)
    x = torch.randn(40, 1, generator=generator(4))
    result = smoothed.certify(x, n=500, generator=generator(4))
    table = certified_quantiles(result, torch.ones(40, dtype=torch.int64), [0.05, 0.2, 0.3, 0.9])
    known = table.dropna()
    assert 2 <= len(known) < 4
    assert (
        Gaussian(0.5).radius(torch.tensor(known.p_lower.tolist(), dtype=torch.float64)).tolist()
        == known.radius.tolist()
    )


def test_abstention_rate_has_the_exact_interval():
    result = certificate([1.0] * 90 + [-1.0] * 10)
    rate = abstention_rate(result)
    exact = scipy.stats.binomtest(10, 100).proportion_ci(0.95, method="exact")
    assert rate.rate == 0.1
    assert (rate.lower, rate.upper) == pytest.approx((exact.low, exact.high), rel=1e-9)
    with pytest.raises(InvalidInput, match="independent rows and at least one, got 6 rows with noise_group=3"):
        abstention_rate(grouped(6, 3, alpha=0.1))


def test_table_of_certificates():
    one = certificate([1.0, 0.5, -1.0, 8.0] * 100, right=[True, True, True, False] * 100)
    none = certificate([-1.0] * 400)
    table = certificate_table({"one": one, "none": none}, zeros(400), [0.0, 0.75])
    wrong = wrong_certificates_at_most(one)
    expected = [400, 0.001, 0.25, 0.375, 0.5, 0.5, (200 - wrong) / 400, 0.25, (100 - wrong) / 400]
    assert table.loc["one"].tolist() == pytest.approx(expected, rel=1e-12)
    assert list(table.columns[5:]) == ["accuracy@0", "at_least@0", "accuracy@0.75", "at_least@0.75"]
    endless = certificate_table({"endless": certificate([math.inf] * 400)}, zeros(400))
    assert endless.loc["endless", "median_radius"] == math.inf
    assert math.isnan(table.loc["none", "median_radius"])
    assert table.loc["none"].drop(["inputs", "alpha", "abstained", "median_radius"]).tolist() == [0.0] * 5


# ------------------------------------------------------------------------------------------------------- the envelope


def family() -> tuple[list[Certificate], Tensor]:
    """A classifier that is accurate and one that is robust: they cross between 0.5 and 1."""
    accurate = certificate([0.5] * 900 + [-1.0] * 100)
    robust = certificate([2.0] * 600 + [-1.0] * 400)
    return [accurate, robust], zeros(1000)


def test_the_envelope_is_the_best_curve_at_each_radius():
    certificates, labels = family()
    envelope = CertifiedAccuracyEnvelope(certificates, labels)
    radii = [0.0, 0.5, 0.50001, 2.0, 2.1]
    assert envelope.at(radii).tolist() == [0.9, 0.9, 0.6, 0.6, 0.0]
    assert envelope.best(radii).tolist() == [0, 0, 1, 1, 0]
    table = envelope.to_dataframe(radii)
    assert list(table.columns) == ["radius", "accuracy", "at_least", "subject"]
    assert table["at_least"].tolist() == envelope.at_least(radii).tolist()
    assert table["at_least"].iloc[-1] == 0
    assert envelope.radii()[-1] == 2.1


def test_the_envelope_pays_for_the_choice_among_classifiers():
    """Twenty classifiers without a robust input, the luckiest chosen: each must be right, or the choice deceives."""
    rows, alpha, risk, members = 1000, 0.05, 0.01, 20
    one = certificate([1.0] * rows, alpha=alpha)
    lower = CertifiedAccuracyEnvelope([one] * members, zeros(rows)).at_least(0.5, 1 - risk)
    wrong, alone = round((1 - float(lower)) * rows), wrong_certificates_at_most(one, 1 - risk)
    one_fails = scipy.stats.binom.sf([wrong, alone], rows, alpha)
    any_fails = 1 - (1 - one_fails) ** members
    assert any_fails[0] <= risk
    assert any_fails[1] > 10 * risk  # the mutant: each member at the full risk
    assert CertifiedAccuracyEnvelope([one], zeros(rows)).at_least(0.5, 1 - risk) == 1 - alone / rows


def test_the_envelope_is_drawn_beside_the_curves():
    certificates, labels = family()
    envelope = CertifiedAccuracyEnvelope(certificates, labels)
    ax = Figure().subplots()
    for curve in envelope.curves:
        curve.plot(ax)
    assert envelope.plot(ax, radii=[0.0, 1.0, 2.0]) is ax
    line = ax.lines[-1]
    assert line.get_ydata().tolist() == [0.9, 0.6, 0.6]
    assert line.get_drawstyle() == "steps-pre"  # the lower value between two radii
    assert line.get_label() == "best of 2 classifiers at each radius"


# --------------------------------------------------------------------------------------------------------------- logs

HEADER = "idx\tlabel\tpredict\tradius\n"


@pytest.mark.parametrize("sigma", [0.12, 0.5, 7.0])
def test_radii_freed_of_their_rounding_never_exceed_what_was_printed_from(tmp_path, sigma: float):
    """Random radii printed with three digits: as printed half of them are too large, freed none is, by 1 % at most."""
    exact = sigma * 4 * torch.rand(2000, generator=generator(6), dtype=torch.float64) ** 2
    file = tmp_path / "log.tsv"
    file.write_text(HEADER + "".join(f"{i}\t0\t0\t{r:.3}\n" for i, r in enumerate(exact.tolist())))
    printed = read_certification_log(file, sigma=sigma).certificate.radius
    freed = read_certification_log(file, sigma=sigma, significant_digits=3).certificate.radius
    assert 800 < int((printed > exact).sum()) < 1200
    assert (freed <= exact).all()
    assert (freed >= 0.99 * exact).all()


def test_half_a_unit_of_the_last_digit_is_subtracted(tmp_path):
    file = tmp_path / "log.tsv"
    for text, expected in {"0.378": 0.3775, "0.4": 0.3995, "0.0734": 0.07335, "12.0": 11.95, "0.0": 0.0}.items():
        file.write_text(f"{HEADER}0\t3\t3\t{text}\n")
        value = read_certification_log(file, sigma=0.25, significant_digits=3).certificate.radius.item()
        assert Fraction(value) <= Fraction(str(expected))
        assert value == pytest.approx(expected, abs=1e-15)
    file.write_text(f"{HEADER}0\t3\t3\t0.3781\n")
    with pytest.raises(InvalidInput, match=r"more than 3 significant digits: 0\.3781"):
        read_certification_log(file, sigma=0.25, significant_digits=3)
    for text in ("nan", "inf", "x"):
        file.write_text(f"{HEADER}0\t3\t3\t{text}\n")
        with pytest.raises(InvalidInput, match="is no certification log"):
            read_certification_log(file, sigma=0.25, significant_digits=3)
    with pytest.raises(InvalidInput, match="significant_digits must be an integer of at least 1, got 0"):
        read_certification_log(file, sigma=0.25, significant_digits=0)


def test_log_of_votes_gives_certificates(tmp_path):
    """Selected and certified; selected but with too few votes; abstained by the log."""
    file = tmp_path / "log.tsv"
    file.write_text("idx\tlabel\tpredict\tcount\ttime\n0\t3\t3\t990\t1.5\n5\t2\t2\t510\t0:00:02\n9\t1\t-1\t990\t3\n")
    log = read_vote_log(file, sigma=0.25, n=1000)
    expected = 0.25 * scipy.stats.norm.ppf(scipy.stats.beta.ppf(1e-3, 990, 11))
    assert log.certificate.radius.tolist() == pytest.approx([expected, 0.0, 0.0], rel=1e-9)
    assert log.certificate.abstained.tolist() == [False, True, True]
    assert (log.indices.tolist(), log.seconds.tolist()) == ([0, 5, 9], [1.5, 2.0, 3.0])
    with pytest.raises(InvalidInput, match="a count must lie between 0 and n = 989"):
        read_vote_log(file, sigma=0.25, n=989)
    with pytest.raises(InvalidInput, match=r"^sigma must be a finite number above 0"):
        read_vote_log(file, sigma=0.0, n=1000)
    file.write_text(HEADER)
    with pytest.raises(InvalidInput, match="no column count"):
        read_vote_log(file, sigma=0.25, n=1000)


def test_table_of_class_counts(tmp_path):
    file = tmp_path / "counts.txt"
    file.write_text("7 3 0 0\n1 1 8 2\n\n")
    table = read_class_counts(file)
    assert table.counts.tolist() == [[7, 3, 0], [1, 1, 8]]
    assert table.labels.tolist() == [0, 2]
    for content in ("", "1 2\n", "1 2 3 0\n1 2 0\n", "1 2 3 3\n", "1 -2 3 0\n", "1 2.0 3 0\n", f"{10**30} 2 0\n"):
        file.write_text(content)
        with pytest.raises(InvalidInput, match="is no table of class counts"):
            read_class_counts(file)


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
