"""Lines below and above scalar functions: none is crossed anywhere, each touches, and slopes may be anything.

The oracle evaluates functions and lines with more digits than float64 has (numpy.longdouble; mpmath for a sample, where
scipy's float64 serves else), so the comparisons have no tolerance. The checker is run on wrong lines as well and has to
find them.
"""

import mpmath
import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from oracles.scalar_functions import (
    CASES,
    COUNT,
    KINDS,
    LONG,
    Case,
    crossings,
    evaluate,
    long,
    random_intervals,
    samples,
    some_functions,
)
from oracles.selection import some
from torch import Tensor

from bounds import Interval
from bounds.relaxations import activations, elementary
from bounds.relaxations.scalar import LinePair, ScalarFunction

every_function = pytest.mark.parametrize("name", CASES)


def touching(case: Case, interval: Interval, lines: LinePair) -> list[Tensor]:
    """By the envelope theorem the points where the tightest lines with these slopes touch: -dt / dk."""
    slopes = [slope.detach().clone().requires_grad_() for slope in (lines.lower_slope, lines.upper_slope)]
    tight = case.function.lines_at(interval, *slopes)
    sums = (tight.lower_intercept.sum() + tight.upper_intercept.sum(),)
    return [-gradient for gradient in torch.autograd.grad(sums, slopes)]


def rounding(case: Case, interval: Interval, slope: Tensor, y: np.ndarray) -> np.ndarray:
    """The most that a line loses to rounding: its terms, and what cancels in the derivative along the interval."""
    reach = long(interval.lower.abs() + interval.upper.abs())
    terms = (np.abs(y).max(0) + np.abs(long(slope)) * reach) * (1 + case.function.relative_error / 16)
    return 200 * np.finfo(np.float64).eps * (terms + case.function.absolute_error * (1 + reach)) + case.jump + 1e-276


def assert_touches(case: Case, interval: Interval, lines: LinePair) -> None:
    """Each line comes as near to the function as rounding lets it."""
    at = touching(case, interval, lines)
    for point, slope, intercept in zip(at, (lines.lower_slope, lines.upper_slope), lines[1::2], strict=True):
        x = np.stack([long(point), np.nextafter(point.numpy(), -np.inf), np.nextafter(point.numpy(), np.inf)])
        x = np.clip(x, long(interval.lower), long(interval.upper))  # where the function is defined
        y = evaluate(case, x.astype(LONG))  # the neighbours: at a jump the line touches a one-sided value
        gap = np.abs(y - (long(slope) * x + long(intercept))).min(0)
        assert (gap <= rounding(case, interval, slope, y)).all()


@every_function
def test_default_lines_enclose_and_touch(name: str):
    case = CASES[name]
    interval = random_intervals(case)
    lines = case.function.lines(interval)
    assert all(part.isfinite().all() for part in lines)
    x = samples(case, interval, *touching(case, interval, lines))
    assert not crossings(lines, x, evaluate(case, x)).any()
    assert_touches(case, interval, lines)


@some_functions
def test_lines_of_any_slopes_enclose_and_touch(name: str):
    """Slopes of the size of the function's own and of 1, both signs, zero and the chord for some."""
    case = CASES[name]
    interval = random_intervals(case, seed=1)
    width = interval.upper - interval.lower
    secant = (case.function.value(interval.upper) - case.function.value(interval.lower)) / width
    secant = torch.where((width > 1e-6) & (torch.arange(COUNT) % 3 > 0), secant, 1.0)
    slopes = [3 * secant * torch.randn(COUNT, generator=generator(seed), dtype=torch.float64) for seed in (2, 3)]
    slopes[0][::11], slopes[1][::11] = 0.0, secant[::11]
    lines = case.function.lines_at(interval, *slopes)
    assert lines.lower_slope.equal(slopes[0])
    x = samples(case, interval, *touching(case, interval, lines))
    assert not crossings(lines, x, evaluate(case, x)).any()
    assert_touches(case, interval, lines)


@some_functions
def test_images_enclose_and_are_attained(name: str):
    case = CASES[name]
    interval = random_intervals(case, seed=4)
    image = case.function.interval(interval)
    flat = torch.zeros_like(interval.lower)
    x = samples(case, interval, *touching(case, interval, LinePair(flat, flat, flat, flat)))
    y = evaluate(case, x)
    assert (long(image.lower) <= y).all()
    assert (y <= long(image.upper)).all()
    allowed = rounding(case, interval, flat, y)
    assert (y.min(0) - long(image.lower) <= allowed).all()
    assert (long(image.upper) - y.max(0) <= allowed).all()


