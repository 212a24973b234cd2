"""Lines below and above scalar functions: none is crossed anywhere, each touches, and slopes may be anything.

The oracle evaluates functions and lines with more digits than float64 has (numpy.longdouble; mpmath for a sample, where
scipy's float64 serves else), so the comparisons have no tolerance. The checker is run on wrong lines as well and has to
find them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.selection import some
from scipy import special
from torch import Tensor

from bounds import Interval, InvalidInput
from bounds.relaxations import activations, elementary
from bounds.relaxations import steps_and_waves as periodic
from bounds.relaxations.scalar import LinePair, ScalarFunction

Exact = Callable[[np.ndarray], np.ndarray]
LONG = np.longdouble
COUNT = 3000
FRACTIONS = np.array([0, 1e-9, 1e-4, 0.03, 0.1, 0.22, 0.35, 0.5, 0.61, 0.74, 0.87, 0.97, 1 - 1e-4, 1 - 1e-9, 1], LONG)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def elu(alpha, scale, rate):
    return lambda x: scale * np.where(x > 0, x, LONG(alpha) * np.expm1(LONG(rate) * np.minimum(x, 0)))


def switched(beta, threshold):
    return lambda x: np.where(beta * x > threshold, x, softplus(beta * x) / beta)


def leaky(slope):
    return lambda x: np.where(x > 0, x, LONG(slope) * x)


def erf(x):
    return special.erf(x.astype(np.float64)).astype(LONG)


def gelu(x):
    return x * special.ndtr(x.astype(np.float64))


def gelu_tanh(x):
    return x * sigmoid(2 * np.sqrt(2 / LONG(mpmath.nstr(mpmath.pi, 21))) * (x + LONG("0.044715") * x**3))


class Case(NamedTuple):
    function: ScalarFunction
    exact: Exact
    points: tuple[float, ...] = (0.0,)  # kinks, inflections, extrema
    domain: str = "all"
    jump: float = 0.0  # height of a jump whose one-sided values no sample attains


SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)
CASES = {
    "relu": Case(activations.relu(), lambda x: np.maximum(x, 0)),
    "leaky relu": Case(activations.leaky_relu(0.1), leaky(0.1)),
    "leaky relu, steep": Case(activations.leaky_relu(1.5), leaky(1.5)),
    "leaky relu, falling": Case(activations.leaky_relu(-0.3), leaky(-0.3)),
    "elu": Case(activations.elu(), elu(1.0, 1.0, 1.0)),
    "elu, steep": Case(activations.elu(3.0), elu(3.0, 1.0, 1.0)),
    "selu": Case(activations.selu(), elu(*SELU, 1.0)),
    "celu": Case(activations.elu(0.7, 1.0, 1 / 0.7), elu(0.7, 1.0, 1 / 0.7)),
    "relu6": Case(activations.relu6(), lambda x: np.clip(x, 0, 6), (0.0, 6.0)),
    "hardtanh": Case(activations.hardtanh(-0.3, 0.9), lambda x: np.clip(x, -0.3, 0.9), (-0.3, 0.9)),
    "clamp below": Case(activations.clamp(low=-1.5), lambda x: np.maximum(x, -1.5), (-1.5,)),
    "clamp above": Case(activations.clamp(high=0.7), lambda x: np.minimum(x, 0.7), (0.7,)),
    "hardsigmoid": Case(activations.hardsigmoid(), lambda x: np.clip(x + 3, 0, 6) / 6, (-3.0, 3.0)),
    "hardswish": Case(activations.hardswish(), lambda x: x * np.clip(x + 3, 0, 6) / 6, (-3.0, -1.5, 0.0, 3.0)),
    "abs": Case(activations.absolute(), np.abs),
    "sign": Case(periodic.sign(), np.sign, (-1e-300, 0.0, 1e-300)),
    "floor": Case(periodic.floor(), np.floor, (-1.0, 0.0, 1.0, 2.0)),
    "sigmoid": Case(activations.sigmoid(), sigmoid),
    "tanh": Case(activations.tanh(), np.tanh),
    "atan": Case(activations.atan(), np.arctan),
    "erf": Case(activations.erf(), erf),
    "softplus": Case(activations.softplus(), switched(1.0, 20.0), (0.0, 20.0, 20 * (1 + 1e-14)), jump=2.1e-9),
    "softplus, sharp": Case(
        activations.softplus(4.0, 6.0), switched(4.0, 6.0), (0.0, 1.5, 1.5 * (1 + 1e-14)), jump=7e-4
    ),
    "silu": Case(activations.silu(), lambda x: x * sigmoid(x), (-2.3993572805154677, -1.278464542761074, 2.3993572805)),
    "mish": Case(activations.mish(), lambda x: x * np.tanh(softplus(x)), (-2.2563763963607931, -1.1924312, 1.49057118)),
    "gelu": Case(activations.gelu(), gelu, (-math.sqrt(2), -0.7517915246935645, math.sqrt(2))),
    "gelu, tanh": Case(activations.gelu("tanh"), gelu_tanh, (-1.4185040087908284, -0.75246142207, 1.4185040087908284)),
    "exp": Case(elementary.exp(), np.exp, (), "moderate"),
    "log": Case(elementary.log(), np.log, (), "positive"),
    "sqrt": Case(elementary.sqrt(), np.sqrt, (), "positive"),
    "reciprocal": Case(elementary.reciprocal(), lambda x: 1 / x, (), "one sign"),
    "square": Case(elementary.square(), lambda x: x * x),
    "x ** 3": Case(elementary.power(3), lambda x: x**3),
    "x ** 4": Case(elementary.power(4), lambda x: x**4),
    "x ** -2": Case(elementary.power(-2), lambda x: x ** LONG(-2), (), "one sign"),
    "x ** -3": Case(elementary.power(-3), lambda x: x ** LONG(-3), (), "one sign"),
    "x ** 0.3": Case(elementary.power(0.3), lambda x: x ** LONG(0.3), (), "positive"),
    "x ** 2.5": Case(elementary.power(2.5), lambda x: x ** LONG(2.5), (), "positive"),
    "x ** -0.7": Case(elementary.power(-0.7), lambda x: x ** LONG(-0.7), (), "positive"),
    "sinh": Case(elementary.sinh(), np.sinh, (), "moderate"),
    "cosh": Case(elementary.cosh(), np.cosh, (0.0,), "moderate"),
    "tan": Case(elementary.tan(), np.tan, (), "quarter turns"),
    "asin": Case(elementary.asin(), np.arcsin, (-1.0, 0.0, 1.0), "up to one"),
    "acos": Case(elementary.acos(), np.arccos, (-1.0, 0.0, 1.0), "up to one"),
    "atanh": Case(elementary.atanh(), np.arctanh, (), "below one"),
    "asinh": Case(elementary.asinh(), np.arcsinh),
    "acosh": Case(elementary.acosh(), np.arccosh, (), "from one"),
    "logit": Case(elementary.logit(), lambda x: np.log(x) - np.log1p(-x), (0.5,), "probabilities"),
    "erfc": Case(elementary.erfc(), lambda x: special.erfc(x.astype(np.float64)).astype(LONG)),
    "normal distribution": Case(
        elementary.normal_distribution(), lambda x: special.ndtr(x.astype(np.float64)).astype(LONG)
    ),
    "2 ** x": Case(elementary.exponential(2.0), lambda x: LONG(2) ** x, (), "moderate"),
    "0.7 ** x": Case(elementary.exponential(0.7), lambda x: LONG(0.7) ** x, (), "moderate"),
    "log2": Case(elementary.logarithm(2), np.log2, (), "positive"),
    "log10": Case(elementary.logarithm(10), np.log10, (), "positive"),
    "round": Case(periodic.round_half_to_even(), np.rint, (-1.5, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)),
    "sin": Case(periodic.sin(), np.sin, tuple(math.pi * (n + 0.5) for n in range(-5, 5))),
    "cos": Case(periodic.cos(), np.cos, tuple(math.pi * n for n in range(-5, 6))),
}


def evaluate(case: Case, x: np.ndarray) -> np.ndarray:
    """The function in many digits; overflow inside of the formulas has the right limits."""
    with np.errstate(all="ignore"):
        return case.exact(x)


every_function = pytest.mark.parametrize("name", CASES)
KINDS = ["leaky relu, falling", "hardswish", "floor", "sigmoid", "softplus, sharp", "gelu", "log", "reciprocal"]
KINDS += ["x ** 2.5", "x ** -3", "tan", "acos", "logit", "sin"]
some_functions = pytest.mark.parametrize("name", some(CASES, KINDS))


def random_intervals(case: Case, count: int = COUNT, seed: int = 0) -> Interval:
    """Tiny, degenerate, wide and one-sided intervals, over scales from 1e-2 to 1e4, and some ends on special points."""
    draw = generator(seed)

    def uniform() -> Tensor:
        return torch.rand(count, generator=draw, dtype=torch.float64)

    scale = 10 ** (6 * uniform() - 2)
    near = uniform() < 0.5
    center = torch.randn(count, generator=draw, dtype=torch.float64) * torch.where(near, 2.0, scale)
    width = torch.where(uniform() < 0.5, 6.0, scale) * uniform()
    kind = uniform()
    width = torch.where(kind < 0.05, 0.0, torch.where(kind < 0.2, width * 1e-9, width))
    lower, upper = center - width / 2, center + width / 2
    for number, point in enumerate(case.points):  # also of themselves alone
        lower[number::97], upper[number::97] = lower[number::97].clamp(max=point), point
        lower[number + 40 :: 97], upper[number + 40 :: 97] = point, upper[number + 40 :: 97].clamp(min=point)
    if case.domain == "moderate":
        lower, upper = lower.clamp(-600, 500), upper.clamp(-600, 500)
    if case.domain in ("positive", "one sign"):
        lower = lower.abs() + 1e-3
        upper = lower + width
    if case.domain == "from one":
        lower = 1 + lower.abs()
        upper = lower + width
    reach = {"quarter turns": 1.5, "up to one": 1.0, "below one": 0.999}.get(case.domain)
    if reach is not None:
        lower, upper = (reach * (end / 2).tanh() for end in (lower, upper))
        upper[::13] = torch.where(near, reach, upper)[::13]
    if case.domain == "probabilities":
        lower, upper = (0.001 + 0.998 * (end / 2).sigmoid() for end in (lower, upper))
    if case.domain == "one sign":
        lower, upper = torch.where(near, lower, -upper), torch.where(near, upper, -lower)
    return Interval(lower, upper)


def long(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy().astype(LONG)


def samples(case: Case, interval: Interval, *more: Tensor) -> np.ndarray:
    """Points (S, N) of each interval in float64: spread over it, its ends, special points, and some more."""
    lower, upper = long(interval.lower), long(interval.upper)
    spread = lower + (upper - lower) * FRACTIONS[:, None]
    special = np.stack([np.full_like(lower, point) for point in case.points] + [long(part) for part in more] + [lower])
    return np.clip(np.concatenate([spread, special]), lower, upper).astype(np.float64).astype(LONG)


def crossings(lines: LinePair, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which intervals have a sample outside the lines."""
    low_slope, low, up_slope, up = (long(part) for part in lines)
    with np.errstate(invalid="ignore"):
        return ((y < low_slope * x + low) | (y > up_slope * x + up)).any(0)


