"""Schedules and initialisation of verified training."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from oracles.networks import dense
from torch import nn

from bounds import InvalidInput, LpBall, ibp
from certify.verified_training import epsilon_schedule, initialize_for_intervals, kappa_schedule

# ---------------------------------------------------------------------------------------------------------- schedules

RAMP = {"start": 3.0, "end": 11.0, "epsilon": 0.3}


def test_the_radius_starts_at_zero_and_ends_at_epsilon():
    assert [epsilon_schedule(step, **RAMP) for step in (-1, 0, 3)] == [0.0, 0.0, 0.0]
    assert [epsilon_schedule(step, **RAMP) for step in (11, 12, 1000)] == pytest.approx([0.3] * 3, rel=1e-15)
    assert epsilon_schedule(3.0001, **RAMP) > 0
    assert epsilon_schedule(5, **RAMP) == pytest.approx(0.3 / 13, rel=1e-12)  # (1/4)^4 over itself and its tangent


@pytest.mark.parametrize(("mid", "beta"), [(0.25, 4.0), (0.6, 2.0), (0.1, 7.0)])
def test_the_radius_is_a_power_and_then_its_tangent(mid: float, beta: float):
    def radius(progress: float) -> float:
        return epsilon_schedule(3 + 8 * progress, **RAMP, mid=mid, beta=beta)

    assert radius(mid) / radius(mid / 2) == pytest.approx(2**beta, rel=1e-10)
    middle = (mid + 1) / 2
    assert radius(middle) == pytest.approx((radius(mid) + radius(1)) / 2, rel=1e-12)
    h = 1e-6  # at the seam, value and slope are the same from both sides
    assert radius(mid + h) - radius(mid - h) < 10 * beta * h
    left, right = radius(mid) - radius(mid - h), radius(mid + h) - radius(mid)
    assert left == pytest.approx(right, rel=1e-4)
    values = [radius(i / 100) for i in range(101)]
    assert values == sorted(values)


def test_kappa_is_linear_between_its_ends():
    ends = {"start": 10, "end": 20}
    assert [kappa_schedule(step, **ends) for step in (0, 10, 15, 20, 30)] == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert kappa_schedule(18, **ends, first=0.5, last=0.0) == pytest.approx(0.1)


# ----------------------------------------------------------------------------------------------------- initialisation


def growth(model: nn.Sequential, inputs: int) -> float:
    """Mean radius of intervals behind a network over that before it, on narrow boxes."""
    x = torch.rand(4, inputs, generator=generator(5), dtype=torch.float64)
    with torch.no_grad():
        found = ibp(model, LpBall(x, 1e-3))
    return ((found.upper - found.lower) / 2e-3).mean().item()


def test_initialisation_keeps_the_width_of_intervals():
    """An affine layer doubles it; six standard errors, false alarm below 10^-8."""
    for layer, inputs in ((nn.Linear(300, 400), 300), (nn.Conv2d(8, 64, 5, groups=2), 100)):
        bias = layer.bias.clone()
        initialize_for_intervals(nn.Sequential(layer), generator())
        size = layer.weight.abs()
        error = 6 * inputs * math.sqrt(2 * math.pi) / inputs / math.sqrt(size.numel())
        assert inputs * size.mean().item() == pytest.approx(2.0, abs=error)
        assert torch.equal(layer.bias, bias)


def test_intervals_do_not_explode_with_depth():
    sizes = [100] * 9
    model = dense(nn.ReLU(), *sizes)
    usual = growth(model, 100)
    initialize_for_intervals(model, generator())
    for layer in model[::2]:
        layer.bias.data.zero_()
    assert usual > 1e5
    assert 0.5 < growth(model, 100) < 8


# ---------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("schedule", "changes", "message"),
    [
        (epsilon_schedule, {"epsilon": -0.1}, "epsilon must be a finite number of at least 0"),
        (epsilon_schedule, {"epsilon": 0.1, "end": 1.0}, "start must lie before end, got 1.0 and 1.0"),
        (epsilon_schedule, {"epsilon": 0.1, "mid": 1.0}, "mid must lie strictly between 0 and 1"),
        (epsilon_schedule, {"epsilon": 0.1, "beta": 0.5}, "beta must be a finite number of at least 1"),
        (epsilon_schedule, {"epsilon": 0.1, "beta": math.nan}, "beta must be a finite number of at least 1"),
        (kappa_schedule, {"start": math.nan}, "start must lie before end"),
        (kappa_schedule, {"first": 1.5}, "first must be at most 1"),
        (kappa_schedule, {"last": -0.5}, "last must be a finite number of at least 0"),
    ],
)
def test_bad_schedules_are_named(schedule: Callable[..., float], changes: dict[str, float], message: str):
    with pytest.raises(InvalidInput, match=message):
        schedule(0.5, **{"start": 1.0, "end": 2.0} | changes)
