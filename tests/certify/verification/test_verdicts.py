"""Verdicts against closed forms: verified below the exact distance, falsified above it, and unknown only in between."""

import math

import pytest
import torch
from oracles.families import inputs, network
from oracles.halfspace import generator
from oracles.selection import some
from torch import Tensor, nn

from bounds import InvalidInput
from certify import reference, verify
from certify.results import Witness


class Affine(nn.Module):
    """A linear classifier of two classes, wrapped so that it is no sequence of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2, dtype=torch.float64)
        with torch.no_grad():
            for weight in self.layer.parameters():
                weight.normal_(generator=generator(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def distance(self, x: Tensor, norm: float) -> Tensor:
        row = (self.layer.weight[0] - self.layer.weight[1]).detach()
        margin = (self(x)[:, 0] - self(x)[:, 1]).detach().abs()
        if norm == 0:
            return margin / row.abs().max()
        dual = 1.0 if norm == math.inf else math.inf if norm == 1 else norm / (norm - 1)
        return margin / torch.linalg.vector_norm(row, dual)


@pytest.fixture(scope="module")
def model() -> Affine:
    return Affine()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(6, 5, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize("norm", some([1.0, 1.5, 2.0, math.inf], [math.inf]))
@pytest.mark.slow
def test_verdicts_change_at_the_exact_distance(model: Affine, x: Tensor, norm: float):
    labels, exact = model(x).argmax(1), model.distance(x, norm)
    for method in ("ibp", "crown", "alpha_crown"):
        options = {"method": method, "low": None, "high": None, "attack": method == "crown"}
        inside = verify(model, x, labels, norm=norm, epsilon=exact * 0.999, **options)
        assert inside.verified.all()
        assert not inside.falsified.any()
        assert (inside.margin > 0).all()
    outside = verify(model, x, labels, norm=norm, epsilon=exact * 1.01, low=None, high=None, generator=generator())
    assert not outside.verified.any()
    if norm in (1, 2, math.inf):
        assert outside.falsified.all()
        assert (outside.distance <= outside.epsilon).all()
        assert (model(outside.adversarial).argmax(1) != labels).all()
        assert set(outside.decided_by) == {"attack"}
    alone = verify(model, x, labels, norm=norm, epsilon=exact * 1.01, low=None, high=None, attack=False)
    assert alone.unknown.all()  # with the falsifier off nothing false is ever verified
    assert set(alone.decided_by) == {""}
    assert (alone.margin < 0).all()


@pytest.mark.slow
def test_changed_entries_are_counted(model: Affine):
    """In the box [-1, 1], one entry changes the margin by its weight times its room: by hand."""
    x = torch.rand(8, 5, generator=generator(2), dtype=torch.float64) * 2 - 1
    labels = model(x).argmax(1)
    row = (model.layer.weight[0] - model.layer.weight[1]).detach() * (1 - 2 * labels[:, None].double())
    gains = torch.where(row > 0, row * (x + 1), -row * (1 - x)).sort(1, descending=True).values
    margin = (model(x)[:, 0] - model(x)[:, 1]).detach().abs()
    for changes in (0, 1, 2):
        exact = margin > gains[:, :changes].sum(1)
        found = verify(model, x, labels, norm=0, epsilon=changes, low=-1.0, high=1.0)
        assert torch.equal(found.verified, exact)


def test_what_is_wrong_already_is_falsified_as_it_is(model: Affine, x: Tensor):
    labels = 1 - model(x).argmax(1)
    found = verify(model, x, labels, norm=2, epsilon=0.1, low=None, high=None)
    assert found.falsified.all()
    assert set(found.decided_by) == {"clean"}
    assert (found.distance == 0).all()
    assert torch.equal(found.adversarial, x)


@pytest.mark.slow
def test_a_trained_network():
    """Attacks and proofs exclude each other, whoever goes first; tighter methods verify at least as many."""
    model, x, y = reference.load("ibp", 12)
    whole = verify(model, x, y, norm=math.inf, epsilon=0.1, method="crown", generator=generator())
    proofs = verify(model, x, y, norm=math.inf, epsilon=0.1, method="crown", attack=False)
    assert not (whole.falsified & proofs.verified).any()
    assert torch.equal(whole.verified, proofs.verified)
    assert (whole.verified.sum(), whole.falsified.sum()) != (0, 0)
    cheap = verify(model, x, y, norm=math.inf, epsilon=0.1, method="ibp", attack=False)
    assert (proofs.verified | ~cheap.verified).all()
    table = whole.to_dataframe()
    assert list(table.verified) == whole.verified.tolist()
    assert set(table.decided_by) <= {"clean", "attack", "ibp", "crown_ibp", "fast_lin", "crown", ""}


def test_each_input_gets_its_own_verdict():
    """Radii of all sizes in one batch: those in between are settled by some method, and others are not."""
    model, x = network("dense", 1), inputs(6, 2)
    labels = model(x).argmax(1)
    epsilon = torch.tensor([0.2, 0.05, 0.002, 0.12, 0.02, 0.3], dtype=torch.float64)
    options = {"norm": math.inf, "method": "crown", "attack": False}
    whole = verify(model, x, labels, epsilon=epsilon, **options)
    assert len(set(whole.decided_by)) > 2
    for place in range(6):
        rows = slice(place, place + 1)
        alone = verify(model, x[rows], labels[rows], epsilon=epsilon[rows], **options)
        assert (alone.verified, alone.decided_by) == (whole.verified[rows], whole.decided_by[rows])
        torch.testing.assert_close(alone.margin, whole.margin[rows])


def test_a_witness_that_is_too_far_does_not_falsify(model: Affine, x: Tensor, monkeypatch: pytest.MonkeyPatch):
    """The mutant: an attack that reports inputs beyond the radius."""

    def far(model: nn.Module, x: Tensor, labels: Tensor, **_: object) -> Witness:
        hit = torch.ones_like(labels, dtype=torch.bool)
        distance = torch.full(labels.shape, 9.0, dtype=torch.float64)
        return Witness(
            label=labels,
            distance=distance,
            adversarial=x + 9,
            found=hit,
            adversarial_label=1 - labels,
            norm=2.0,
            queries=1,
            method="far",
        )

    monkeypatch.setattr("certify.verification.verdicts.minimal_perturbation", far)
    found = verify(model, x, model(x).argmax(1), norm=2, epsilon=1e-3, low=None, high=None)
    assert not found.falsified.any()
    assert found.verified.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be a finite number of at least 0, got -0.1"),
        ({"epsilon": math.nan}, "epsilon must be a finite number of at least 0"),
        ({"epsilon": torch.ones(3)}, r"epsilon must have shape \(6,\), got \(3,\)"),
        ({"norm": 0.5}, "norm must be at least 1"),
        ({"norm": 0, "epsilon": 1}, "low and high must be given with norm=0"),
        ({"norm": 0, "epsilon": 1.5, "low": -9.0, "high": 9.0}, "epsilon must be an integer of at least 0, got 1.5"),
        ({"method": "best"}, "one of ibp, crown_ibp, fast_lin, crown, alpha_crown, complete, got 'best'"),
        ({"sound": "float"}, "sound must be one of real, rounding, deployed, got 'float'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(model: Affine, x: Tensor, change: dict, message: str):
    given = {"norm": 2, "epsilon": 0.1, "low": None, "high": None, "attack": False} | change
    with pytest.raises(InvalidInput, match=message):
        verify(model, x, model(x).argmax(1), **given)
