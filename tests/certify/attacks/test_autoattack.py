"""AutoAttack as an extra: its limits are refused, its results checked, and ours are as strong for less."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from oracles.halfspace import generator
from torch import nn

from bounds import InvalidInput
from certify import attacks, reference
from certify.attacks.fixed_budget.autoattack import autoattack


class Fake:
    """Stands in for the class of the package: moves every entry by 1.001 times the budget, towards the middle."""

    def __init__(self, model: nn.Module, *, norm: str, eps: float, **options: object) -> None:
        assert norm == "Linf"
        assert set(options) == {"seed", "device", "version"}
        self.model, self.epsilon = model, eps
        torch.manual_seed(0)

    def run_standard_evaluation(self, x, labels, *, batch_size):
        points = x.clone().requires_grad_()
        with torch.enable_grad():
            torch.autograd.grad(self.model(points).sum(), points)
        return x + 1.001 * self.epsilon * (0.5 - x).sign(), labels


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Fake))


@pytest.mark.usefixtures("fake")
def test_what_the_package_returns_is_checked_again():
    """It leaves the ball by a part in a thousand: the inputs are drawn back before they are believed."""
    model, x, y = reference.load("plain", 20)
    state = torch.random.get_rng_state()
    result = autoattack(model, x, y, norm=math.inf, epsilon=0.1, generator=generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 0 < result.found.sum() < 20
    assert (result.distance[result.found] <= 0.1).all()
    assert (model(result.adversarial).argmax(1) != y)[result.found].all()
    assert result.forward_passes[~result.misclassified & result.robust].eq(2 + 1).all()
    assert result.backward_passes[~result.misclassified].eq(1).all()
    assert set(result.attack) == {"autoattack", ""}


@pytest.mark.usefixtures("fake")
def test_limits_are_refused_in_one_line():
    model, x, y = reference.load("plain", 4)
    flat = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), model)
    few = nn.Sequential(model, nn.Linear(10, 9))
    wide = {"low": -1.0}
    for arguments, options, message in (
        ((flat, x.flatten(1), y), {}, r"got inputs of shape \(4, 784\): use robust_accuracy"),
        ((model, x.double(), y), {}, "got inputs in torch.float64: use robust_accuracy"),
        ((model, x, y), wide, r"got the box \[-1, 1\]: use robust_accuracy"),
        ((flat, x.double().flatten(1), y), wide, r"shape \(4, 784\) and inputs in torch.float64 and the box \[-1, 1\]"),
        (
            (model, x, y),
            {"frozen_features": torch.zeros(28, dtype=torch.bool)},
            "moves all of them, got frozen features: use robust_accuracy",
        ),
        ((few, x, y % 9), {}, "needs at least 10 classes, got 9: use robust_accuracy"),
        ((model, x, y), {"epsilon": 0.0}, "epsilon must be a finite number above 0"),
        ((model, x, y), {"epsilon": torch.rand(4)}, "epsilon must be a finite number above 0"),
        ((model, x, y), {"norm": 3}, "norm must be 1, 2 or math.inf"),
    ):
        with pytest.raises(InvalidInput, match=message):
            autoattack(*arguments, **{"norm": math.inf, "epsilon": 0.1, **options})


def test_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'certify-bounds\[autoattack\]'"):
        autoattack(*reference.load("plain", 4), norm=2, epsilon=0.1)


BUDGETS = [
    ("plain", 1, 2.0),
    ("plain", 2, 0.5),
    ("plain", math.inf, 0.03),
    ("noise", 2, 1.0),
    ("noise", math.inf, 0.06),
]
BUDGETS += [("pgd", 2, 1.0), ("pgd", math.inf, 0.1), ("ibp", 1, 4.0), ("ibp", 2, 1.0), ("ibp", math.inf, 0.1)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "norm", "epsilon"), BUDGETS)
def test_the_portfolio_is_as_strong_as_autoattack_for_half_of_its_queries(name: str, norm: float, epsilon: float):
    """Robust accuracy within 0.01 of AutoAttack's, or lower; every pass counted, forward and backward."""
    pytest.importorskip("pyautoattack")
    model, x, y = reference.load(name, 100)
    options = {"norm": norm, "epsilon": epsilon}
    ours = attacks.robust_accuracy(model, x, y, generator=generator(), **options)
    theirs = autoattack(model, x, y, generator=generator(), **options)
    assert ours.accuracy <= theirs.accuracy + 0.01 + 1e-9
    ours_passes, theirs_passes = ((result.forward_passes + result.backward_passes).sum() for result in (ours, theirs))
    assert ours_passes <= theirs_passes / 2