def touching(case: Case, interval: Interval, lines: LinePair) -> list[Tensor]:
    """By the envelope theorem the points where the tightest lines with these slopes touch: -dt / dk."""
    slopes = [slope.detach().clone().requires_grad_() for slope in (lines.lower_slope, lines.upper_slope)]
    tight = case.function.lines_at(interval, *slopes)
    sums = (tight.lower_intercept.sum() + tight.upper_intercept.sum(),)
    return [-gradient for gradient in torch.autograd.grad(sums, slopes)]


def rounding(case: Case, interval: Interval, slope: Tensor, y: np.ndarray) -> np.ndarray:
    """What a tight line may lose to rounding: its terms, and the cancellation in the derivative along the interval."""
    reach = long(interval.lower.abs() + interval.upper.abs())
    terms = (np.abs(y).max(0) + np.abs(long(slope)) * reach) * (1 + case.function.relative_error / 16)
    return 200 * np.finfo(np.float64).eps * (terms + case.function.absolute_error * (1 + reach)) + case.jump + 1e-300


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
    """Of all lines above a function, none is lower at the middle than its concave envelope there."""
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


# ------------------------------------------------------------------------------------------------------- gradients


@some_functions
def test_gradients_are_those_of_finite_differences(name: str):
    """Of both intercepts with respect to slopes and ends; kinks of the maximum have measure zero, so few may differ."""
    case = CASES[name]
    draw = random_intervals(case, 400, seed=8)
    keep = ((draw.upper - draw.lower) > 0.1) & (draw.upper.abs() < 9) & (draw.lower.abs() < 9)
    keep &= torch.minimum(draw.lower.abs(), draw.upper.abs()) > 0.2
    for jumps in (1.0, 2.0):  # off those of floor and round
        keep &= ((jumps * draw.lower).frac() != 0) & ((jumps * draw.upper).frac() != 0)
    ends = [draw.lower[keep], draw.upper[keep]]
    slopes = [torch.randn(len(ends[0]), generator=generator(seed), dtype=torch.float64) for seed in (1, 2)]

    def intercepts(*inputs: Tensor) -> Tensor:
        lines = case.function.lines_at(Interval(inputs[0], inputs[1]), *inputs[2:])
        return lines.lower_intercept + 2 * lines.upper_intercept

    inputs = [part.clone().requires_grad_() for part in ends + slopes]
    gradients = torch.autograd.grad(intercepts(*inputs).sum(), inputs)
    step = 1e-6
    for i, gradient in enumerate(gradients):
        there, back = ([part + sign * step * (i == j) for j, part in enumerate(ends + slopes)] for sign in (1, -1))
        difference = (intercepts(*there) - intercepts(*back)) / (2 * step)
        off = (gradient - difference).abs() > 1e-4 * (1 + gradient.abs())
        assert off.double().mean() <= 0.03


