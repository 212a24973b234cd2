"""Published certification logs, read with our readers and counted with our curves, against published figures.

A share of N rows is compared exactly: only the arithmetic of counting lies between the file and the figure. An
average is compared within half a unit of the last digit that was printed, a radius computed from votes likewise.
"""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest
import scipy.stats
import torch
from torch import Tensor

from bounds import clopper_pearson_lower
from certify import CertifiedAccuracyCurve
from certify.smoothing import Gaussian
from certify.smoothing.data_sets.accuracy import (
    abstention_rate,
    average_certified_radius,
    certificate_table,
)
from certify.smoothing.data_sets.envelope import CertifiedAccuracyEnvelope
from certify.smoothing.data_sets.logs import CertificationLog, read_certification_log, read_class_counts, read_vote_log

EXACT = 1e-12  # shares: two ways to divide the same integers
RADII = [0.25 * i for i in range(10)]


def half_a_unit(printed: list[str], digits: int) -> Tensor:
    """Half a unit of the last of so many significant digits of each number, as its printing rounds to nearest."""
    halves = [float(Decimal(5).scaleb(Decimal(text).adjusted() - digits)) for text in printed]
    return torch.tensor(halves, dtype=torch.float64)


def accuracy(log: CertificationLog) -> CertifiedAccuracyCurve:
    return CertifiedAccuracyCurve.from_certificate(log.certificate, log.labels)


# ------------------------------------------------------------------------------------------------------- Cohen et al.

# Model noise, certification noise; abstained, ACR; certified accuracy at 0, 0.25, ..., 2.25 where above 0. The first,
# third and fifth are the table of CIFAR-10 of Cohen et al. (2019), unrounded; ACR was recomputed with NumPy.
COHEN = [
    ("0.12", "0.12", 0.038, 0.270, [0.814, 0.586]),
    ("0.12", "0.50", 0.122, 0.091, [0.118, 0.096, 0.082, 0.068, 0.042, 0.018, 0.004]),
    ("0.25", "0.25", 0.086, 0.429, [0.748, 0.600, 0.428, 0.266]),
    ("0.25", "0.50", 0.284, 0.191, [0.334, 0.260, 0.168, 0.104, 0.050, 0.016, 0.004]),
    ("0.50", "0.50", 0.166, 0.538, [0.652, 0.546, 0.414, 0.320, 0.234, 0.152, 0.094, 0.052]),
]


def cohen(
    shared_data: Path, model: str, sigma: str, alpha: float = 1e-3, digits: int | None = None
) -> CertificationLog:
    folder = shared_data / "smoothing/locuslab_smoothing/data/certify/cifar10/resnet110"
    file = folder / f"noise_{model}/test/sigma_{sigma}"
    return read_certification_log(file, sigma=float(sigma), alpha=alpha, significant_digits=digits)


@pytest.mark.parametrize(("model", "sigma", "abstained", "acr", "expected"), COHEN)
def test_logs_of_cohen(shared_data, model, sigma, abstained, acr, expected):
    log = cohen(shared_data, model, sigma)
    table = accuracy(log).at(RADII).tolist()
    assert table == pytest.approx(expected + [0.0] * (len(RADII) - len(expected)), abs=EXACT)
    assert len(log.certificate) == 500
    assert abstention_rate(log.certificate).rate == pytest.approx(abstained, abs=EXACT)
    assert average_certified_radius(log.certificate, log.labels) == pytest.approx(acr, abs=5e-4)
    assert (log.seconds > 1).all()


