"""Ensembles as base classifiers: against plain loops, a mean that is known, and exact probabilities of the plane."""

import math

import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel
from certify import SmoothedClassifier
from certify.smoothing import Gaussian
from certify.smoothing.classifiers.ensembles import Consensus, Ensemble

SIGMA = 0.5


def networks(count: int, entries: int = 6, classes: int = 4) -> list[nn.Module]:
    models = []
    for i in range(count):
        layers = [nn.Linear(entries, 8), nn.ReLU(), nn.Linear(8, classes)]
        for layer in layers[::2]:
            layer.weight.data.normal_(generator=generator(i))
            layer.bias.data.normal_(generator=generator(100 + i))
        models.append(nn.Sequential(nn.Flatten(), *layers).double())
    return models


def one_by_one(models: list[nn.Module], k: int, x: Tensor, average: str) -> Tensor:
    answers = []
    for row in x:
        outputs = [model(row[None])[0] for model in models]
        outputs = [output.softmax(0) for output in outputs] if average == "probabilities" else outputs
        agree = len({int(output.argmax()) for output in outputs[:k]}) == 1
        answers.append(torch.stack(outputs[:k] if agree else outputs).mean(0))
    return torch.stack(answers)


class Counted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.model(x)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_consensus_is_decided_row_by_row(k: int, average: str):
    models, x = networks(5), torch.randn(60, 2, 3, generator=generator(7)).double()
    with torch.no_grad():
        expected = one_by_one(models, k, x, average)
        answer = Consensus(models, k, average=average)(x)
        torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)
        whole = Ensemble(models, average=average)(x)
        torch.testing.assert_close(whole, one_by_one(models, 5, x, average), rtol=1e-12, atol=1e-12)
        pieces = torch.cat([Consensus(models, k, average=average)(part) for part in x.split(7)])
        torch.testing.assert_close(pieces, answer, rtol=1e-12, atol=1e-12)
    if 1 < k < 5:
        assert 5 < int((answer - whole).abs().amax(1).gt(1e-9).sum()) < 60  # both branches were taken
    if k == 1:
        torch.testing.assert_close(answer, one_by_one(models[:1], 1, x, average), rtol=1e-12, atol=1e-12)


def test_the_other_members_see_only_the_rows_that_need_them():
    models, x = [Counted(model) for model in networks(4)], torch.randn(60, 6, generator=generator(7)).double()
    with torch.no_grad():
        Consensus(models, 2)(x)
        split = int((models[0].model(x).argmax(1) != models[1].model(x).argmax(1)).sum())
    assert 0 < split < 60
    assert [model.rows for model in models] == [60, 60, split, split]


def test_smoothed_ensemble_of_halfspaces_is_that_of_their_mean():
    weights, biases = torch.randn(3, 10, generator=generator(1)), torch.randn(3, generator=generator(2))
    ensemble = Ensemble([Halfspace(w, float(b)) for w, b in zip(weights, biases, strict=True)])
    mean = Halfspace(weights.mean(0), float(biases.mean()))
    x = 0.3 * torch.randn(20, 2, 5, generator=generator(3))
    smoothed = SmoothedClassifier(ensemble, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(x, n=20_000, alpha=1e-6, generator=generator())
    exact = mean.distance(x)
    assert (certificate.radius <= exact).all()
    near = (exact > 0.4 * SIGMA) & (exact < 2 * SIGMA)
    assert near.sum() > 5
    assert (certificate.radius > exact - 0.2 * SIGMA)[near].all()
    alone = ensemble.models[0].distance(x)
    assert (certificate.radius > alone).any()  # the mutant: the first member only


def test_smoothed_consensus_votes_with_its_own_probabilities_and_not_those_of_the_ensemble():
    """Linear logits without offset: every class is a union of sectors of the plane, with its share of the circle."""
    models = [nn.Linear(2, 4, bias=False, dtype=torch.float64) for _ in range(3)]
    for i, model in enumerate(models):
        model.weight.data.normal_(generator=generator(i))
    turns = torch.linspace(0, 2 * math.pi, 400_001, dtype=torch.float64)[:-1]
    circle, draws = torch.stack([turns.cos(), turns.sin()], 1), 60_000
    consensus, ensemble = Consensus(models, 2), Ensemble(models)
    smoothed = SmoothedClassifier(consensus, Gaussian(SIGMA), num_classes=4)
    votes = smoothed.predict(torch.zeros(1, 2).double(), n=draws, generator=generator(8)).counts[0]

    def p_value(believed: nn.Module) -> float:
        with torch.no_grad():
            shares = believed(circle).argmax(1).bincount(minlength=4).double() / len(circle)
        tests = [
            scipy.stats.binomtest(v, draws, p).pvalue for v, p in zip(votes.tolist(), shares.tolist(), strict=True)
        ]
        return 4 * min(tests)

    assert p_value(consensus) > 1e-6
    assert p_value(ensemble) < 1e-12  # the mutant: a certificate of one read as one of the other


@pytest.mark.slow
def test_certificates_of_a_consensus_do_not_depend_on_batches():
    x = torch.randn(6, 6, generator=generator(9)).double()
    counts = [
        SmoothedClassifier(Consensus(networks(3), 2), Gaussian(SIGMA), num_classes=4, batch_size=size)
        .certify(x, n=300, generator=generator())
        .counts
        for size in (1000, 70, 1)
    ]
    assert torch.equal(counts[0], counts[1])
    assert torch.equal(counts[0], counts[2])


def test_ensembles_nest_and_come_after_a_denoiser():
    denoised = nn.Sequential(nn.Hardtanh(0.0, 1.0), Ensemble([Ensemble(networks(2)), Consensus(networks(3), 2)]))
    certificate = SmoothedClassifier(denoised, Gaussian(SIGMA), num_classes=4).certify(torch.rand(2, 6).double(), n=100)
    assert len(certificate) == 2


def test_consensus_follows_the_device_of_the_input():
    x, consensus = torch.randn(9, 6, generator=generator(4)).double(), Consensus(networks(3), 2)
    with torch.no_grad():
        expected = consensus(x)
        with elsewhere():
            assert torch.equal(consensus(x), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ensemble([]), "models must hold at least one, got none"),
        (lambda: Ensemble([nn.Linear(2, 2), len]), "got Linear, builtin_function_or_method"),
        (lambda: Ensemble(networks(2), average="votes"), "average must be one of logits, probabilities, got 'votes'"),
        (lambda: Consensus(networks(2), 0), "k must be an integer of at least 1, got 0"),
        (lambda: Consensus(networks(2), 3), "k must be at most 2, got 3"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_members_must_return_logits_of_one_shape():
    with pytest.raises(InvalidModel, match="logits of one shape"):
        Ensemble([nn.Linear(2, 3), nn.Linear(2, 4)])(torch.zeros(1, 2))
    with pytest.raises(InvalidModel, match="logits of one shape"):
        SmoothedClassifier(Ensemble([nn.Linear(2, 3), nn.Linear(2, 4)]), Gaussian(1.0), num_classes=3).certify(
            torch.zeros(1, 2)
        )
