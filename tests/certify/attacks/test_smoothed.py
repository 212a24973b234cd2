"""Attacks on smoothed classifiers: the smoothed half-space is the half-space, so its exact distance is known."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds import InvalidInput
from certify import SmoothedClassifier, evaluate
from certify.attacks import smoothed_minimal_perturbation, smoothed_robust_accuracy
from certify.attacks.studies import smoothed_votes as votes
from certify.methods import SmoothedAttack, Smoothing
from certify.smoothing import Ablation, Gaussian, Laplace, Uniform

SIGMA = 0.25
OPEN = {"low": None, "high": None}
SURE = 1e-7  # of each row, so that all tests together raise a false alarm with probability below 1e-5
APART = 1.03  # of two points that fresh draws are asked about, one after the other, the farther to the nearer
LATE = 10 * SIGMA / math.sqrt(10_000)  # how far behind the boundary 10,000 votes are clear for certain, with some room


def problem(shape: tuple[int, ...], rows: int, noise=None, **options):
    """A half-space under noise, with inputs at distances of 0.2 to 0.6, labelled as they lie."""
    model = Halfspace(torch.randn(shape, generator=generator(), dtype=torch.float64))
    x = torch.randn(rows, *shape, generator=generator(1), dtype=torch.float64)
    normal = model.linear.weight[1].view(shape) / model.linear.weight[1].norm()
    wanted = torch.linspace(0.2, 0.6, rows, dtype=torch.float64) * (1 - 2 * (torch.arange(rows) % 2))
    x = x + (wanted - (x * normal).flatten(1).sum(1)).view(-1, *[1] * len(shape)) * normal
    return SmoothedClassifier(model, noise or Gaussian(SIGMA), num_classes=2, **options), x, (wanted > 0).long()


@pytest.mark.parametrize("shape", [(7,), pytest.param((2, 5, 7), marks=pytest.mark.slow)])
def test_witnesses_of_a_halfspace_are_near_the_exact_distance(shape: tuple[int, ...]):
    """Never nearer than exact; farther by no more than the votes need to be clear, and the next point that is asked."""
    smoothed, x, y = problem(shape, 5)
    witness = smoothed_minimal_perturbation(smoothed, x, y, alpha=SURE, generator=generator(2), **OPEN)
    exact = smoothed.model.distance(x)
    assert witness.found.all()
    assert (witness.distance >= exact).all()
    assert (witness.distance <= APART * (exact + LATE)).all()
    assert witness.alpha == SURE
    assert (witness.adversarial_label == 1 - y).all()
    stated = (witness.adversarial - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(witness.distance, stated)


def test_points_that_votes_do_not_confirm_would_be_too_near(monkeypatch: pytest.MonkeyPatch):
    """The mutant: whatever is asked counts as misclassified. The comparison with the exact distance sees it."""
    smoothed, x, y = problem((7,), 5)

    def believed(judge: votes.Votes, points: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        label = judge.labels if rows is None else 1 - judge.labels[rows]
        return label, torch.zeros_like(label, dtype=torch.bool)

    monkeypatch.setattr(votes.Votes, "predicted", believed)
    witness = smoothed_minimal_perturbation(smoothed, x, y, alpha=SURE, generator=generator(2), **OPEN)
    assert (witness.distance < smoothed.model.distance(x)).all()


@pytest.mark.slow
@pytest.mark.parametrize("noise", [Laplace(0.2), Uniform(0.4)], ids=str)
def test_other_noises_and_norms(noise):
    """The label under any symmetric noise of a half-space is its own: the l_1 distance is known as well."""
    smoothed, x, y = problem((7,), 4, noise)
    weight = smoothed.model.linear.weight[1].abs()
    for norm, dual in ((1, weight.amax()), (math.inf, weight.sum())):
        exact = smoothed.model.distance(x) * smoothed.model.linear.weight[1].norm() / dual
        witness = smoothed_minimal_perturbation(smoothed, x, y, norm=norm, alpha=SURE, generator=generator(2), **OPEN)
        assert witness.found.all()
        assert (witness.distance >= exact).all()
        assert (witness.distance <= 1.2 * exact).all()


class Ring(nn.Module):
    """Class 1 outside a circle; noise makes the inside smaller, so the base model errs later than the smoothed one."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 8 * (x.flatten(1).square().sum(1) - 1)
        return torch.stack([-lead, lead], 1)


