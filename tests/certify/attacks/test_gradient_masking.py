"""Symptoms of masked gradients: each is shown by a model built to have it, and none by plain models."""

import math

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import LinearClassifier
from oracles.selection import some
from torch import Tensor, nn

from bounds import InvalidInput
from certify import reference
from certify.attacks import gradient_masking, robust_accuracy, square


class Quantised(nn.Module):
    """Inputs in 16 steps before the model: no slope anywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 15).round() / 15)


class Saturated(nn.Module):
    """Logits so large that the softmax is 0 or 1 in float32, and the cross-entropy flat."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)


class Thermometer(nn.Module):
    """Each entry as the bits of a thermometer, averaged again: autograd does not even see the input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.linspace(0, 1, 17, dtype=x.dtype, device=x.device)[1:-1]
        return self.model((x.unsqueeze(-1) > levels).to(x.dtype).mean(-1))


class Shattered(nn.Module):
    """A fine ripple on the margin: the slope at any point says nothing about what lies further."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.01 * torch.sin(3000 * x))


class Deaf(nn.Module):
    """The first class always wins."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total.tanh() + 3, total.tanh(), -total.tanh()], 1)


OPTIONS = {"norm": math.inf, "epsilon": 0.05, "steps": 5, "queries": 150}


def report(model: nn.Module, x: Tensor, y: Tensor, **change):
    return gradient_masking(model, x, y, generator=generator(), **{**OPTIONS, **change})


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_a_linear_model_shows_no_symptom(norm: float):
    """Catches a flag that every model would show."""
    model = LinearClassifier(30, 3, torch.float64, generator())
    x = torch.rand(40, 5, 6, generator=generator(1), dtype=torch.float64)
    y = model(x).argmax(1)
    epsilon = model.distance(x, norm).median()
    shown = report(model, x, y, norm=norm, epsilon=epsilon)
    assert shown.flags == ()
    assert shown.examined.all()


@pytest.mark.slow
def test_a_plain_network_shows_no_symptom():
    shown = report(*reference.load("plain", 30), epsilon=0.03)
    assert shown.flags == ()
    assert not shown.examined.all()
    assert (shown.clean_margin > 0)[shown.examined].all()
    assert (shown.reached_margin < shown.clean_margin)[shown.examined].all()
    assert len(shown.to_dataframe()) == 30


@pytest.mark.slow
@pytest.mark.parametrize("masked", some([Quantised, Thermometer], [Thermometer]))
def test_models_without_slopes_show_their_symptoms(masked: type[nn.Module]):
    """Auto-PGD sees nothing and breaks only what random starts break; the square attack does not care."""
    plain, x, y = reference.load("plain", 20)
    shown = report(masked(plain), x, y, unbounded=0.3)  # a budget at which nothing of the plain network stands
    assert shown.flags == ("zero_gradient", "black_box_only", "stalled", "unbreakable")
    assert shown.shares["zero_gradient"] == 1.0
    assert shown.shares["stalled"] > 0.9
    assert not (shown.black_box_only & ~shown.examined).any()
    assert report(plain, x, y, unbounded=0.3).flags == ()


@pytest.mark.slow
def test_a_saturated_softmax_shows_flat_losses():
    """Its margins have slopes, so the targeted attack breaks what cross-entropy cannot."""
    plain, x, y = reference.load("plain", 30)
    shown = report(Saturated(plain), x, y)
    assert shown.flags == ("zero_gradient", "stalled")


@pytest.mark.slow
def test_a_ripple_shows_a_black_box_that_does_better():
    plain, x, y = reference.load("plain", 30)
    # The search from outside may break a few more, which neither the gradients within nor the square attack broke.
    flags = set(report(Shattered(plain), x, y).flags)
    assert {"black_box_only"} <= flags <= {"black_box_only", "from_outside_only"}


class Plateau(nn.Module):
    """A plateau around the middle, with a slope that leads nowhere; beyond, one direction leads down steeply."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.signs = torch.randn(features, generator=generator()).sign()

    def forward(self, x: Tensor) -> Tensor:
        moved = x.flatten(1) - 0.5
        along = (moved[:, 1:] * self.signs[1:]).mean(1)
        lead = 1 + 0.5 * moved[:, 0] - 100 * (along - 0.03).clamp(min=0)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


def test_what_is_met_from_outside_only_is_shown():
    """The slope is a red herring and random windows see nothing, but what lies outside leads back in."""
    x = torch.full((5, 50), 0.5)
    shown = report(Plateau(50), x, torch.zeros(5, dtype=torch.long), steps=20)
    assert shown.shares["from_outside_only"] > 0.5
    assert set(shown.flags) <= {"from_outside_only", "unbreakable"}
    assert (shown.reached_margin < shown.clean_margin).all()


@pytest.mark.slow
def test_symptoms_are_those_of_features_that_may_move():
    """All slope lies in a frozen feature: none is left, and nothing can be found."""
    model = LinearClassifier(6, 2, torch.float64, generator())
    with torch.no_grad():
        model.linear.weight[:, 1:] = 0
    x = torch.rand(5, 6, generator=generator(1), dtype=torch.float64)
    y = model(x).argmax(1)
    assert report(model, x, y, low=None, high=None, unbounded=50.0).flags == ()
    shown = report(model, x, y, frozen_features=torch.arange(6) == 0)
    assert shown.flags == ("zero_gradient", "stalled", "unbreakable")
    torch.testing.assert_close(shown.unbounded_epsilon, torch.maximum(x, 1 - x)[:, 1:].amax(1))


def test_a_class_that_always_wins_is_unbreakable():
    x = torch.rand(20, 6, generator=generator())
    shown = report(Deaf(), x, torch.zeros(20, dtype=torch.long))
    assert "unbreakable" in shown.flags
    assert shown.shares["unbreakable"] == 1.0
    assert "zero_gradient" not in shown.flags


@pytest.mark.slow
def test_the_square_attack_breaks_what_gradients_do_not():
    """The very case for which it is there, on the same inputs and budgets."""
    plain, x, y = reference.load("plain", 30)
    masked = Thermometer(plain)
    options = {"norm": math.inf, "epsilon": 0.1, "generator": generator()}
    assert square(masked, x, y, queries=150, **options).accuracy < 0.5
    assert robust_accuracy(masked, x, y, steps=5, **options).blind.any()


@pytest.mark.slow
def test_what_is_unbounded_is_said_where_the_box_is_open():
    model = LinearClassifier(6, 2, torch.float64, generator())
    x = torch.rand(5, 6, generator=generator(1), dtype=torch.float64)
    y = model(x).argmax(1)
    with pytest.raises(InvalidInput, match="state a budget with unbounded="):
        report(model, x, y, high=None)
    assert report(model, x, y, high=None, unbounded=100.0).unbounded_epsilon.tolist() == [100.0] * 5
    corner = torch.maximum(x, 1 - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(report(model, x, y, norm=2).unbounded_epsilon, corner)


def test_bad_input():
    model = LinearClassifier(6, 2, torch.float64, generator())
    x = torch.rand(5, 6, generator=generator(1), dtype=torch.float64)
    for change, message in (
        ({"epsilon": 0.0}, "epsilon must be above 0 in every row"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"queries": 0}, "queries must be an integer of at least 1"),
        ({"norm": 3}, "norm must be 1, 2 or math.inf"),
    ):
        with pytest.raises(InvalidInput, match=message):
            report(model, x, model(x).argmax(1), **change)
