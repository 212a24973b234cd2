"""Attacks at a fixed budget: exact verdicts on linear classifiers, allowed inputs only, honest about the rest."""

import math

import pytest
import torch
from oracles.fixed_budget import ALL, SINGLE, attack, check, exact_distance
from oracles.halfspace import generator
from oracles.linear import problem
from oracles.selection import crossed, some
from torch import Tensor, nn

from bounds import InvalidInput
from certify import attacks
from certify.attacks.common import passes
from certify.attacks.common.threat import BoundedThreat, Settings
from certify.attacks.fixed_budget import driver as budget
from certify.attacks.fixed_budget.losses import LOSSES

NORMS = [1, 2, math.inf]


# ---------------------------------------------------------------------------------------------------- closed forms


@crossed(
    ("norm", NORMS),
    ("box", [(None, None), (0.35, 0.65)]),
    (("shape", "classes"), [((7,), 10), ((3, 5), 3), ((2, 5, 7), 2)]),
)
def test_verdicts_of_the_portfolio_are_exact(shape: tuple[int, ...], box: tuple, classes: int, norm: float):
    """On both sides of the exact distance of each row: a budget of its own 0.1% below, and 0.1% above."""
    model, x, _ = problem(shape, classes, 7)
    x = x if box[0] is None else x.clamp(*box)
    y = model(x).argmax(1)
    exact = exact_distance(model, x, norm, box)
    reachable = exact.isfinite()
    assert reachable.sum() >= 4
    options = {"norm": norm, "low": box[0], "high": box[1], "generator": generator()}
    below = attacks.robust_accuracy(model, x, y, epsilon=0.999 * exact.where(reachable, 10.0), steps=5, **options)
    assert below.robust.all()
    above = attacks.robust_accuracy(model, x, y, epsilon=1.001 * exact.where(reachable, 10.0), steps=20, **options)
    assert torch.equal(above.found, reachable)
    check(above, model, x, y, *(box if box[0] is not None else ()))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_step_is_exact_for_two_classes(norm: float, dtype: torch.dtype):
    """Catches a step that is not the best one within the ball and the box together."""
    model, x, _ = problem((3, 5), 2, 7, dtype)
    x = x.clamp(0.35, 0.65)
    y = model(x).argmax(1)
    exact = exact_distance(model, x, norm, (0.35, 0.65))
    rows = exact.isfinite()
    x, y, exact = x[rows], y[rows], exact[rows]
    for share, found in ((0.999, False), (1.001, True)):
        result = attacks.fgsm(model, x, y, norm=norm, epsilon=share * exact, low=0.35, high=0.65)
        assert (result.found == found).all()


@crossed(("loss", ["cross_entropy", "margin", "dlr"]), ("norm", NORMS), ("classes", [2, 3, 10]))
def test_auto_pgd_with_each_loss(classes: int, norm: float, loss: str):
    """A little more than the distance is enough for the margin of the best class; cross-entropy aims at all at once."""
    model, x, y = problem((2, 5, 7), classes, 7)
    if loss == "dlr" and classes == 2:
        with pytest.raises(InvalidInput, match='at least 3 classes, got 2: use loss="margin"'):
            attacks.apgd(model, x, y, norm=norm, epsilon=0.1, loss=loss)
        return
    exact = model.distance(x, norm)
    options = {"norm": norm, "loss": loss, "low": None, "high": None, "generator": generator()}
    assert attacks.apgd(model, x, y, epsilon=0.999 * exact, steps=20, **options).robust.all()
    result = attacks.apgd(model, x, y, epsilon=(3 if loss == "cross_entropy" else 1.2) * exact, steps=50, **options)
    assert result.found.all()
    assert set(result.attack) == {f"apgd({loss})"}


