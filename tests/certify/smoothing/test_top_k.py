"""Top-k certificates against exact worst cases, enumeration and published radii."""

import csv
import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from mpmath import mpf
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import InvalidInput
from certify import CertifiedAccuracyCurve, SmoothedClassifier
from certify.smoothing import Gaussian, Uniform
from certify.smoothing.classifiers.estimation import class_bounds
from certify.smoothing.classifiers.top_k import certify_top_k, top_k_bounds, top_k_radius
from certify.smoothing.drawing.votes import Sampling

SIGMA = 0.5


class Wedges(nn.Module):
    """Class 0 where the first of three coordinates is below 0; elsewhere, classes 1 to m by the angle of the others.

    At (-d, 0, 0) the m others are equally likely, wherever the first coordinate goes: class 0 is one of the m
    likeliest until its probability is 1 / (m + 1), at distance d - sigma * Phi^-1(1 / (m + 1)). The worst case.
    """

    def __init__(self, others: int) -> None:
        super().__init__()
        self.others = others

    def forward(self, z: Tensor) -> Tensor:
        turn = (torch.atan2(z[:, 2], z[:, 1]) / (2 * math.pi)) % 1.0
        wedge = 1 + (turn * self.others).long().clamp(max=self.others - 1)
        return nn.functional.one_hot(torch.where(z[:, 0] < 0, 0, wedge), self.others + 1).to(z.dtype)

    def exact_radius(self, d: Tensor) -> Tensor:
        return d.double() - SIGMA * scipy.stats.norm.ppf(1 / (self.others + 1))


def at_distance(d: Tensor) -> Tensor:
    return torch.stack([-d, torch.zeros_like(d), torch.zeros_like(d)], 1)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------- radius from bounds


@pytest.mark.parametrize("others", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [0.3, 0.51, 0.9, 1 - 1e-6, 1 - 1e-12])
def test_radius_of_the_worst_case_is_tight_and_rounded_down(others: int, p: float):
    if p <= 1 / (others + 1):
        return
    upper = torch.full((1, others), (1 - p) / others, dtype=torch.float64)
    radius = top_k_radius(doubles(p), upper, sigma=SIGMA).item()
    with mpmath.workdps(50):
        quantile = [mpmath.sqrt(2) * mpmath.erfinv(2 * mpf(q) - 1) for q in (mpf(p), mpf(1) / (others + 1))]
        exact = mpf(SIGMA) * (quantile[0] - quantile[1])
        assert radius <= exact
        assert radius >= exact * (1 - 1e-6 if p > 1 - 1e-9 else 1 - 1e-9)  # 1 - p is known to 1e-16 only
        shifted = mpmath.ncdf(quantile[0] - mpf(1.05 * radius) / mpf(SIGMA))
        assert shifted < mpf(1) / (others + 1)  # 5 % further, the label is not among the k likeliest


