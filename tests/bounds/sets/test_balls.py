"""Perturbation sets: what is a ball, its hull and its dual norm."""

import dataclasses
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from torch import Tensor

from bounds import Box, Interval, InvalidInput, LpBall, SparseBall


def center(*shape: int) -> Tensor:
    return torch.linspace(0.1, 0.9, math.prod(shape), dtype=torch.float64).view(shape)


@pytest.mark.parametrize("norm", [1, 1.5, 2, 3.0, math.inf])
def test_hull_is_the_box_around_the_ball(norm: float):
    """In every l_p norm a ball reaches exactly its radius along each axis."""
    radius = torch.tensor([0.0, 0.05, 3.0], dtype=torch.float64)
    ball = LpBall(center(3, 2, 5), radius, norm)
    hull, reach = ball.hull(), radius[:, None, None]
    torch.testing.assert_close(hull.lower, (ball.center - reach).clamp(min=0.0), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(hull.upper, (ball.center + reach).clamp(max=1.0), rtol=1e-14, atol=1e-14)
    assert (hull.lower >= 0).all()
    assert (hull.upper <= 1).all()


@pytest.mark.parametrize("low", [None, -0.5, torch.tensor([0.0, 0.05, 0.1, 0.0, 0.02])])
@pytest.mark.parametrize("high", [None, 1.5, torch.tensor([0.95, 0.9, 1.0, 1.0, 2.0])])
def test_each_side_of_the_box_may_be_open_a_number_or_per_feature(low, high):
    hull = LpBall(center(2, 5), 10.0, low=low, high=high).hull()
    lower = torch.full((2, 5), -10.0).double() + center(2, 5) if low is None else torch.as_tensor(low).double()
    upper = torch.full((2, 5), 10.0).double() + center(2, 5) if high is None else torch.as_tensor(high).double()
    torch.testing.assert_close(hull.lower, lower.expand(2, 5), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(hull.upper, upper.expand(2, 5), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("norm", [1.0, 1.25, 2.0, 3.0, 100.0, math.inf])
def test_dual_norm_is_attained_and_never_exceeded(norm: float):
    """Hölder: the largest <g, d> over the unit ball is the dual norm of g; catches p and q exchanged."""
    q = LpBall(center(1, 4), 0.1, norm).dual_norm
    assert math.isclose(1 / norm + 1 / q, 1)
    draw = torch.Generator().manual_seed(0)
    gradient = torch.randn(7, generator=draw, dtype=torch.float64)
    directions = torch.randn(1000, 7, generator=draw, dtype=torch.float64)
    directions = directions / directions.norm(p=norm, dim=1, keepdim=True)
    dual = gradient.norm(p=q)
    assert (directions @ gradient <= dual * (1 + 1e-12)).all()
    power = gradient.abs() == gradient.abs().max() if norm == 1 else gradient.abs().pow(q - 1)
    best = gradient.sign() * power
    torch.testing.assert_close((best / best.norm(p=norm)) @ gradient, dual, rtol=1e-12, atol=0.0)


def test_one_radius_serves_all_inputs():
    ball = LpBall(center(3, 5).float(), 0.25)
    assert ball.radii.tolist() == [0.25, 0.25, 0.25]
    assert ball.radii.dtype == torch.float32
    assert LpBall(center(3, 5), torch.tensor([1, 2, 3])).radii.tolist() == [1.0, 2.0, 3.0]
    assert LpBall(center(0, 5), 0.25).hull().lower.shape == (0, 5)


@pytest.mark.parametrize("one", [1, np.float64(1), np.float32(1), np.int64(1), torch.tensor(1), torch.ones(1, 5)])
def test_sides_of_the_box_may_be_any_kind_of_number(one):
    hull = LpBall(center(2, 3, 5), 10.0, low=-one, high=one).hull()
    assert (hull.lower == -1).all()
    assert (hull.upper == 1).all()


def test_an_infinite_radius_is_the_whole_box():
    hull = LpBall(center(2, 5), math.inf, low=-1.0, high=2.0).hull()
    assert (hull.lower == -1).all()
    assert (hull.upper == 2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hull_holds_the_ball_in_exact_arithmetic(dtype: torch.dtype):
    """The hull is that of the radius as stated, which the dtype of the centre may not hold."""
    x = torch.rand(1, 300, generator=torch.Generator().manual_seed(0), dtype=dtype)
    hull = LpBall(x, 0.1, low=None, high=None).hull()
    for middle, lower, upper in zip(*(part[0].tolist() for part in (x, hull.lower, hull.upper)), strict=True):
        assert Fraction(lower) <= Fraction(middle) - Fraction(0.1)
        assert Fraction(middle) + Fraction(0.1) <= Fraction(upper)


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.7, 0.9])
def test_sides_that_single_precision_does_not_hold_are_rounded_outward(limit: float):
    """To nearest, 0.7 and 0.9 would be smaller."""
    hull = LpBall(torch.zeros(1, 1), 10.0, low=-limit, high=limit).hull()
    assert limit <= hull.upper.double().item() < limit + 2.0**-23
    assert -limit - 2.0**-23 < hull.lower.double().item() <= -limit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"center": torch.zeros(2, 3, dtype=torch.int64)},
            "x must be a floating-point tensor, got torch.int64: convert",
        ),
        ({"center": [[0.5]]}, "x must be a torch tensor, got list: use torch.as_tensor(x)"),
        ({"center": torch.zeros(2, 0)}, "x must have at least one entry per row, got shape (2, 0)"),
        ({"low": 0.4, "high": 0.3}, "low must not exceed high, got [0.4, 0.3]"),
        ({"high": torch.tensor([0.7, -0.1])}, "low must not exceed high, got [0, per feature]"),
        ({"low": torch.zeros(2, 2)}, "low must broadcast to one input, of shape (2,), got (2, 2): pass one box"),
        ({"high": torch.ones(2, 1)}, "high must broadcast to one input, of shape (2,), got (2, 1): pass one box"),
        ({"high": torch.ones(3)}, "high must broadcast to one input, of shape (2,), got (3,)"),
        ({"low": [0.0, 0.0]}, "low must be a number or a tensor, got list"),
        ({"high": np.ones(2)}, "high must be a number or a tensor, got ndarray"),
        ({"high": True}, "high must be a number or a tensor, got bool"),
        ({"norm": "two"}, "norm must be at least 1 (math.inf included), got 'two'"),
        ({"center": torch.zeros(3)}, "x must have shape (N, *D), got (3,): add a batch dimension"),
        ({"center": torch.tensor([[0.5], [math.nan]])}, "x must be finite, but row 1 holds NaN or infinity"),
        ({"center": torch.tensor([[math.inf]])}, "x must be finite, but row 0"),
        ({"center": torch.tensor([[1.5]])}, "x must lie in the declared range [0, 1], got values from 1.5 to 1.5"),
        ({"center": torch.tensor([[-0.1]])}, "x must lie in the declared range [0, 1]"),
        ({"low": torch.tensor([0.0, 0.6])}, "x must lie in the declared range [per feature, 1]"),
        ({"low": math.nan}, "x must lie in the declared range [nan, 1]"),
        ({"high": torch.tensor(math.nan)}, "x must lie in the declared range [0, nan]"),
        ({"radius": -0.1}, "radius must be at least 0, got -0.1"),
        ({"radius": math.nan}, "radius must be at least 0, got nan"),
        ({"radius": torch.tensor([0.1, -0.2])}, "radius must be at least 0, got -0.2"),
        ({"radius": torch.tensor([0.1, math.nan])}, "radius must be at least 0, got nan"),
        ({"radius": torch.tensor([0.1])}, "radius must be a number or of shape (2,), got (1,)"),
        ({"radius": torch.zeros(2, 1)}, "radius must be a number or of shape (2,), got (2, 1)"),
        ({"norm": 0.5}, "norm must be at least 1 (math.inf included), got 0.5"),
        ({"norm": 0}, "norm must be at least 1"),
        ({"norm": -math.inf}, "norm must be at least 1"),
        ({"norm": math.nan}, "norm must be at least 1"),
    ],
)
def test_what_is_no_ball_is_refused(arguments: dict, message: str):
    """NaN as a side of the box used to pass, since ``x < nan`` is false as well as ``x >= nan``."""
    proper = {"center": torch.full((2, 2), 0.5), "radius": 0.1}
    with pytest.raises(InvalidInput, match=re.escape(message)):
        LpBall(**proper | arguments)