def test_gradients_reach_the_interval_through_default_slopes():
    """The chord of ReLU: d/du of u / (u - l) is -l / (u - l) ** 2, of -u l / (u - l) it is (l / (u - l)) ** 2."""
    lower, upper = (torch.tensor([end], dtype=torch.float64, requires_grad=True) for end in (-1.0, 3.0))
    lines = activations.relu().lines(Interval(lower, upper))
    torch.testing.assert_close(torch.autograd.grad(lines.upper_slope, upper, retain_graph=True)[0].item(), 1 / 16)
    torch.testing.assert_close(torch.autograd.grad(lines.upper_intercept, upper)[0].item(), 1 / 16)


@some_functions
def test_no_gradient_is_nan(name: str):
    inf = math.inf
    ends = torch.tensor([[-1.0, 0, 0, 2, -3, -inf, -inf, 1, 0, 300], [1, 0, 2, 2, -1, 0, inf, inf, 1e4, 4e4]]).double()
    lower, upper = (end.clone().requires_grad_() for end in ends)
    lines = CASES[name].function.lines(Interval(lower, upper))
    total = torch.stack([torch.where(part.isfinite(), part, 0.0) for part in lines]).sum()
    assert not any(gradient.isnan().any() for gradient in torch.autograd.grad(total, (lower, upper)))


