"""Elementary functions with their pieces: powers, exponentials, logarithms, hyperbolic and inverse functions.

Outside of its domain a function has no bounds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.relaxations.piecewise import Piece, PiecewiseFunction, linear_piece, tiny
from bounds.relaxations.scalar import SPECIAL, Map

_INFINITY = math.inf


# Exponentials, logarithms and powers


def exp() -> PiecewiseFunction:
    """The exponential function."""
    pieces = (Piece(torch.exp, torch.exp, 1, lambda k, *_: k.clamp(min=tiny(k)).log()),)
    return PiecewiseFunction(value=torch.exp, pieces=pieces, curvature=1, range=(0.0, _INFINITY), monotone=1)


def _positive(lower: Tensor, upper: Tensor) -> Tensor:
    return lower > 0


def _nonnegative(lower: Tensor, upper: Tensor) -> Tensor:
    return lower >= 0


def _one_sign(lower: Tensor, upper: Tensor) -> Tensor:
    return (lower > 0) | (upper < 0)


def log() -> PiecewiseFunction:
    """The natural logarithm, on intervals above 0."""
    pieces = (Piece(torch.log, torch.reciprocal, -1, lambda k, *_: 1 / k.clamp(min=tiny(k)), start=0.0),)
    return PiecewiseFunction(value=torch.log, pieces=pieces, curvature=-1, domain=_positive, monotone=1)


def power(exponent: float) -> PiecewiseFunction:
    """``x ** exponent``: everywhere for integers from 0, off 0 for negative ones, else on intervals from 0 on."""
    p = float(exponent)
    if not math.isfinite(p):
        raise InvalidInput(f"exponent must be finite, got {exponent}")

    def value(x: Tensor) -> Tensor:
        return x.reciprocal() if p == -1 else x**p

    if p in (0.0, 1.0):
        return PiecewiseFunction(value=value, pieces=(linear_piece(p, 1 - p),), curvature=1, relative_error=0.0)
    if p % 2 == 0 and p > 0:
        pieces: tuple[Piece, ...] = (Piece(value, _power_slope(p), 1, _power_root(p)),)
        return PiecewiseFunction(value=value, pieces=pieces, curvature=1, range=(0.0, _INFINITY))
    bend = -1 if 0 < p < 1 else 1
    right = Piece(value, _power_slope(p), bend, _power_root(p), start=0.0)
    if p % 1 != 0:
        domain = _positive if p < 0 else _nonnegative
        rounded = (p * 1024) % 1 != 0  # the exponent in float32, or less 1, which multiplies by a logarithm below 710
        return PiecewiseFunction(
            value=value,
            pieces=(right,),
            curvature=bend,
            domain=domain,
            relative_error=SPECIAL + (710 * (abs(p) + 1) if rounded else 0),
            range=(0.0, _INFINITY),
            monotone=1 if p > 0 else -1,
        )
    left = Piece(value, _power_slope(p), 1 if p % 2 == 0 else -1, _power_root(p, -1.0), end=0.0)
    if p > 0:
        return PiecewiseFunction(value=value, pieces=(left, right))
    low = 0.0 if p % 2 == 0 else -_INFINITY
    falls = -1 if p % 2 == 1 else 0
    return PiecewiseFunction(
        value=value, pieces=(left, right), domain=_one_sign, range=(low, _INFINITY), apart=True, monotone=falls
    )


def _power_slope(p: float) -> Map:
    if p == -1:
        return lambda x: -x.reciprocal().square()
    return lambda x: p * x ** (p - 1)


def _power_root(p: float, sign: float = 1.0) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The points where the derivative has a slope: on one side of 0, or on both for an even exponent above 0."""

    def root(slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        ratio = slope / p
        if p > 0 and p % 2 == 0:
            return ratio.sign() * ratio.abs() ** (1 / (p - 1))
        ratio = ratio if sign > 0 or p % 2 == 1 else -ratio
        return sign * ratio.clamp(min=tiny(ratio)) ** (1 / (p - 1))

    return root


def square() -> PiecewiseFunction:
    """``x ** 2``."""
    return power(2)


def sqrt() -> PiecewiseFunction:
    """The square root, on intervals from 0 on; its gradient at 0 is infinite."""
    return power(0.5)


def reciprocal() -> PiecewiseFunction:
    """``1 / x``, on intervals without 0."""
    return power(-1)


# Hyperbolic and inverse functions


def _turning_at(
    turn: float,
    maps: tuple[Map, Map],
    roots: tuple[Map, Map],
    first: int,
    ends: tuple[float, float] = (-_INFINITY, _INFINITY),
    *,
    range: tuple[float, float] = (-_INFINITY, _INFINITY),
    absolute_error: float = 0.0,
    closed: bool = True,
) -> PiecewiseFunction:
    """A function with one inflection point.

    Args:
        turn: the inflection point.
        maps: the function and its derivative.
        roots: of a slope, the points before and behind the inflection point where the derivative is equal to it.
        first: its curvature before the inflection point.
        ends: of its domain.
        range: the function lies nowhere outside.
        absolute_error: of values and derivatives, in units of rounding.
        closed: whether the ends belong to the domain.
    """
    value, derivative = maps
    pieces = (
        Piece(value, derivative, first, lambda k, *_: roots[0](k), start=ends[0], end=turn),
        Piece(value, derivative, -first, lambda k, *_: roots[1](k), start=turn, end=ends[1]),
    )

    def domain(lower: Tensor, upper: Tensor) -> Tensor:
        return (lower >= ends[0]) & (upper <= ends[1]) if closed else (lower > ends[0]) & (upper < ends[1])

    return PiecewiseFunction(value=value, pieces=pieces, range=range, domain=domain, absolute_error=absolute_error)


def _even(root: Map) -> tuple[Map, Map]:
    """Roots of an even derivative, from the one that is not negative."""
    return (lambda k: -root(k)), root


def sinh() -> PiecewiseFunction:
    """The hyperbolic sine."""
    return _turning_at(0.0, (torch.sinh, torch.cosh), _even(lambda k: torch.acosh(k.clamp(min=1))), -1)


def cosh() -> PiecewiseFunction:
    """The hyperbolic cosine."""
    pieces = (Piece(torch.cosh, torch.sinh, 1, lambda k, *_: torch.asinh(k)),)
    return PiecewiseFunction(value=torch.cosh, pieces=pieces, curvature=1, range=(1.0, _INFINITY))


def tan() -> PiecewiseFunction:
    """The tangent, on intervals between -pi/2 and pi/2."""
    limit = 1.5707963  # just below pi / 2
    return _turning_at(
        0.0,
        (torch.tan, lambda x: 1 + torch.tan(x) ** 2),
        _even(lambda k: torch.atan((k - 1).clamp(min=0).sqrt())),
        -1,
        (-limit, limit),
        closed=False,
    )


def _inverse_slope(x: Tensor) -> Tensor:
    """The derivative of the arc sine."""
    return 1 / ((1 - x) * (1 + x)).sqrt()


def _inverse_root(slope: Tensor) -> Tensor:
    inverse = 1 / slope.abs().clamp(min=1)
    return ((1 - inverse) * (1 + inverse)).sqrt()


def asin() -> PiecewiseFunction:
    """The arc sine, on intervals in [-1, 1]."""
    limit = math.nextafter(math.pi / 2, 2)
    return _turning_at(0.0, (torch.asin, _inverse_slope), _even(_inverse_root), -1, (-1.0, 1.0), range=(-limit, limit))


def acos() -> PiecewiseFunction:
    """The arc cosine, on intervals in [-1, 1]."""
    limit = math.nextafter(math.pi, 4)
    return _turning_at(
        0.0,
        (torch.acos, lambda x: -_inverse_slope(x)),
        _even(_inverse_root),
        1,
        (-1.0, 1.0),
        range=(0.0, limit),
    )


def asinh() -> PiecewiseFunction:
    """The inverse hyperbolic sine."""

    def root(slope: Tensor) -> Tensor:
        inverse = 1 / slope.clamp(tiny(slope), 1)
        return ((inverse - 1) * (inverse + 1)).sqrt()

    return _turning_at(0.0, (torch.asinh, lambda x: 1 / torch.hypot(x, torch.ones_like(x))), _even(root), 1)


def acosh() -> PiecewiseFunction:
    """The inverse hyperbolic cosine, on intervals from 1 on."""
    piece = Piece(
        torch.acosh,
        lambda x: 1 / ((x - 1).sqrt() * (x + 1).sqrt()),
        -1,
        lambda k, *_: torch.hypot(torch.ones_like(k), 1 / k.clamp(min=tiny(k))),
        start=1.0,
    )
    return PiecewiseFunction(
        value=torch.acosh,
        pieces=(piece,),
        curvature=-1,
        range=(0.0, _INFINITY),
        domain=lambda lower, upper: lower >= 1,
    )


def atanh() -> PiecewiseFunction:
    """The inverse hyperbolic tangent, on intervals in (-1, 1)."""
    return _turning_at(
        0.0,
        (torch.atanh, lambda x: 1 / ((1 - x) * (1 + x))),
        _even(lambda k: (1 - 1 / k.clamp(min=1)).sqrt()),
        -1,
        (-1.0, 1.0),
        closed=False,
    )


def logit() -> PiecewiseFunction:
    """``log(x / (1 - x))``, on intervals in (0, 1)."""

    def larger(slope: Tensor) -> Tensor:
        return (1 + (1 - 4 / slope.clamp(min=4)).sqrt()) / 2

    def smaller(slope: Tensor) -> Tensor:
        return 1 / (slope.clamp(min=4) * larger(slope))

    return _turning_at(
        0.5,
        (lambda x: x.log() - torch.log1p(-x), lambda x: 1 / (x * (1 - x))),
        (smaller, larger),
        -1,
        (0.0, 1.0),
        absolute_error=2 * SPECIAL,
        closed=False,
    )


def erfc() -> PiecewiseFunction:
    """One less the error function."""
    scale = 2 / math.sqrt(math.pi)
    return _turning_at(
        0.0,
        (torch.erfc, lambda x: -scale * torch.exp(-x * x)),
        _even(lambda k: (-(-k / scale).clamp(tiny(k), 1).log()).sqrt()),
        -1,
        range=(0.0, 2.0),
        absolute_error=2.0,
    )


def normal_distribution() -> PiecewiseFunction:
    """The distribution function of the standard normal distribution."""
    scale = 1 / math.sqrt(2 * math.pi)
    return _turning_at(
        0.0,
        (lambda x: torch.erfc(-x / math.sqrt(2)) / 2, lambda x: scale * torch.exp(-x * x / 2)),
        _even(lambda k: (-2 * (k / scale).clamp(tiny(k), 1).log()).sqrt()),
        1,
        range=(0.0, 1.0),
        absolute_error=SPECIAL,
    )


def exponential(base: float) -> PiecewiseFunction:
    """``base ** x``, for a base above 0."""
    base = checks.positive("base", base)
    rate = math.log(base)
    if rate == 0:
        return PiecewiseFunction(
            value=torch.ones_like,
            pieces=(Piece(torch.ones_like, torch.zeros_like, 0),),
            curvature=1,
            relative_error=0.0,
        )
    if base == math.e:
        return exp()

    def value(x: Tensor) -> Tensor:
        return torch.pow(base, x)

    def root(slope: Tensor, *_: Tensor) -> Tensor:
        return (slope / rate).clamp(min=tiny(slope)).log() / rate

    rounded = (base * 1024) % 1 != 0  # the base in float32, which multiplies by an exponent below 710 / |log base|
    return PiecewiseFunction(
        value=value,
        pieces=(Piece(value, lambda x: rate * value(x), 1, root),),
        curvature=1,
        relative_error=SPECIAL + (750 / abs(rate) if rounded else 0),
        range=(0.0, _INFINITY),
    )


def logarithm(base: float) -> PiecewiseFunction:
    """The logarithm of base 2 or 10, or the natural one, on intervals above 0."""
    if base == math.e:
        return log()
    rate = 1 / math.log(base)
    value = torch.log2 if base == 2 else torch.log10
    piece = Piece(value, lambda x: rate / x, -1, lambda k, *_: rate / k.clamp(min=tiny(k)), start=0.0)
    return PiecewiseFunction(value=value, pieces=(piece,), curvature=-1, domain=lambda lower, upper: lower > 0)