@some_functions
def test_float32_lines_hold_for_float32_numbers(name: str):
    """In float32 the parameters are rounded too, so parameters that do are left to the units the function states."""
    case = CASES[name]
    interval = random_intervals(case, 500, seed=5)
    interval = Interval(interval.lower.float(), interval.upper.float())
    if case.domain == "moderate":
        interval = Interval(interval.lower.clamp(max=60), interval.upper.clamp(max=60))
    lines = case.function.lines(interval)
    x = samples(case, interval)
    x = np.clip(x.astype(np.float32), interval.lower.numpy(), interval.upper.numpy()).astype(LONG)
    assert lines.lower_slope.dtype == torch.float32
    assert not crossings(lines, x, evaluate(case, x)).any()


@pytest.mark.parametrize("name", ["erf", "gelu", "gelu, tanh", "sigmoid", "mish"])
def test_lines_hold_to_thirty_digits(name: str):
    """At the points where they touch, where rounding decides."""
    exact = {
        "erf": mpmath.erf,
        "gelu": lambda x: x * mpmath.ncdf(x),
        "gelu, tanh": lambda x: (
            x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
        ),
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    }[name]
    case = CASES[name]
    draw = random_intervals(case, 400, seed=9)
    near = torch.maximum(draw.lower.abs(), draw.upper.abs()) < 30
    interval = Interval(draw.lower[near], draw.upper[near])
    lines = case.function.lines(interval)
    with mpmath.workdps(30):
        for side, slopes, intercepts, points in zip(
            (-1, 1), lines[::2], lines[1::2], touching(case, interval, lines), strict=True
        ):
            for slope, intercept, point in zip(slopes.tolist(), intercepts.tolist(), points.tolist(), strict=True):
                x = mpmath.mpf(point)
                assert side * (mpmath.mpf(slope) * x + mpmath.mpf(intercept) - exact(x)) >= 0


# ------------------------------------------------------------------------------------------ how good the defaults are


