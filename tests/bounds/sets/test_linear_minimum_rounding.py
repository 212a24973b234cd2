"""Rounding of linear minima: exact arithmetic, sixty digits, underflow, overflow, single precision."""

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from oracles.draws import centers, draw, rows
from torch import Tensor

from bounds import LpBall
from bounds.sets import linear_minimum as concretize
from bounds.sets.balls import Box, SparseBall, kinds
from bounds.sets.linear_minimum import linear_minimum

NORMS = [1.0, 1.1, 1.5, 2.0, 3.0, 20.0, math.inf]


def exact_minimum(a: Tensor, ball: LpBall, radius: float) -> Fraction:
    """The minimum for one input and one function in rational arithmetic, p in {1, infinity}."""
    center = [Fraction(x) for x in ball.center[0].tolist()]
    slopes = [Fraction(x) for x in a.flatten().tolist()]
    left, least = Fraction(radius), sum(s * c for s, c in zip(slopes, center, strict=True))
    for s, c in sorted(zip(slopes, center, strict=True), key=lambda pair: -abs(pair[0])):
        room = (c - Fraction(ball.low)) if s > 0 else (Fraction(ball.high) - c)
        step = min(room, left)
        left -= step if ball.norm == 1 else 0
        least -= abs(s) * step
    return least


def violations_in_exact_arithmetic(dtype: torch.dtype, norm: float) -> int:
    """The number of bounds on sums that cancel and lie above the exact minimum."""
    wrong = 0
    for seed in range(100):
        center = torch.rand(1, 30, generator=draw(seed), dtype=dtype) * 0.8 + 0.1
        a = torch.randn(1, 1, 30, generator=draw(seed + 1000), dtype=dtype)
        ball = LpBall(center, 0.1, norm, 0.1, 0.9)
        wrong += Fraction(linear_minimum(a, ball).item()) > exact_minimum(a, ball, 0.1)
    return wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1, math.inf])
def test_bounds_hold_in_exact_arithmetic(norm: float, dtype: torch.dtype, monkeypatch):
    """Also for a box and a radius whose sides are no numbers of float32; without the rounding term they fail."""
    assert violations_in_exact_arithmetic(dtype, norm) == 0
    monkeypatch.setattr(concretize, "accumulated_error", lambda *_: 0.0)
    assert violations_in_exact_arithmetic(dtype, norm) > 0


def minimum_in_sixty_digits(a: Tensor, ball: LpBall, radius: float) -> mpmath.mpf:
    """The moves min(room, s |a|^(q-1)) with the scale s, found by bisection, that spends the radius."""
    slopes, center = ([mpmath.mpf(x) for x in part.flatten().tolist()] for part in (a, ball.center))
    rooms = [mpmath.inf if ball.low is None else c if s > 0 else 1 - c for s, c in zip(slopes, center, strict=True)]
    p = mpmath.mpf(ball.norm)
    full = [abs(s) ** (1 / (p - 1)) for s in slopes]
    low, high = mpmath.mpf(0), mpmath.mpf(10) ** 6
    for _ in range(180):
        scale = (low + high) / 2
        spent = mpmath.fsum(min(room, scale * move) ** p for room, move in zip(rooms, full, strict=True))
        low, high = (scale, high) if spent <= mpmath.mpf(radius) ** p else (low, scale)
    steps = [min(room, low * move) for room, move in zip(rooms, full, strict=True)]
    return mpmath.fsum(s * c - abs(s) * step for s, c, step in zip(slopes, center, steps, strict=True))


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("norm", [1.25, 2.0, 7.0])
@pytest.mark.slow
def test_bounds_by_powers_hold_in_sixty_digits(norm: float, boxed: bool, monkeypatch):
    cases = []
    with mpmath.workdps(60):
        for seed in range(12):
            a = torch.randn(1, 1, 6, generator=draw(seed), dtype=torch.float64)
            center = torch.rand(1, 6, generator=draw(seed + 50), dtype=torch.float64)
            ball = LpBall(center, 0.7, norm, *((0.0, 1.0) if boxed else (None, None)))
            cases.append((a, ball, minimum_in_sixty_digits(a, ball, 0.7)))
        assert all(mpmath.mpf(linear_minimum(a, ball).item()) <= exact for a, ball, exact in cases)
        monkeypatch.setattr(concretize, "accumulated_error", lambda *_: 0.0)
        monkeypatch.setattr(kinds, "unit_roundoff", lambda _: 0.0)
        assert any(mpmath.mpf(linear_minimum(a, ball).item()) > exact for a, ball, exact in cases)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.7, 1e-50])
def test_a_radius_that_the_center_cannot_hold_does_not_shrink(norm: float, radius: float):
    """In float32, 0.7 is rounded down and 1e-50 to nothing; coefficients in float64 would see it."""
    a = torch.eye(4, dtype=torch.float64)[None]
    ball = LpBall(torch.zeros(1, 4), radius, norm, None, None)
    assert float(ball.radii) < radius
    assert (linear_minimum(a, ball) <= -radius).all()


def test_products_that_underflow_still_count():
    a, center = torch.full((1, 1, 3), -1e-30), torch.full((1, 3), 1e-20)
    exact = 3 * Fraction(a[0, 0, 0].item()) * Fraction(center[0, 0].item())
    for region in (LpBall(center, 0.0), Box(center, center), SparseBall(center, 0)):
        assert Fraction(linear_minimum(a, region).item()) <= exact < 0


@pytest.mark.parametrize("norm", NORMS)
def test_single_precision_agrees_and_stays_below(norm: float):
    center, a = centers(3, 50).float(), rows(3, 4, 50).float()
    single = linear_minimum(a, LpBall(center, 0.5, norm))
    double = linear_minimum(a.double(), LpBall(center.double(), 0.5, norm))
    assert single.dtype == torch.float32
    assert (single.double() < double).all()
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)
    mixed = linear_minimum(a.double(), LpBall(center, 0.5, norm))
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, double, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_coefficients_that_overflowed_prove_nothing(norm: float, value: float):
    a = rows(1, 1, 4)
    a[0, 0, 1] = value
    assert linear_minimum(a, LpBall(centers(1, 4) * 0.5 + 0.3, 0.1, norm)) == -math.inf
