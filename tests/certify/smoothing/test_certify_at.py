"""Sequential certification at one radius: right answers, few draws, the same with every batch size."""

import math

import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator

from bounds import InvalidInput, clopper_pearson_lower, clopper_pearson_upper, log_evidence_above
from bounds.models import PROBE_ROWS
from certify import SmoothedClassifier, reference
from certify.models import probe
from certify.smoothing import Gaussian
from certify.smoothing.classifiers.noisy_model import PROBED
from certify.smoothing.drawing.votes import Sampling

SIGMA = 0.5


def smoothed(model: torch.nn.Module, **options: int | None) -> SmoothedClassifier:
    return SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2, **options)


def test_answers_about_a_halfspace_are_right():
    """The radius is certified where it is below the exact distance and refuted where it is above."""
    model = Halfspace(torch.ones(1))
    x = torch.tensor([[0.9], [0.6], [0.4], [0.2], [-0.8]])
    decision = smoothed(model).certify_at(x, radius=0.5, generator=generator())
    assert decision.certified.tolist() == [True, True, False, False, True]
    assert decision.decided.all()
    assert decision.label.tolist() == [1, 1, 1, 1, 0]
    # Far from the radius a few hundred draws do; a tenth of sigma from it some thousands.
    assert decision.draws[0] < 500
    assert (decision.draws < 20_000).all()


def test_what_is_certified_has_the_evidence_for_it():
    """At the moment at which draws end: 1 / alpha against the probability that the radius needs."""
    x = torch.linspace(0.45, 0.9, 30)[:, None]
    decision = smoothed(Halfspace(torch.ones(1)), grid=None).certify_at(
        x, radius=0.4, generator=generator(), alpha=1e-3
    )
    needed = float(Gaussian(SIGMA).probability_needed(0.4))
    evidence = log_evidence_above(decision.successes, decision.draws, needed)
    assert decision.certified.sum() > 10
    assert (evidence[decision.certified] >= math.log(1000)).all()


def test_the_error_of_the_noise_is_added_to_what_a_radius_needs(monkeypatch: pytest.MonkeyPatch):
    model, x = Halfspace(torch.ones(1)), torch.tensor([[0.9]])
    assert smoothed(model).certify_at(x, radius=0.4, generator=generator()).certified.all()
    monkeypatch.setattr(Sampling, "error", property(lambda _: 0.4))
    assert not smoothed(model).certify_at(x, radius=0.4, generator=generator()).decided.any()


@pytest.mark.slow
def test_error_rate_is_at_most_alpha_at_the_boundary_itself():
    """At a distance just below the radius every certification is wrong, at whatever draw it happens."""
    rows, alpha = 2000, 0.05
    x = torch.full((rows, 1), 0.4)
    classifier = smoothed(Halfspace(torch.ones(1)), batch_size=4000, grid=None)
    decision = classifier.certify_at(x, radius=0.4001, alpha=alpha, max_samples=2000, generator=generator(1))
    allowed = scipy.stats.binom.isf(1e-6, rows, alpha)
    assert 0 < int(decision.certified.sum()) <= allowed
    # The mutant: a bound for a fixed sample size, looked at after every block.
    hits = scipy.stats.binom.rvs(100, 0.7881, size=(rows, 20), random_state=0).cumsum(1)
    bounds = clopper_pearson_lower(torch.from_numpy(hits), 100 * torch.arange(1, 21), alpha=alpha)
    assert int((bounds > 0.78815).any(1).sum()) > allowed


@pytest.mark.parametrize("group", [1, 4])
def test_answers_depend_neither_on_the_batch_size_nor_on_other_rows(group: int):
    """Rounds used to be cut by the batch size and the number of open rows, and so were the moments of looking."""
    model = Halfspace(torch.randn(6, generator=generator(2)))
    x = 0.5 * torch.randn(9, 6, generator=generator(3))
    exact = model.distance(x)

    def decide(rows: slice, batch_size: int) -> list[list]:
        classifier = smoothed(model, batch_size=batch_size, noise_group=group)
        decision = classifier.certify_at(
            x[rows], radius=0.3, max_samples=20_050, generator=generator(4), first_index=rows.start
        )
        clear = (exact[rows] - 0.3).abs() > 0.03
        assert torch.equal(decision.certified[clear], (exact[rows] > 0.3)[clear])
        fields = (decision.label, decision.draws, decision.successes, decision.certified, decision.decided)
        return torch.stack([field.long() for field in fields], 1).tolist()

    expected = decide(slice(0, 9), 300)
    assert len({draws for _, draws, *_ in expected}) > 3
    assert decide(slice(0, 9), 64) == expected
    assert decide(slice(0, 9), 5000) == expected
    assert [decide(slice(row, row + 1), 1000)[0] for row in range(9)] == expected