# --------------------------------------------------------------------------------------------------- border cases


@some_functions
def test_nan_gives_nan_and_so_does_an_empty_interval(name: str):
    lower, upper = torch.tensor([[math.nan, 1, math.nan, 2], [1, math.nan, math.nan, 1]]).double()
    lines, image = (
        kind(Interval(lower, upper)) for kind in (CASES[name].function.lines, CASES[name].function.interval)
    )
    assert all(part.isnan().all() for part in (*lines, image.lower, image.upper))


@some_functions
def test_unbounded_and_huge_intervals_are_never_bounded_wrongly(name: str):
    case, inf = CASES[name], math.inf
    ends = [[-inf, -inf, 0.5, -1e8, 1e8, 1e300, -1e308], [inf, -0.5, inf, 1e8, 2e8, 1e308, 1e308]]
    ends = torch.tensor(ends, dtype=torch.float64)
    interval = Interval(*ends)
    lines, image = case.function.lines(interval), case.function.interval(interval)
    assert not any(part.isnan().any() for part in (*lines, image.lower, image.upper))
    assert (lines.upper_slope[:3] == 0).all()
    finite = Interval(*ends.clamp(-1e300, 1e300))
    x = samples(case, finite)
    y = evaluate(case, x)
    y = np.where(np.isnan(y), long(image.lower), y)  # outside of the domain
    inside = ~np.isinf(long(image.lower)) | ~np.isinf(long(image.upper))
    assert not (crossings(lines, x, y) & inside).any()
    assert (long(image.lower) <= y).all()
    assert (y <= long(image.upper)).all()


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (elementary.log(), 0.0, 1.0),
        (elementary.log(), -1.0, 1.0),
        (elementary.sqrt(), -1e-9, 1.0),
        (elementary.reciprocal(), -1.0, 1.0),
        (elementary.reciprocal(), 0.0, 1.0),
        (elementary.power(-2), -1.0, 1.0),
        (elementary.power(0.3), -1.0, 1.0),
        (elementary.power(-0.7), 0.0, 1.0),
        (elementary.tan(), 1.0, 2.0),
        (elementary.tan(), 3.0, 3.2),
        (elementary.asin(), 0.5, 1.0000001),
        (elementary.acos(), -1.0000001, 0.5),
        (elementary.acosh(), 0.9999999, 2.0),
        (elementary.atanh(), 0.0, 1.0),
        (elementary.logit(), 0.0, 0.5),
        (elementary.logit(), 0.5, 1.0),
        (elementary.logarithm(2), 0.0, 1.0),
        (elementary.logarithm(10), -1.0, 1.0),
    ],
)
def test_there_is_no_bound_outside_of_the_domain(function: ScalarFunction, low: float, high: float):
    interval = Interval(torch.tensor([low]).double(), torch.tensor([high]).double())
    image = function.interval(interval)
    assert [part.item() for part in function.lines(interval)] == [0, -math.inf, 0, math.inf]
    assert [image.lower.item(), image.upper.item()] == [-math.inf, math.inf]