def test_radii_freed_of_their_rounding_cost_the_rows_printed_at_the_radius_asked_about(shared_data):
    """The grid of printed radii holds 1.00 and 1.25, where the published 0.234 and 0.152 lose a row of 500 each."""
    printed, freed = (accuracy(cohen(shared_data, "0.50", "0.50", digits=digits)) for digits in (None, 3))
    assert (freed.limit >= 0.995 * printed.limit)[printed.limit > 0].all()  # half a unit of 100 is 0.5 percent
    lost = [int((printed.limit == radius).sum()) for radius in RADII[1:]]
    assert (printed.counts(RADII) - freed.counts(RADII)).tolist() == [0, *lost]
    assert lost == [0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_envelope_and_corrected_figures_of_cohen(shared_data):
    """Best of three sigma by hand from the table above, less the rows that may be wrong: binom.ppf of SciPy.

    The largest radii of the last two logs, 3.9 sigma, need alpha = 0.01 with 100,000 draws.
    """
    alphas = {"0.12": 0.001, "0.25": 0.01, "0.50": 0.01}
    logs = {sigma: cohen(shared_data, sigma, sigma, alpha) for sigma, alpha in alphas.items()}
    labels = logs["0.12"].labels
    assert all(torch.equal(log.labels, labels) for log in logs.values())
    envelope = CertifiedAccuracyEnvelope([log.certificate for log in logs.values()], labels)
    best = [0.814, 0.600, 0.428, 0.320, 0.234, 0.152, 0.094, 0.052, 0.0]
    assert envelope.at(RADII[:9]).tolist() == pytest.approx(best, abs=EXACT)
    assert envelope.best(RADII[:8]).tolist() == [0, 1, 1, 2, 2, 2, 2, 2]
    wrong = {alpha: int(scipy.stats.binom.ppf(1 - 0.001 / 3, 500, alpha)) for alpha in (0.001, 0.01)}
    assert wrong == {0.001: 4, 0.01: 14}
    # At 0.25 the envelope changes hands: 0.586 less 4 of 500 is more than 0.600 less 14.
    corrected = [best[0] - 4 / 500, 0.586 - 4 / 500, *(share - 14 / 500 for share in best[2:8])]
    assert envelope.at_least(RADII[:8]).tolist() == pytest.approx(corrected, abs=EXACT)
    table = certificate_table({name: log.certificate for name, log in logs.items()}, labels, [0.5])
    assert table["accuracy@0.5"].tolist() == pytest.approx([0.0, 0.428, 0.414], abs=EXACT)
    assert table["at_least@0.5"].tolist() == pytest.approx([0.0, 0.428 - 13 / 500, 0.414 - 13 / 500], abs=EXACT)


# ------------------------------------------------------------------------ logs of several authors, with their figures


def test_logs_of_cohen_and_of_consistency_training(shared_data):
    """Cohen et al. (2019), and Jeong and Shin (2020) with 10,000 inputs each; four printed digits of the averages."""
    folder = shared_data / "networks/rs"
    figures = json.loads((folder / "expected.json").read_text())["logs"]
    assert len(figures) == 6
    for name, expected in figures.items():
        log = read_certification_log(folder / name, sigma=float(name.split("sigma")[1][:4]))
        curve = accuracy(log)
        assert len(log.certificate) == expected["n"]
        assert int(log.certificate.abstained.sum()) == expected["abstain"]
        assert average_certified_radius(log.certificate, log.labels) == pytest.approx(expected["acr"], abs=5.1e-5)
        assert float(curve.at(0.0)) == pytest.approx(expected["clean_certified_acc"], abs=EXACT)
        assert float(curve.limit.max()) == expected["max_radius"]
        radii = [float(radius) for radius in expected["cert_acc"]]
        assert curve.at(radii).tolist() == pytest.approx(list(expected["cert_acc"].values()), abs=EXACT)
        assert log.seconds.isnan().all()


# ------------------------------------------------------------------------------------------------------ class counts


def test_class_counts_of_cifar_and_fashion_mnist(shared_data):
    """Votes, Clopper-Pearson bound, radius: eight and six to eight printed decimals."""
    folder = shared_data / "networks/rs"
    decimals = {
        "cifar10_resnet110_sigma0.25_counts.csv": "radius_cp_a001",
        "own_fashion_noise0.25_counts.csv": "radius",
    }
    for name, column in decimals.items():
        rows = list(csv.DictReader((folder / name).read_text().splitlines()))
        counts = torch.tensor([[int(row[f"n{k}"]) for k in range(10)] for row in rows])
        assert (counts.sum(1) == 100_000).all()
        p_lower = clopper_pearson_lower(counts.amax(1), 100_000, alpha=1e-3)
        expected = torch.tensor([float(row["cp_lower_a001"]) for row in rows], dtype=torch.float64)
        assert (p_lower - expected).abs().max() < 5.1e-9
        radius = Gaussian(0.25).radius(p_lower)
        expected = torch.tensor([float(row[column]) for row in rows], dtype=torch.float64)
        assert (radius - expected).abs().max() < (5.1e-9 if "cifar" in name else 5.1e-7)
        right = counts.argmax(1) == torch.tensor([int(row["label"]) for row in rows])
        certified = [float(((radius >= r) & right & (radius > 0)).double().mean()) for r in (0.0, 0.25, 0.5, 0.75)]
        if "cifar" in name:
            figures = json.loads((folder / "expected.json").read_text())["counts"]
            assert certified == pytest.approx(list(figures["cert_acc"].values()), abs=EXACT)
            assert float((radius * right).mean()) == pytest.approx(figures["acr"], abs=5.1e-6)
            assert int((radius == 0).sum()) == figures["abstain"]
        else:
            assert certified[:3] == pytest.approx([0.90, 0.79, 0.68], abs=EXACT)
            assert float((radius * right).mean()) == pytest.approx(0.666, abs=5e-4)


def test_class_counts_of_jia_are_those_of_the_table(shared_data):
    """500 inputs of Jia et al. (2020); the table above holds the first 250."""
    counts, labels = read_class_counts(shared_data / "smoothing/certify_topk/cifar0.25.txt")
    assert counts.shape == (500, 10)
    assert (counts.sum(1) == 100_000).all()
    table = (shared_data / "networks/rs/cifar10_resnet110_sigma0.25_counts.csv").read_text().splitlines()
    for i, row in enumerate(csv.DictReader(table)):
        assert counts[i].tolist() == [int(row[f"n{k}"]) for k in range(10)]
        assert int(labels[i]) == int(row["label"])


# ------------------------------------------------------------------------------------------------------- Kumar et al.

# Noise and scale; abstained, ACR; certified accuracy at 0, 0.25, 0.5, 0.75, recomputed from the logs with SciPy.
KUMAR = [
    ("0.12_p_2", 0.032, 0.281, [0.824, 0.604, 0.0, 0.0]),
    ("0.12_p_2_scale_16", 0.090, 0.177, [0.710, 0.364, 0.0, 0.0]),
    ("0.12_p_2_scale_8", 0.168, 0.102, [0.556, 0.164, 0.0, 0.0]),
    ("0.25_p_2", 0.080, 0.418, [0.762, 0.594, 0.418, 0.256]),
    ("0.25_p_2_scale_16", 0.166, 0.234, [0.606, 0.388, 0.192, 0.074]),
    ("0.25_p_2_scale_8", 0.320, 0.110, [0.422, 0.174, 0.072, 0.014]),
]


@pytest.mark.parametrize(("name", "abstained", "acr", "expected"), KUMAR)
def test_logs_of_kumar(shared_data, name, abstained, acr, expected):
    """Every radius computed from its votes is the logged one, within half a unit of its fifth digit."""
    folder = shared_data / "smoothing/gen_gaussian/data/certify/cifar10/resnet110"
    file = folder / f"noise_{name}/test/sigma_{name}"
    log = read_vote_log(file, sigma=float(name[:4]), n=100_000)
    rows = list(csv.DictReader(file.read_text().splitlines(), delimiter="\t"))
    assert torch.equal(log.certificate.abstained, torch.tensor([int(row["predict"]) == -1 for row in rows]))
    logged = torch.tensor([float(row["exact_radius"]) for row in rows], dtype=torch.float64)
    tolerance = half_a_unit([row["exact_radius"] for row in rows], 5) + 1e-12
    assert ((log.certificate.radius - logged).abs() <= tolerance)[~log.certificate.abstained].all()
    assert abstention_rate(log.certificate).rate == pytest.approx(abstained, abs=EXACT)
    assert average_certified_radius(log.certificate, log.labels) == pytest.approx(acr, abs=5e-4)
    assert accuracy(log).at(RADII[:5]).tolist() == pytest.approx([*expected, 0.0], abs=EXACT)


# ---------------------------------------------------------------------------------------------------------- Li et al.


def test_gaussian_radii_of_double_sampling(shared_data):
    """Lower bounds of 1,000 class probabilities and the Neyman-Pearson radii of Li et al. (2022), in full precision."""
    folder = shared_data / "smoothing/dsrs/data"
    sampling = (folder / "sampling/cohen-cifar-0.50.pth/gaussian-None-0.5-50000-0.0005.txt").read_text().splitlines()
    radii = (folder / "orig-radius/cohen-cifar-0.50.pth/orig-rad-gaussian-None-0.5-50000-0.0005.txt").read_text()
    bounds = {int(line.split()[1]): float(line.split()[2]) for line in sampling if line.startswith("o ")}
    published = {int(line.split()[0]): float(line.split()[1]) for line in radii.splitlines()}
    assert list(bounds) == list(published)
    assert len(bounds) == 1000
    radius = Gaussian(0.5).radius(torch.tensor(list(bounds.values()), dtype=torch.float64))
    expected = torch.tensor(list(published.values()), dtype=torch.float64)
    torch.testing.assert_close(radius, expected, rtol=1e-9, atol=1e-12)