def test_a_hopeless_radius_costs_nothing():
    """No budget of 100,000 draws certifies 4 sigma, so none is spent."""
    decision = smoothed(Halfspace(torch.ones(1))).certify_at(torch.ones(3, 1) * 9, radius=4 * SIGMA)
    assert decision.draws.tolist() == [0, 0, 0]
    assert not decision.certified.any()
    assert not decision.decided.any()


@pytest.mark.slow
def test_twenty_times_fewer_passes_than_a_fixed_number_of_draws_and_no_other_answers():
    """At n = 100,000 and radii 0.25, 0.5 and 1.0, against bounds from as many independent draws as time allows."""
    model, x, _ = reference.load("noise", 30)
    classifier = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    fixed = classifier.certify(x, n=10_000, generator=generator(1))
    votes = fixed.counts.gather(1, fixed.label[:, None]).squeeze(1)
    # Each bound fails with probability 1e-8, 180 of them with less than 2e-6.
    lower, upper = (bound(votes, 10_000, alpha=1e-8) for bound in (clopper_pearson_lower, clopper_pearson_upper))
    passes = 0
    for radius in (0.25, 0.5, 1.0):
        decision = classifier.certify_at(x, radius=radius, generator=generator())
        passes += int((decision.draws + 100).sum())
        needed = Gaussian(0.25).probability_needed(radius)
        same = decision.label == fixed.label
        assert same.sum() >= 29
        assert (upper >= needed)[decision.certified & same].all()
        assert (lower < needed)[decision.decided & ~decision.certified & same].all()
        if radius < 1:
            assert decision.certified.sum() > 15
    assert 20 * passes < 3 * 30 * 100_100


def test_batches_stay_full_while_inputs_leave():
    sizes = []

    class Counting(Halfspace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x)

    x = torch.linspace(-1, 1, 201).unsqueeze(1)
    smoothed(Counting(torch.ones(1)), batch_size=500).certify_at(x, radius=0.3, generator=generator())
    assert max(sizes) == 500
    assert sum(sizes) / len(sizes) > 0.75 * 500


def test_the_needed_probability_follows_the_device_of_the_input():
    """It used to be made on the default device, whatever the inputs were on."""
    model, x, _ = reference.load("noise", 3)
    classifier = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    expected = classifier.certify_at(x, radius=0.25, generator=generator())
    seeded = generator()
    with elsewhere():
        assert torch.equal(classifier.certify_at(x, radius=0.25, generator=seeded).draws, expected.draws)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius must be a finite number above 0"),
        ({"radius": float("nan")}, "radius must be a finite number above 0"),
        ({"radius": "far"}, "radius must be a finite number above 0, got 'far'"),
        ({"radius": 0.1, "alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"radius": 0.1, "alpha": 0.21}, "alpha must be at most 0.2, got 0.21"),  # the test promises nothing there
        ({"radius": 0.1, "max_samples": 0}, "max_samples must be an integer of at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(options: dict, message: str):
    with pytest.raises(InvalidInput, match=message):
        smoothed(Halfspace(torch.ones(1))).certify_at(torch.ones(1, 1), **options)


class Counting(Halfspace):
    """Counts the rows that pass through it."""

    rows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        return super().forward(x)


def test_a_single_easy_input_costs_little_more_than_its_draws():
    """The trial batch had 1000 rows, where selection and decision took 200. Only the model probe comes on top."""
    model, x = Counting(torch.ones(1)), torch.ones(1, 1)
    probe(model, x, batch_size=PROBED)
    probed, model.rows = model.rows, 0
    assert probed <= PROBED + 8 * PROBE_ROWS
    decision = smoothed(model).certify_at(9 * x, radius=0.1, generator=generator())
    assert decision.certified.all()
    assert decision.draws.tolist() == [100]
    assert model.rows == 200 + probed
    for call, n, draws in ((smoothed(model).predict, 100, 100), (smoothed(model).certify, 1000, 1100)):
        model.rows = 0
        call(x, n=n)
        assert model.rows == draws + probed