def test_losses_by_hand():
    """Logits 4, 1, 2 with label 0: a margin of -2, in units of the gap 4 - 1; the same whatever the scale."""
    logits, labels = torch.tensor([[4.0, 1.0, 2.0], [4.0, 1.0, 2.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(LOSSES["margin"](logits, labels), torch.tensor([-2.0, 3.0]))
    torch.testing.assert_close(LOSSES["dlr"](logits, labels), torch.tensor([-2 / 3, 1.0]))
    torch.testing.assert_close(LOSSES["dlr"](8 * logits + 3, labels), torch.tensor([-2 / 3, 1.0]))
    expected = torch.tensor([math.log(1 + math.exp(-3) + math.exp(-2)), math.log(1 + math.exp(3) + math.exp(1))])
    torch.testing.assert_close(LOSSES["cross_entropy"](logits, labels), expected)
    assert (LOSSES["dlr"](torch.ones(1, 3), torch.tensor([0])) == 0).all()


@crossed(("name", SINGLE), ("norm", NORMS), (("shape", "batch"), [((7,), 1), ((3, 5), 7), ((2, 5, 7), 7)]))
def test_every_attack_for_every_shape(name: str, norm: float, shape: tuple[int, ...], batch: int):
    """Nothing below the exact distance, something far above it; only allowed inputs either way."""
    model, x, y = problem(shape, 3, batch, torch.float32)
    exact = exact_distance(model, x, norm, (0.0, 1.0))
    low = torch.zeros(shape)  # one side per feature, the other a number
    near = attack(name, model, x, y, norm=norm, epsilon=0.999 * exact, low=low)
    assert near.robust.all()
    check(near, model, x, y, 0, 1)
    far = attack(name, model, x, y, norm=norm, epsilon=6 * exact, low=low)
    check(far, model, x, y, 0, 1)
    assert far.found.double().mean() > 0.5
    assert far.adversarial.dtype == torch.float32
    assert far.distance.dtype == far.epsilon.dtype == far.margin.dtype == torch.float64
    assert (far.margin[far.found] < 0).all()
    assert (far.margin[far.robust] >= -1e-4).all()


# --------------------------------------------------------------------------------------------------------- honesty


def test_each_row_has_its_own_budget():
    model, x, y = problem((7,), 3, 6)
    exact = model.distance(x, 2)
    epsilon = exact * torch.tensor([0.5, 1.5] * 3, dtype=torch.float64)
    result = attacks.robust_accuracy(model, x, y, norm=2, epsilon=epsilon, low=None, high=None, steps=10)
    assert result.robust.tolist() == [True, False] * 3
    assert torch.equal(result.epsilon, epsilon)
    assert result.accuracy == 0.5


@pytest.mark.slow
@crossed(("norm", NORMS), ("name", ALL))
def test_frozen_features_stay(name: str, norm: float):
    """They never move, also outside a box; and where all that matters is frozen, nothing is found."""
    model, x, y = problem((3, 5), 3, 7)
    mask = torch.zeros(5, dtype=torch.bool)  # the same entries in each of three rows
    mask[1] = mask[4] = True
    result = attack(name, model, x, y, norm=norm, epsilon=20.0, low=None, high=None, frozen_features=mask)
    assert result.found.sum() >= 4
    assert torch.equal(result.adversarial[:, :, mask], x[:, :, mask])
    check(result, model, x, y)
    with torch.no_grad():
        model.linear.weight.view(3, 3, 5)[:, :, ~mask] = 0
    y = model(x).argmax(1)
    assert attack(name, model, x, y, norm=norm, epsilon=20.0, frozen_features=mask).robust.all()
    assert attack(name, model, x, y, norm=norm, epsilon=20.0, low=None, high=None).found.any()


@pytest.mark.parametrize("norm", NORMS)
def test_frozen_features_leave_the_exact_verdict(norm: float):
    """As exact as without: the classifier of the free features alone knows the distance."""
    model, x, y = problem((8,), 3, 7)
    mask = torch.arange(8) < 4
    gaps, normals = model.gaps(x)
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    sizes = torch.linalg.vector_norm(normals[:, :, ~mask], dual, dim=2)
    exact = torch.where(sizes > 0, gaps / sizes.clamp(min=1e-300), math.inf).amin(1)
    options = {"norm": norm, "low": None, "high": None, "frozen_features": mask, "generator": generator()}
    assert attacks.robust_accuracy(model, x, y, epsilon=0.999 * exact, steps=10, **options).robust.all()
    assert attacks.robust_accuracy(model, x, y, epsilon=1.001 * exact, steps=20, **options).found.all()


def test_misclassified_inputs_are_marked_and_left_alone():
    model, x, y = problem((3, 5), 3, 7)
    y[2] = (y[2] + 1) % 3
    result = attacks.robust_accuracy(model, x, y, norm=2, epsilon=1e-6, steps=3)
    assert result.misclassified.tolist() == [False, False, True, False, False, False, False]
    assert result.robust.tolist() == [True, True, False, True, True, True, True]
    assert result.distance[2] == 0
    assert result.forward_passes[2] == 1
    assert result.backward_passes[2] == 0
    check(result, model, x, y)


class Counting(nn.Module):
    """Counts the rows that go through a model and back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forth, self.back = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forth += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.back += len(gradient)


@crossed(("norm", NORMS), ("name", ALL))
def test_passes_are_counted_for_each_input(name: str, norm: float, monkeypatch: pytest.MonkeyPatch):
    """Catches a pass that is not counted, and passes for rows that fell long ago."""
    monkeypatch.setattr(passes, "probe", lambda *_, **__: 3)
    model, x, y = problem((3, 5), 3, 6)
    counting = Counting(model)
    exact = exact_distance(model, x, norm, (0.0, 1.0))
    epsilon = exact * torch.tensor([0.5, 6.0] * 3, dtype=torch.float64)
    result = attack(name, counting, x, y, norm=norm, epsilon=epsilon, batch_size=4)
    assert counting.forth == result.forward_passes.sum()
    assert counting.back == result.backward_passes.sum()
    assert (result.backward_passes[result.robust] > 0).all() == (name != "square")
    if name in ("robust_accuracy", "targeted_apgd"):
        assert result.forward_passes[result.found].double().mean() < result.forward_passes[result.robust].min()


class Constant(nn.Module):
    """Always class 1, with a gradient that points somewhere."""

    def forward(self, x: Tensor) -> Tensor:
        small = x.flatten(1).sum(1, keepdim=True).tanh()
        return torch.cat([small, small + 10, small * 0], 1)


@pytest.mark.slow
@crossed(("norm", NORMS), ("name", ALL))
def test_nothing_found_is_reported_as_nothing_found(name: str, norm: float):
    x = torch.rand(4, 6, generator=generator())
    y = torch.ones(4, dtype=torch.long)
    result = attack(name, Constant(), x, y, norm=norm, epsilon=0.5)
    assert result.robust.all()
    assert result.attack == ("",) * 4
    assert result.method == name
    check(result, Constant(), x, y, 0, 1)
    assert (result.margin > 0).all()


class Blind(nn.Module):
    """No number for the other class where the first pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0]
        return torch.stack([1 + 0 * first, torch.where(first > 0.5, math.nan, first)], 1)


@pytest.mark.parametrize("name", some(ALL, [name for name in ALL if name != "robust_accuracy"]))
def test_a_logit_that_is_no_number_is_no_success(name: str):
    """Nor is a row right whose own logits are none: it is not robust, and nothing was found."""
    x = torch.tensor([[0.1, 0.1], [0.4, 0.1], [0.9, 0.1]])
    result = attack(name, Blind(), x, torch.zeros(3, dtype=torch.long), norm=math.inf, epsilon=0.3)
    assert not result.found.any()
    assert result.robust.tolist() == [True, True, False]
    assert result.misclassified.tolist() == [False, False, True]


@pytest.mark.parametrize("spoil", ["outside the box", "too far", "a frozen feature", "not misclassified"])
def test_every_success_is_checked_again(spoil: str):
    """The mutant: an attack that claims what it never verified. The re-check must not believe it."""
    model, x, y = problem((3, 5), 3, 7)
    exact = model.distance(x, math.inf)
    direction = attacks.fgsm(model, x, y, norm=math.inf, epsilon=6 * exact, low=None, high=None).adversarial - x

    def claim(task):
        task.outcome.adversarial = {
            "outside the box": x + 10 * direction.sign(),
            "too far": x + direction * 1.0000001,
            "a frozen feature": x + direction,
            "not misclassified": x + 1e-9,
        }[spoil]
        task.outcome.found[:] = True

    mask = torch.ones(5, dtype=torch.bool) if spoil == "a frozen feature" else None
    far = 100.0 if spoil == "outside the box" else 6 * exact
    box = (0.0, 1.0) if spoil == "outside the box" else (None, None)
    threat = BoundedThreat(math.inf, *box, mask, epsilon=far)
    assert budget.run("claim", {"claim": claim}, model, x, y, threat, Settings(10)).robust.all()
    if spoil in ("too far", "a frozen feature"):  # the claim is refused for no other reason
        threat = BoundedThreat(math.inf, *box, None, epsilon=7 * exact)
        assert budget.run("claim", {"claim": claim}, model, x, y, threat, Settings(10)).found.all()


class Flat(nn.Module):
    """Steps without a slope: what it returns does not even depend on the input for autograd."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x.detach().flatten(1).mean(1, keepdim=True) > 0.5).to(x.dtype)
        return torch.cat([level, 1 - level], 1)


def test_rows_that_no_gradient_tested_are_marked():
    x = torch.full((3, 6), 0.3)
    y = torch.ones(3, dtype=torch.long)
    result = attacks.pgd(Flat(), x, y, norm=math.inf, epsilon=0.1, generator=generator())
    assert result.robust.all()
    assert result.blind.all()
    model, x, y = problem((7,), 3, 3)
    assert not attacks.pgd(model, x, y, norm=math.inf, epsilon=1e-3, generator=generator()).blind.any()


class Coarse(nn.Module):
    """Logits whose last bits depend on the size of the batch, as those of matrix products do."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1) - 2 + 3e-7 * len(x)
        return torch.stack([5 - total, 5 + total], 1)


def test_rounding_that_changes_with_the_batch_breaks_nothing():
    """At the very distance, a success may be lost, but what is found stands, and well beyond nothing is lost."""
    x = torch.full((8, 6), 0.8)
    y = torch.ones(8, dtype=torch.long)
    exact = 2.8 / 6
    for share in (1.0, 1 + 1e-7, 1 + 1e-6):
        check(attacks.fgsm(Coarse(), x, y, norm=math.inf, epsilon=share * exact), Coarse(), x, y, 0, 1)
    assert attacks.fgsm(Coarse(), x, y, norm=math.inf, epsilon=(1 + 1e-5) * exact).found.all()