def envelope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least concave function above samples (S,), at the middle of the interval, from all chords across it."""
    middle = (x[0] + x[-1]) / 2
    left, right = x <= middle, x > middle
    (a, fa), (b, fb) = ((x[part], y[part]) for part in (left, right))
    return (fa[:, None] + (fb - fa[:, None]) * (middle - a[:, None]) / (b - a[:, None])).max()


REPEATING = {"sin", "cos", "sign", "floor", "round"}


@pytest.mark.parametrize("name", some([name for name in CASES if name not in REPEATING], KINDS))
def test_default_lines_have_the_least_area(name: str):
    """No line above a function is lower at the middle than its concave envelope there."""
    case = CASES[name]
    draw = random_intervals(case, 200, seed=6)
    keep = ((draw.upper - draw.lower) > 1e-2) & (draw.upper.abs() < 20) & (draw.lower.abs() < 20)
    interval = Interval(draw.lower[keep][:12], draw.upper[keep][:12])
    lines, middle = case.function.lines(interval), (interval.lower + interval.upper) / 2
    for i, (low, high) in enumerate(zip(interval.lower.tolist(), interval.upper.tolist(), strict=True)):
        kinks = [point for point in case.points if low <= point <= high]
        x = np.sort(np.concatenate([np.linspace(low, high, 301), kinks]))
        y = case.function.value(torch.from_numpy(x)).numpy()
        fine = 3e-4 * np.ptp(y) + 1e-6  # a grid has only so many chords
        assert abs(float((lines.upper_slope * middle + lines.upper_intercept)[i]) - envelope(x, y)) <= fine
        assert abs(float((lines.lower_slope * middle + lines.lower_intercept)[i]) + envelope(x, -y)) <= fine


@pytest.mark.parametrize("name", sorted(REPEATING))
def test_lines_of_functions_that_repeat_beat_constants_in_mean_plus_worst_value(name: str):
    case = CASES[name]
    interval = random_intervals(case, 500, seed=7)
    lines, image = case.function.lines(interval), case.function.interval(interval)
    middle = (interval.lower + interval.upper) / 2
    for slope, intercept, constant, side in (
        (lines.lower_slope, lines.lower_intercept, image.lower, -1),
        (lines.upper_slope, lines.upper_intercept, image.upper, 1),
    ):
        at = [side * (slope * x + intercept) for x in (interval.lower, middle, interval.upper)]
        excess = at[1] + torch.maximum(at[0], at[2]) - 2 * side * constant
        scale = sum(part.abs() for part in at) + constant.abs() + 1e-9
        assert (excess <= 1e-12 * scale).all()


def test_relu_lines_are_those_of_crown():
    """Zhang et al. (2018), arXiv:1811.00866: chord above; below, slope 1 if u > -l; stable neurons are exact."""
    interval = Interval(*torch.tensor([[-1.0, -3.0, -4.0, 1.0, -2.0], [3.0, 1.0, 4.0, 5.0, -1.0]]).double())
    lines = activations.relu().lines(interval)
    assert lines.lower_slope.tolist() == [1, 0, 0, 1, 0]
    assert lines.lower_intercept.tolist() == [0, 0, 0, 0, 0]
    assert lines.upper_slope.tolist() == [0.75, 0.25, 0.5, 1, 0]
    torch.testing.assert_close(
        lines.upper_intercept, torch.tensor([0.75, 0.75, 2, 0, 0]).double(), rtol=1e-15, atol=0.0
    )
    assert lines.upper_intercept[3:].tolist() == [0, 0]


def test_the_slope_of_a_parametric_relu_belongs_to_its_channel():
    weight = torch.tensor([0.0, 0.25, 1.7, -0.5]).double()[:, None]
    draw = random_intervals(CASES["relu"], 20)
    interval = Interval(draw.lower.reshape(4, 5), draw.upper.reshape(4, 5))
    lines = activations.prelu(weight).lines(interval)
    for channel, slope in enumerate(weight.flatten().tolist()):
        alone = activations.leaky_relu(slope).lines(Interval(interval.lower[channel], interval.upper[channel]))
        for ours, theirs in zip(lines, alone, strict=True):
            torch.testing.assert_close(ours[channel], theirs, rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize(
    ("function", "low", "high", "attained"),
    [
        (elementary.square(), 0.8, 1.2, (0.64, 1.44)),
        (elementary.power(4), -1.5, -0.5, (0.0625, 5.0625)),
        (activations.leaky_relu(0.1), -2.0, -1.0, (-0.2, -0.1)),
    ],
)
def test_where_another_library_is_unsound(function: ScalarFunction, low: float, high: float, attained):
    """auto_LiRPA 0.7.1 bounds x ** 2 on [0.8, 1.2] by 1.40 and takes slope 0 for LeakyReLU below 0."""
    interval = Interval(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))
    lines = function.lines(interval)
    x = torch.stack((interval.lower, interval.upper))
    below = lines.lower_slope * x + lines.lower_intercept
    above = lines.upper_slope * x + lines.upper_intercept
    assert below.min() <= attained[0]
    assert above.max() >= attained[1]
    torch.testing.assert_close(above.max(), torch.tensor(attained[1], dtype=torch.float64), rtol=1e-14, atol=0.0)


# ------------------------------------------------------------------------------------------- the checker can go red


def found(case: Case, interval: Interval, lines: LinePair) -> float:
    x = samples(case, interval)
    return float(crossings(lines, x, evaluate(case, x)).mean())


@pytest.mark.parametrize("name", ["square", "silu", "x ** 3", "sin"])
def test_a_tangent_at_the_middle_is_found_to_be_unsound(name: str):
    case = CASES[name]
    interval = random_intervals(case)
    middle = ((interval.lower + interval.upper) / 2).requires_grad_()
    height = case.function.value(middle)
    (slope,) = torch.autograd.grad(height.sum(), middle)
    lines = case.function.lines(interval)
    wrong = lines._replace(upper_slope=slope, upper_intercept=height - slope * middle)
    assert found(case, interval, wrong) > 0.2


def test_lines_without_outward_rounding_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bounds.relaxations.scalar.unit_roundoff", lambda _: 0.0)
    for name in ("leaky relu", "sigmoid", "exp", "silu", "sin"):
        case = CASES[name]
        interval = random_intervals(case)
        assert found(case, interval, case.function.lines(interval)) > 0.05


def test_a_wrong_slope_of_relu_is_found():
    case = CASES["relu"]
    interval = random_intervals(case)
    lines = case.function.lines(interval)
    assert found(case, interval, lines) == 0
    wrong = lines._replace(upper_slope=lines.upper_slope * (1 - 1e-9))
    assert found(case, interval, wrong) > 0.2