def test_it_is_the_smoothed_classifier_that_is_attacked():
    """A witness at which the base model is right; the certificate of the same classifier lies below it."""
    smoothed = SmoothedClassifier(Ring(), Gaussian(0.3), num_classes=2)
    x = torch.tensor([[0.0, 0.1], [0.1, 0.2]], dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.long)
    witness = smoothed_minimal_perturbation(smoothed, x, y, alpha=SURE, generator=generator(), **OPEN)
    certificate = smoothed.certify(x, 10_000, alpha=SURE, generator=generator(1))
    assert witness.subject == certificate.subject
    assert witness.found.all()
    assert (certificate.radius <= witness.distance).all()
    assert (certificate.radius > 0.7 * witness.distance).all()
    assert (Ring()(witness.adversarial).argmax(1) == y).all()


@pytest.mark.slow
def test_where_noise_lies_on_a_grid_so_do_witnesses():
    smoothed, x, _ = problem((7,), 4)
    x = ((0.5 + 0.05 * x).clamp(0, 1) * 255).round() / 255
    smoothed.model.linear.bias.data = torch.stack([0.5 * weight.sum() * -1 for weight in smoothed.model.linear.weight])
    y = smoothed.model(x).argmax(1)
    witness = smoothed_minimal_perturbation(smoothed, x, y, alpha=SURE, generator=generator())
    assert witness.found.all()
    assert (
        witness.subject
        == smoothed.certify(x, 10, generator=generator()).subject
        == f"smoothed({smoothed.noise}, grid=255)"
    )
    steps = witness.adversarial * 255
    assert ((steps - steps.round()).abs() < 1e-9).all()
    assert (witness.distance >= smoothed.model.distance(x)).all()
    accuracy = smoothed_robust_accuracy(smoothed, x, y, epsilon=0.2, alpha=SURE, generator=generator())
    assert (accuracy.distance <= 0.2)[accuracy.found].all()
    assert accuracy.found.any()


def test_an_abstention_is_no_success():
    """So few votes that no prediction can be clear; and an input on the boundary, which is no misclassified one."""
    smoothed, x, y = problem((7,), 3)
    witness = smoothed_minimal_perturbation(smoothed, x, y, n=5, generator=generator(), **OPEN)
    assert not witness.found.any()
    assert witness.abstained.all()
    assert witness.distance.isinf().all()
    assert torch.equal(witness.adversarial, x)
    accuracy = smoothed_robust_accuracy(smoothed, x, y, epsilon=9.0, n=5, generator=generator(), **OPEN)
    assert not accuracy.robust.any()
    assert not accuracy.found.any()
    edge = torch.zeros_like(x)
    witness = smoothed_minimal_perturbation(smoothed, edge, y, generator=generator(), alpha=SURE, **OPEN)
    assert witness.abstained.all()
    assert (witness.distance > 0).all()


def test_verdicts_at_a_fixed_budget_on_both_sides_of_the_exact_distance():
    smoothed, x, y = problem((7,), 5)
    exact = smoothed.model.distance(x)
    options = {"alpha": SURE, "steps": 20, "generator": generator(), **OPEN}
    below = smoothed_robust_accuracy(smoothed, x, y, epsilon=0.99 * exact, **options)
    assert below.robust.all()
    above = smoothed_robust_accuracy(smoothed, x, y, epsilon=1.02 * exact + LATE, **options)
    assert above.found.all()
    assert (above.distance <= above.epsilon).all()
    assert above.attack == ("projected_gradient",) * 5
    assert above.interval(0.05)[0] == 0


