"""Least values of linear functions on balls within boxes: below every point, and next to the exact optimum."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from certify.proofs.balls import Ball
from certify.proofs.bounding import intervals, planes
from certify.proofs.networks.functions import Relu
from certify.proofs.networks.maps import Product
from certify.proofs.networks.networks import Builder, Data, Network

NORMS = [1.0, 1.5, 2.0, 3.0, 100.0]


def ball_of(norm: float, chance: np.random.Generator, entries: int = 5, radius: float = 0.6) -> Ball:
    """A ball whose box cuts it off in some directions, with one entry that does not move."""
    centre = chance.random(entries)
    low, high = np.maximum(centre - radius, 0.0), np.minimum(centre + radius, 1.0)
    low[0] = high[0] = centre[0]
    return Ball(centre, radius, norm, low, high)


def optimum(ball: Ball, slope: np.ndarray) -> float:
    """The least value, by a linear programme, or by a descent where the norm is not 1."""
    if ball.norm == 1:
        both = np.concatenate([slope, -slope])
        room = [(0.0, each) for each in np.concatenate([ball.high - ball.centre, ball.centre - ball.low])]
        found = linprog(both, A_ub=np.ones((1, len(both))), b_ub=[ball.radius], bounds=room)
        return float(slope @ ball.centre + found.fun)
    inside = {"type": "ineq", "fun": lambda x: ball.radius**ball.norm - (np.abs(x - ball.centre) ** ball.norm).sum()}
    sides = list(zip(ball.low, ball.high, strict=True))
    found = minimize(
        lambda x: slope @ x, ball.centre, jac=lambda x: slope, bounds=sides, constraints=[inside], tol=1e-10
    )
    return float(found.fun)


def points_of(ball: Ball, count: int, chance: np.random.Generator) -> np.ndarray:
    """Points of the ball, many of them on its surface and on sides of the box."""
    drawn = chance.standard_normal((count, len(ball.centre))) * (chance.random((count, len(ball.centre))) < 0.7)
    size = (np.abs(drawn) ** ball.norm).sum(1, keepdims=True) ** (1 / ball.norm)
    return np.clip(ball.centre + drawn / np.maximum(size, 1e-30) * ball.radius, ball.low, ball.high)


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_the_ball_lies_below_and_the_best_one_nearly_does(norm: float):
    chance = np.random.default_rng(int(norm * 10))
    for _ in range(10):
        ball = ball_of(norm, chance)
        slopes = chance.standard_normal((1, 4, len(ball.centre)))
        least = ball.least(slopes)[0]
        values = points_of(ball, 2000, chance) @ slopes[0].T
        assert (least <= values.min(0)).all()
        if norm in (1.0, 2.0):
            exact = [optimum(ball, slope) for slope in slopes[0]]
            assert least == pytest.approx(exact, abs=2e-6)
            assert (least <= np.array(exact) + 1e-9).all()


def test_changed_entries_are_counted():
    """Enumeration: of the entries, the two whose change matters most move to the better end of the box."""
    chance = np.random.default_rng(4)
    centre = chance.random(5)
    ball = Ball(centre, 2.0, 0.0, np.zeros(5), np.ones(5))
    slopes = chance.standard_normal((1, 6, 5))
    corners = np.array(list(product([0.0, 1.0, None], repeat=5)), dtype=float)
    corners = np.where(np.isnan(corners), centre, corners)[(~np.isnan(corners)).sum(1) <= 2]
    exact = (corners @ slopes[0].T).min(0)
    assert ball.least(slopes)[0] == pytest.approx(exact, abs=1e-12)
    assert (ball.least(slopes)[0] <= exact).all()
    low, high = centre - 0.1, centre + 0.1
    away = np.stack([low + 0.2 * (np.arange(5) < count) for count in range(4)])
    assert ball.misses(away, away + 0.15).tolist() == [False, False, False, True]
    assert not ball.misses(low[None], high[None]).any()


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_box_in_the_way_the_dual_norm_is_met(norm: float):
    chance = np.random.default_rng(0)
    ball = Ball(chance.random(6), 0.3, norm, np.full(6, -9.0), np.full(6, 9.0))
    slopes = chance.standard_normal((1, 3, 6))
    order = math.inf if norm == 1 else norm / (norm - 1)
    exact = slopes[0] @ ball.centre - 0.3 * np.linalg.norm(slopes[0], order, axis=1)
    assert ball.least(slopes)[0] == pytest.approx(exact, abs=1e-9)
    assert (ball.least(slopes)[0] <= exact).all()


@pytest.mark.parametrize("norm", NORMS)
def test_boxes_that_miss_the_ball_are_those_that_are_too_far(norm: float):
    chance = np.random.default_rng(1)
    ball = ball_of(norm, chance)
    low = 3 * chance.random((500, 5)) - 1.5
    high = low + chance.random((500, 5))
    nearest = np.clip(ball.centre, low, high) - ball.centre
    distance = (np.abs(nearest) ** norm).sum(1) ** (1 / norm)
    missed = ball.misses(low, high)
    assert (missed == (distance > ball.radius)).all()
    assert missed.any()
    assert not missed.all()
    at_end = Ball(np.zeros(1), 0.5, norm, np.full(1, -1.0), np.full(1, 1.0))
    assert not at_end.misses(np.array([[0.5]]), np.array([[0.6]])).any()  # it touches


@pytest.mark.parametrize(("norm", "gaps", "radius"), [(2.0, [3, 4], 5), (2.0, [2, 3, 6], 7), (3.0, [3, 4, 5], 6)])
def test_boxes_that_touch_the_ball_in_one_point_are_not_missed(norm: float, gaps: list[int], radius: int):
    for scale in 1.1 ** np.arange(40):
        low = scale * np.array([gaps], dtype=float)
        ball = Ball(np.zeros(len(gaps)), float(radius * scale), norm, -9 * low[0], 9 * low[0])
        assert not ball.misses(low * (1 - 2.0**-50), 2 * low).any()
        assert ball.misses(low * (1 + 1e-8), 2 * low).all()


def test_rounding_of_a_long_sum_does_not_take_a_box_from_the_ball():
    """Boxes whose nearest corners lie on the sphere exactly, in whole numbers; some sums are rounded beyond it."""
    low = np.random.default_rng(0).integers(1, 1000, (20_000, 100)).astype(float)
    low[:, -1] = 70_000 - low[:, :-1].sum(1)
    assert low.min() > 0
    ball = Ball(np.zeros(100), 70_000.0, 1.0, np.full(100, -1e5), np.full(100, 1e5))
    assert not ball.misses(low, low + 1).any()
    assert ball.misses(low * (1 + 1e-8), low + 1).all()


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
def test_bounds_of_a_network_on_a_ball_hold_for_its_points_and_are_tighter_than_on_its_box(norm: float):
    chance = np.random.default_rng(2)
    builder, width = Builder(5), 7
    hidden = builder.mapped("a", Data(0, (1, 5)), Product(chance.standard_normal((5, width)), (1, 5)), (1, width))
    active = builder.applied("b", hidden, Relu(), (1, width))
    builder.mapped("c", active, Product(chance.standard_normal((width, 3)), (1, width)), (1, 3))
    network = Network(tuple(builder.nodes))
    ball = ball_of(norm, chance, radius=0.3)
    rows = {3: np.eye(3)[None]}
    within, on_box = (intervals(network, ball.low[None], ball.high[None], each) for each in (ball, None))
    least = planes(network, within, rows).least[0]
    assert (least <= network.values(points_of(ball, 3000, chance)).min(0)).all()
    assert (least > planes(network, on_box, rows).least[0]).all()
    values = network.nodes[1].maps[0].forward(points_of(ball, 500, chance))
    for low, high, value in zip(within.low[1][0], within.high[1][0], values.T, strict=True):
        assert low <= value.min() <= value.max() <= high