@pytest.mark.parametrize(
    ("function", "ends", "image"),
    [
        (activations.relu(), (-math.inf, 3.0), (0.0, 3.0)),
        (activations.sigmoid(), (-math.inf, math.inf), (0.0, 1.0)),
        (elementary.log(), (1.0, math.inf), (0.0, math.inf)),
        (elementary.sqrt(), (0.0, math.inf), (0.0, math.inf)),
        (elementary.log(), (math.inf, math.inf), (-math.inf, math.inf)),
        (elementary.exp(), (0.0, 800.0), (1.0, math.inf)),
    ],
)
def test_images_of_unbounded_intervals(function: ScalarFunction, ends, image):
    """The largest number is not infinity: a logarithm goes on beyond 709.78."""
    found = function.interval(Interval(*torch.tensor(ends, dtype=torch.float64)[:, None]))
    expected = torch.tensor(image, dtype=torch.float64)
    torch.testing.assert_close(torch.cat((found.lower, found.upper)), expected, rtol=1e-14, atol=1e-300)


def test_there_is_no_line_where_infinity_is_taken_from_infinity():
    interval = Interval(*torch.tensor([[0.0], [1e200]], dtype=torch.float64))
    steep = torch.tensor([1e200], dtype=torch.float64)
    lines = elementary.power(4).lines_at(interval, steep, steep)
    assert [lines.upper_slope.item(), lines.upper_intercept.item()] == [0, math.inf]


def test_images_that_have_to_stay_in_a_domain_do():
    """Rounding outward must not push an exponential or a square root below 0, where the next function ends."""
    wide = Interval(torch.tensor([-800.0, 0.0]).double(), torch.tensor([1.0, 0.0]).double())
    assert (elementary.exp().interval(wide).lower >= 0).all()
    assert (activations.sigmoid().interval(wide).lower >= 0).all()
    assert elementary.sqrt().interval(Interval(wide.lower[1:], wide.upper[1:])).lower.item() == 0
    assert periodic.sin().interval(Interval(-10 * wide.upper, 10 * wide.upper)).upper[0].item() == 1


@pytest.mark.parametrize("name", ["relu", "hardswish", "floor", "tanh", "celu", "cos"])
def test_any_shape_and_any_device(name: str):
    case = CASES[name]
    interval = random_intervals(case, 24)
    shaped = Interval(interval.lower.reshape(2, 3, 4), interval.upper.reshape(2, 3, 4))
    for ours, theirs in zip(case.function.lines(shaped), case.function.lines(interval), strict=True):
        assert ours.shape == (2, 3, 4)
        assert ours.flatten().equal(theirs)
    empty = case.function.lines(Interval(interval.lower[:0], interval.upper[:0]))
    assert all(part.shape == (0,) for part in empty)
    with elsewhere() as mode:
        case.function.interval(shaped)
        if name in ("relu", "hardswish"):  # the others would take long in this mode, and do no more
            case.function.lines(shaped)
    assert mode.host_reads == 0


def test_senseless_parameters_are_refused():
    for build in (
        lambda: activations.clamp(),
        lambda: activations.softplus(0.0),
        lambda: activations.elu(-1.0),
        lambda: elementary.power(math.nan),
        lambda: activations.gelu("none of them"),
    ):
        with pytest.raises(InvalidInput):
            build()
