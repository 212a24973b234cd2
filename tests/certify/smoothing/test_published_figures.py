"""Smoothed classifiers on trained networks: figures that are published or recorded."""

import csv

import pytest
import torch
from oracles.halfspace import generator

from bounds import InvalidInput, clopper_pearson_lower
from certify import CertifiedAccuracyCurve, SmoothedClassifier, reference
from certify.smoothing import Gaussian, read_certification_log


def test_log_of_cohen_gives_its_published_table(shared_data):
    folder = shared_data / "smoothing/locuslab_smoothing/data/certify/cifar10/resnet110"
    tables = {  # certified accuracy at 0, 0.25, 0.5, ...: Cohen et al. 2019, table of CIFAR-10, unrounded
        0.12: [0.814, 0.586, 0.0],
        0.25: [0.748, 0.600, 0.428, 0.266, 0.0],
        0.50: [0.652, 0.546, 0.414, 0.320, 0.234, 0.152, 0.094, 0.052, 0.0],
    }
    for sigma, accuracy in tables.items():
        log = read_certification_log(folder / f"noise_{sigma:.2f}/test/sigma_{sigma:.2f}", sigma=sigma)
        curve = CertifiedAccuracyCurve.from_certificate(log.certificate, log.labels)
        radii = [0.25 * i for i in range(len(accuracy))]
        assert curve.at(radii).tolist() == pytest.approx(accuracy, abs=1e-12)
        assert len(log.certificate) == 500


def test_counts_of_kumar_give_their_logged_radii(shared_data):
    """Votes, Clopper-Pearson bound, radius: the whole chain against 500 published rows (five digits)."""
    file = shared_data / "smoothing/gen_gaussian/data/certify/cifar10/resnet110/noise_0.25_p_2/test/sigma_0.25_p_2"
    rows = list(csv.DictReader(file.read_text().splitlines(), delimiter="\t"))
    counts = torch.tensor([int(row["count"]) for row in rows])
    radius = Gaussian(0.25).radius(clopper_pearson_lower(counts, 100_000, alpha=1e-3))
    published = torch.tensor([float(row["exact_radius"]) for row in rows], dtype=torch.float64)
    abstained = torch.tensor([int(row["predict"]) == -1 for row in rows])
    assert torch.equal(radius == 0, abstained)
    assert (radius - published)[~abstained].abs().max() < 5.1e-6


def test_log_reader_takes_both_forms_of_time_and_no_time(tmp_path):
    file = tmp_path / "log.tsv"
    file.write_text(
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t0:01:15.6\n"
    )
    log = read_certification_log(file, sigma=0.25)
    assert log.seconds.tolist() == [15.4, 75.6]
    assert log.indices.tolist() == [0, 20]
    assert log.certificate.abstained.tolist() == [False, True]
    file.write_text("idx\tlabel\tpredict\tradius\n0\t3\t3\t0.378\n")
    assert read_certification_log(file, sigma=0.25).seconds.isnan().all()
    header = "idx\tlabel\tpredict\tradius\n"
    wrong = [
        "0\t3\tx\t0.1",
        "0\t3.9\t3\t0.1",
        "0\t3\t3\tnan",
        "0\t3\t3\tinf",
        "0\t3\t3",
        "1\t2\t3\t4\t5",
    ]
    wrong += ["0\t-1\t3\t0.1", "0\t3\t-2\t0.1", "0\t3\t\t0.1"]
    for content in ("a\tb\n1\t2\n", "", *(f"{header}0\t3\t3\t0.378\n{line}\n" for line in wrong)):
        file.write_text(content)
        with pytest.raises(InvalidInput, match="is no certification log"):
            read_certification_log(file, sigma=0.25)
    with pytest.raises(InvalidInput, match="alpha must lie strictly between 0 and 1"):
        read_certification_log(file, sigma=0.25, alpha=1.5)


@pytest.mark.slow
def test_reference_network_reproduces_its_certified_accuracy():
    """A change detector: 50 images, sigma 0.25; the share certified at 0.25 was 0.78 when this was written."""
    model, x, y = reference.load("noise", 50)
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    certificate = smoothed.certify(x, n=1000, generator=generator())
    curve = CertifiedAccuracyCurve.from_certificate(certificate, y)
    assert float(curve.at(0.25)) == pytest.approx(0.78, abs=0.041)