def exact_probabilities(cuts: np.ndarray, labels: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Probabilities (shifts, 4) of the classes of intervals between cuts, at the origin shifted."""
    edges = scipy.stats.norm.cdf((np.concatenate([[-np.inf], cuts, [np.inf]]) - shifts[:, None]) / SIGMA)
    pieces = np.diff(edges, axis=1)
    return np.stack([pieces[:, labels == c].sum(1) for c in range(4)], 1)


@pytest.mark.slow
def test_no_shift_inside_the_radius_drives_a_label_out():
    """Classifiers of the line with four classes and exactly known probabilities, in both directions."""
    random = np.random.default_rng(0)
    steps = np.linspace(-1, 1, 201) * (1 - 1e-9)
    refuted = 0
    for _ in range(25):
        labels = np.concatenate([np.arange(4), random.integers(0, 4, 3)])
        random.shuffle(labels)
        cuts = np.sort(random.normal(0, SIGMA, 6))
        clean = torch.from_numpy(exact_probabilities(cuts, labels, np.zeros(1))[0])
        for label in range(4):
            others = clean[torch.arange(4) != label].sort(descending=True).values
            radii = [top_k_radius(clean[label : label + 1], others[None, :k], SIGMA).item() for k in (1, 2, 3)]
            assert radii == sorted(radii)
            for k, radius in enumerate(radii, 1):
                shifted = exact_probabilities(cuts, labels, steps * radius)
                rank = (np.delete(shifted, label, 1) >= shifted[:, label : label + 1]).sum(1)
                if radius > 0:
                    assert (rank < k).all()
                    refuted += bool((rank >= k - 1).any())
    assert refuted > 10  # the mutant: the radius for k taken for one of k - 1


def test_one_of_one_is_the_two_class_rule():
    votes = torch.cat([torch.randint(0, 3000, (50, 5), generator=generator(1)), torch.zeros(50, 1).long()], 1)
    n, label = int(votes.sum(1).max()), votes.argmax(1)
    lower, upper = class_bounds(votes, label, n, 0.01, torch.ones(50, dtype=torch.bool), 0.0)
    mine = top_k_bounds(votes[:, :-1], label, 1, n, 0.01)
    assert torch.equal(mine[0], lower)
    expected = Gaussian(SIGMA).radius(lower, upper)
    radius = top_k_radius(*mine, sigma=SIGMA)
    assert (expected > 0).sum() > 20
    torch.testing.assert_close(radius, expected, rtol=1e-9, atol=1e-11)


def test_the_least_likely_of_the_others_count():
    """With one likely other class and an unlikely second one, top-2 is a contest with the second."""
    radius = top_k_radius(doubles(0.3), doubles(0.5, 0.01)[None], sigma=SIGMA).item()
    contest = SIGMA / 2 * (scipy.stats.norm.ppf(0.3) - scipy.stats.norm.ppf(0.01))
    assert radius == pytest.approx(contest, rel=1e-9)


def test_the_error_of_the_noise_widens_the_bounds():
    counts, label = torch.tensor([[60, 30, 10]]), torch.tensor([0])
    plain, wide = top_k_bounds(counts, label, 2, 100), top_k_bounds(counts, label, 2, 100, error=0.01)
    assert (plain[0] - wide[0]).item() == pytest.approx(0.01)
    assert (wide[1] - plain[1])[0].tolist() == pytest.approx([0.01, 0.01])


def test_the_error_of_the_noise_reaches_the_certificate(monkeypatch):
    smoothed = SmoothedClassifier(Wedges(2), Gaussian(SIGMA), num_classes=3)
    x, labels = at_distance(torch.tensor([0.3])), torch.zeros(1, dtype=torch.int64)
    plain = certify_top_k(smoothed, x, labels, 2, n=500, generator=generator())
    monkeypatch.setattr(Sampling, "error", 0.01)
    assert certify_top_k(smoothed, x, labels, 2, n=500, generator=generator()).radius < plain.radius


def test_nothing_known_certifies_nothing():
    assert top_k_radius(doubles(0.0, 0.2, math.nan), torch.full((3, 2), 0.9).double(), sigma=1.0).tolist() == [0, 0, 0]
    assert top_k_radius(doubles(0.5), doubles(math.nan)[None], sigma=1.0).item() == 0


# ---------------------------------------------------------------------------------------------- bounds from counts


@pytest.mark.parametrize("k", [1, 2])
def test_bounds_hold_at_once_for_all_outcomes_of_few_draws(k: int):
    """Every outcome of 24 draws of three classes and none, for a net of probabilities: no sampling at all.

    For k = 1, the second of the other classes has no share of alpha.
    """
    n, alpha = 24, 0.1
    outcomes = np.array([(a, b, c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)])
    counts, label = torch.from_numpy(outcomes), torch.zeros(len(outcomes), dtype=torch.int64)
    bounds = [top_k_bounds(counts, label, k, n, level) for level in (alpha, alpha * (k + 1))]
    worst = [0.0, 0.0]
    for a in range(1, 12):
        for b in range(1, 12 - a):
            for c in range(1, 12 - a - b):
                p = np.array([a, b, c]) / 12
                weight = scipy.stats.multinomial.pmf(np.c_[outcomes, n - outcomes.sum(1)], n, [*p, 1 - p.sum()])
                largest = np.sort(p[1:])[::-1][:k].copy()
                for i, (lower, upper) in enumerate(bounds):
                    holds = (lower.numpy() <= p[0]) & (upper.numpy() >= largest).all(1)
                    worst[i] = max(worst[i], weight[~holds].sum())
    assert worst[0] <= alpha
    assert worst[1] > alpha  # the mutant: alpha for each bound


def test_published_radii(shared_data):
    """500 rows of votes and radii to three digits for k = 3; the authors give each of ten bounds alpha / 10."""
    folder = shared_data / "smoothing/certify_topk"
    rows = torch.tensor(
        [[int(v) for v in line.split()] for line in (folder / "cifar0.25.txt").read_text().splitlines()]
    )
    results = csv.DictReader((folder / "result.txt").read_text().splitlines(), delimiter="\t")
    published = doubles(*(float(row["radius"]) for row in results))
    counts, label = rows[:, :10], rows[:, 10]
    radius = top_k_radius(*top_k_bounds(counts, label, 3, 100_000, 1e-3 * 4 / 10), sigma=0.25)
    assert (radius - published).abs().max() <= 0.005
    assert ((published == 0) == (radius < 5e-4)).all()
    other = top_k_radius(*top_k_bounds(counts, label, 2, 100_000, 1e-3 * 3 / 10), sigma=0.25)
    assert (other - published).abs().max() > 0.1
    with_fewer_shares = top_k_radius(*top_k_bounds(counts, label, 3, 100_000, 1e-3), sigma=0.25)
    assert (with_fewer_shares >= radius).all()


# ------------------------------------------------------------------------------------------------------ end to end


@pytest.mark.parametrize("others", [2, 3])
def test_certificates_never_exceed_the_exact_radius_and_come_close(others: int):
    model = Wedges(others)
    d = torch.linspace(-0.1, 0.9, 12)
    x, zeros = at_distance(d), torch.zeros(12, dtype=torch.int64)
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=others + 1)
    certificate = certify_top_k(smoothed, x, zeros, others, n=20_000, alpha=1e-6, generator=generator())
    exact = model.exact_radius(d)
    assert (certificate.radius <= exact).all()
    assert (certificate.radius >= exact - 0.1)[exact < 1.0].all()
    assert not certificate.abstained[exact > 0.1].any()
    assert certificate.subject == f"top-{others} of smoothed(gaussian(sigma=0.5))"
    assert (certificate.counts.sum(1) + certificate.invalid == 20_000).all()
    curve = CertifiedAccuracyCurve.from_certificate(certificate, zeros)
    assert float(curve.at(0.3)) == float((certificate.radius >= 0.3).double().mean())
    assert certificate.certified(zeros, 0.3).any()


@pytest.mark.slow
def test_error_rate_is_at_most_alpha_and_a_mutant_exceeds_it():
    """1,500 inputs at one distance: a radius above the exact one is a wrong certificate."""
    alpha, n, rows = 0.1, 200, 1500
    model, d = Wedges(2), torch.full((1500,), 0.2)
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=3, batch_size=3000)
    labels = torch.zeros(rows, dtype=torch.int64)
    certificate = certify_top_k(smoothed, at_distance(d), labels, 2, n=n, alpha=alpha, generator=generator(5))
    exact = model.exact_radius(d)
    allowed = scipy.stats.binom.isf(1e-6, rows, alpha)
    assert 0 < int((certificate.radius > exact).sum()) <= allowed
    shares = certificate.counts.double() / n
    plug_in = top_k_radius(shares[:, 0], shares[:, 1:].sort(descending=True).values, SIGMA)
    assert int((plug_in > exact).sum()) > allowed


def test_eight_bit_inputs_get_noise_on_their_grid():
    x = torch.randint(0, 256, (5, 2, 3), generator=generator(2)) / 255
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=4, batch_size=70)
    labels = torch.arange(5) % 4
    certificate = certify_top_k(smoothed, x, labels, 3, n=300, generator=generator())
    assert certificate.sampling == "integers on the grid 1/255"
    assert certificate.subject == "top-3 of smoothed(gaussian(sigma=0.5), grid=255)"
    other = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=4, batch_size=1000)
    assert torch.equal(certify_top_k(other, x, labels, 3, n=300, generator=generator()).counts, certificate.counts)
    assert len(certify_top_k(smoothed, x[:0], labels[:0], 3, n=10)) == 0
    assert certificate.to_dataframe().shape[0] == 5


def test_it_follows_the_device_of_the_input():
    smoothed = SmoothedClassifier(Wedges(3), Gaussian(SIGMA), num_classes=4)
    x, labels = at_distance(torch.tensor([0.1, 0.5])), torch.zeros(2, dtype=torch.int64)
    expected = certify_top_k(smoothed, x, labels, 2, n=200, generator=generator())
    seeded = generator()
    with elsewhere():
        assert torch.equal(certify_top_k(smoothed, x, labels, 2, n=200, generator=seeded).radius, expected.radius)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"k": 3}, "k must be at most 2, got 3"),
        ({"labels": torch.tensor([0, 3])}, "labels must be class indices from 0 to 2"),
        ({"labels": torch.tensor([0])}, r"labels must have shape \(2,\)"),
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"smoothed": SmoothedClassifier(Wedges(2), Uniform(1.0), num_classes=3)}, "must have Gaussian noise"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    smoothed = SmoothedClassifier(Wedges(2), Gaussian(SIGMA), num_classes=3)
    arguments = {"smoothed": smoothed, "x": torch.zeros(2, 3), "labels": torch.zeros(2).long(), "k": 2, "n": 10}
    with pytest.raises(InvalidInput, match=message) as caught:
        certify_top_k(**(arguments | change))
    assert "\n" not in str(caught.value)