def test_misclassified_inputs_have_distance_zero_and_frozen_features_stay():
    smoothed, x, y = problem((7,), 4)
    y[3] = 1 - y[3]
    mask = torch.arange(7) < 3
    witness = smoothed_minimal_perturbation(
        smoothed, x, y, frozen_features=mask, alpha=SURE, generator=generator(), **OPEN
    )
    assert witness.distance[3] == 0
    assert witness.found.all()
    assert torch.equal(witness.adversarial[:, mask], x[:, mask])
    weight = smoothed.model.linear.weight[1]
    assert (witness.distance >= smoothed.model.distance(x) * weight.norm() / weight[~mask].norm())[:3].all()
    accuracy = smoothed_robust_accuracy(
        smoothed, x, y, epsilon=2.0, frozen_features=mask, generator=generator(), **OPEN
    )
    assert torch.equal(accuracy.adversarial[:, mask], x[:, mask])
    assert accuracy.misclassified.tolist() == [False, False, False, True]


class Counting(nn.Module):
    """Counts the rows that go through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.model(x)


def test_passes_are_counted_for_each_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("certify.smoothing.classifiers.classifier.probe", lambda *_, **__: 2)
    smoothed, x, y = problem((7,), 4)
    y[3] = 1 - y[3]
    smoothed.model = counting = Counting(smoothed.model)
    witness = smoothed_minimal_perturbation(smoothed, x, y, n=500, steps=5, draws=8, generator=generator(), **OPEN)
    assert counting.rows == witness.queries_per_row.sum()
    assert witness.queries_per_row[3] == 500
    assert witness.queries == witness.queries_per_row.max()
    counting.rows = 0
    accuracy = smoothed_robust_accuracy(smoothed, x, y, epsilon=1.0, n=500, draws=8, generator=generator(), **OPEN)
    assert counting.rows == accuracy.forward_passes.sum()


def test_an_evaluation_compares_certificates_with_witnesses_of_the_same_classifier():
    smoothed, x, _ = problem((7,), 4)
    x = (0.5 + 0.1 * x).clamp(0, 1)
    y = smoothed.model(x).argmax(1)
    methods = [Smoothing(sigma=SIGMA, n=1000), SmoothedAttack(sigma=SIGMA, n=2000, steps=10, draws=16)]
    evaluation = evaluate(smoothed.model, x, y, norms=[2], methods=methods, low=-2.0, high=2.0)
    assert evaluation.comparisons() > 0
    assert evaluation.check() == []
    assert "upper bound with probability 0.999" in set(evaluation.summary()["promise"])
    for record in evaluation.records:
        for row in record["rows"]:
            row["certified_radius"] = 5.0  # the mutant
    assert len(evaluation.check()) == evaluation.comparisons()


def test_bad_input_and_no_input():
    smoothed, x, y = problem((7,), 2)
    for change, message in (
        ({"draws": 3}, "draws must be even, got 3"),
        ({"draws": 0}, "draws must be an integer of at least 2"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
        ({"norm": 3}, "norm must be 1, 2 or math.inf"),
        ({"n": 0}, "n must be an integer of at least 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            smoothed_minimal_perturbation(smoothed, x, y, **{**OPEN, **change})
    ablated = SmoothedClassifier(smoothed.model, Ablation(keep=3, pixels=7), num_classes=2)
    with pytest.raises(InvalidInput, match="there is no gradient through it"):
        smoothed_minimal_perturbation(ablated, torch.rand(2, 1, 7, 1), y)
    assert len(smoothed_minimal_perturbation(smoothed, x[:0], y[:0], **OPEN)) == 0
    assert len(smoothed_robust_accuracy(smoothed, x[:0], y[:0], epsilon=1.0, **OPEN)) == 0


def test_every_tensor_is_made_on_the_device_of_the_input():
    smoothed, x, y = problem((7,), 2)
    options = {"n": 100, "steps": 3, "draws": 4, **OPEN}
    source = generator()
    with elsewhere():
        witness = smoothed_minimal_perturbation(smoothed, x, y, generator=source, **options)
        accuracy = smoothed_robust_accuracy(smoothed, x, y, epsilon=1.0, generator=source, **options)
    assert witness.distance.device == accuracy.distance.device == x.device
