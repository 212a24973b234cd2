"""Summaries of many certificates: average radii, quantiles, tables, envelopes of curves, and logs of others."""

import math
from fractions import Fraction

import matplotlib
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure
from oracles.certificates import certificate, grouped, zeros
from oracles.halfspace import Halfspace, generator
from torch import Tensor

from bounds import InvalidInput
from certify import Certificate, CertifiedAccuracyCurve, SmoothedClassifier
from certify.smoothing import Gaussian
from certify.smoothing.data_sets.accuracy import (
    abstention_rate,
    average_certified_radius,
    certificate_table,
    certified_quantiles,
    wrong_certificates_at_most,
)
from certify.smoothing.data_sets.envelope import CertifiedAccuracyEnvelope
from certify.smoothing.data_sets.logs import read_certification_log, read_class_counts, read_vote_log

matplotlib.use("Agg")

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