def test_a_ball_does_not_change():
    ball = LpBall(center(2, 5), 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ball.radius = 0.2
    before = ball.center.clone()
    ball.hull()
    assert torch.equal(ball.center, before)


def test_intersection_of_intervals_keeps_the_tighter_side():
    left = Interval(torch.tensor([0.0, -1.0]), torch.tensor([3.0, 1.0]))
    right = Interval(torch.tensor([-2.0, 0.5]), torch.tensor([2.0, 5.0]))
    both = left & right
    assert both.lower.tolist() == [0.0, 0.5]
    assert both.upper.tolist() == [2.0, 1.0]
    unknown = Interval(torch.tensor([math.nan, 0.0]), torch.tensor([1.0, math.nan]))
    assert (left & unknown).lower[0].isnan()  # what is unknown must not be taken for proved
    assert (left & unknown).upper[1].isnan()


def test_a_ball_follows_the_device_of_its_center():
    points = center(2, 5)
    with elsewhere():
        ball = LpBall(points, 0.1, low=-0.1, high=1.1)
        assert ball.hull().lower.device.type == "cpu"
        assert ball.radii.device.type == "cpu"


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.7])
def test_a_set_in_double_precision_holds_inputs_that_lie_at_a_side(limit: float):
    """0.1 in single precision is above 0.1: such an input was in the box, and stays in it."""
    x = torch.tensor([[limit, limit]])
    for ball in (LpBall(x, 0.5, low=limit, high=limit), SparseBall(x, 1, limit, limit)):
        double = ball.double()
        assert double.center.dtype == torch.float64
        assert double.contains(x.double()).all()
        hull = double.hull()
        assert (hull.lower <= min(limit, x[0, 0].item())).all()
        assert (hull.upper >= max(limit, x[0, 0].item())).all()


def test_double_precision_changes_no_number():
    ball = LpBall(torch.tensor([[0.1, 0.5]]), 0.1, 2, frozen_features=torch.tensor([True, False]))
    assert ball.double().radii.tolist() == [0.1]
    assert ball.double().center.tolist() == ball.center.tolist()
    assert ball.double().frozen_features is ball.frozen_features
    assert LpBall(ball.center, torch.tensor([0.1])).double().radii.item() == torch.tensor(0.1).item()
    box = Box(torch.tensor([[0.1]]), torch.tensor([[0.2]]))
    assert box.double().lower.item() == box.lower.item()
    assert box.double().upper.item() == box.upper.item()
