"""Scalar functions with more digits than float64 has, intervals to bound them on, and points that refute a line."""

import math
from collections.abc import Callable
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from oracles.selection import some
from scipy import special
from torch import Tensor

from bounds import Interval
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
    """Intervals with a sample outside the lines."""
    low_slope, low, up_slope, up = (long(part) for part in lines)
    with np.errstate(invalid="ignore"):
        return ((y < low_slope * x + low) | (y > up_slope * x + up)).any(0)
