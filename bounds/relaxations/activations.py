"""Activation functions that networks apply entry by entry, each with its pieces.

Every derivative keeps its relative accuracy in the tails, or its absolute one where the function says so.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import unit_roundoff
from bounds.relaxations.piecewise import Piece, PiecewiseFunction, linear_piece, tiny
from bounds.relaxations.relu import ReLURelaxation
from bounds.relaxations.scalar import LOWER, SPECIAL, UPPER, Candidate, LinePair, Map, middle, rooted
from bounds.relaxations.touching import monotone_range, s_shape_lines
from bounds.sets.balls import Interval

_INFINITY = math.inf
_ARITHMETIC = 4.0  # units of rounding of a few sums and products
TOUCHING_STEPS = 6  # each squares the error


# Piecewise linear functions


def leaky_relu(negative_slope: float | Tensor = 0.01) -> PiecewiseFunction:
    """``max(x, 0) + negative_slope min(x, 0)``, for any slope, also a tensor that broadcasts to the input (PReLU)."""
    if not isinstance(negative_slope, Tensor) and 0 <= negative_slope <= 1:
        return _leaky_relu(float(negative_slope))
    slope = negative_slope.detach() if isinstance(negative_slope, Tensor) else negative_slope
    return PiecewiseFunction(
        value=lambda x: torch.where(x > 0, x, slope * x),
        pieces=(linear_piece(slope, end=0.0), linear_piece(1.0, start=0.0)),
        curvature=torch.where(slope <= 1, 1, -1) if isinstance(slope, Tensor) else 1 if slope <= 1 else -1,
        relative_error=_ARITHMETIC,
    )


prelu = leaky_relu


def relu() -> PiecewiseFunction:
    """``max(x, 0)``; its lower slope is 1 if the interval reaches farther above 0 than below, else 0."""
    return _leaky_relu(0.0)


def _leaky_relu(slope: float) -> ReLURelaxation:
    return ReLURelaxation(
        value=torch.relu if slope == 0 else lambda x: torch.where(x > 0, x, slope * x),
        pieces=(linear_piece(slope, end=0.0), linear_piece(1.0, start=0.0)),
        curvature=1,
        relative_error=_ARITHMETIC if slope else 0.0,
        range=(0.0, _INFINITY) if slope == 0 else (-_INFINITY, _INFINITY),
        negative_slope=slope,
    )


def absolute() -> PiecewiseFunction:
    """``|x|``."""
    pieces = (linear_piece(-1.0, end=0.0), linear_piece(1.0, start=0.0))
    return PiecewiseFunction(value=torch.abs, pieces=pieces, curvature=1, relative_error=0.0, range=(0.0, _INFINITY))


def clamp(low: float | None = None, high: float | None = None) -> PiecewiseFunction:
    """``min(max(x, low), high)``, with one side or both; covers ReLU6 and hard tanh."""
    if low is None and high is None:
        raise InvalidInput("clamp must have low or high, got None for both: give one of them")
    start, end = -_INFINITY if low is None else float(low), _INFINITY if high is None else float(high)
    if math.isnan(start) or math.isnan(end):
        raise InvalidInput(f"low and high must be numbers, got {low} and {high}: repair them")
    start = min(start, end)  # high goes first, as in torch: all values become it where low exceeds it
    pieces = [linear_piece(1.0, start=start, end=end)]
    if low is not None:
        pieces.insert(0, linear_piece(0.0, start, end=start))
    if high is not None:
        pieces.append(linear_piece(0.0, end, start=end))
    return PiecewiseFunction(
        value=lambda x: x.clamp(start, end),
        pieces=tuple(pieces),
        curvature=1 if high is None else -1 if low is None else 0,
        relative_error=2.0,  # of the sides in the dtype of the input
        range=(0.0 if start >= 0 else -_INFINITY, _INFINITY),
    )


def hardtanh(low: float = -1.0, high: float = 1.0) -> PiecewiseFunction:
    """``min(max(x, low), high)``."""
    return clamp(low, high)


def relu6() -> PiecewiseFunction:
    """``min(max(x, 0), 6)``."""
    return clamp(0.0, 6.0)


def hardsigmoid() -> PiecewiseFunction:
    """``min(max(x + 3, 0), 6) / 6``."""
    rising = Piece(lambda x: (x + 3) / 6, lambda x: torch.ones_like(x) / 6, 0, None, -3.0, 3.0)
    return PiecewiseFunction(
        value=F.hardsigmoid,
        pieces=(linear_piece(0.0, end=-3.0), rising, linear_piece(0.0, 1.0, start=3.0)),
        relative_error=_ARITHMETIC,
        range=(0.0, 1.0),
    )


def hardswish() -> PiecewiseFunction:
    """``x min(max(x + 3, 0), 6) / 6``."""
    bowl = Piece(lambda x: x * ((x + 3) / 6), lambda x: (2 * x + 3) / 6, 1, lambda k, *_: 3 * k - 1.5, -3.0, 3.0)
    return PiecewiseFunction(
        value=F.hardswish,
        pieces=(linear_piece(0.0, end=-3.0), bowl, linear_piece(1.0, start=3.0)),
        relative_error=_ARITHMETIC,
        absolute_error=_ARITHMETIC,
        range=(-0.375, _INFINITY),
    )


# Functions with an S-shape


def _sigmoid_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _sigmoid_root(slope: Tensor) -> Tensor:
    """The positive point where the sigmoid has the slope: logit(s) for s (1 - s) = slope."""
    slope = slope.clamp(tiny(slope), 0.25)
    larger = (1 + (1 - 4 * slope).sqrt()) / 2
    return 2 * larger.log() - slope.log()  # 1 - s is slope / s


@dataclass(frozen=True, eq=False, kw_only=True)
class SShape(PiecewiseFunction):
    """A rising function that is convex below 0 and concave above, with an even derivative.

    Attributes:
        derivative: of the function.
        root: of a slope, the positive point where the function has it.
    """

    derivative: Map
    root: Map

    def lines(self, interval: Interval) -> LinePair:
        """Lines that touch at known points; with gradients by way of their slopes."""
        if torch.is_grad_enabled():
            return super().lines(interval)
        return s_shape_lines(self, interval, self.derivative, self.root)

    def range_of(self, *parents: Interval) -> Interval:
        """The values at both ends, moved outward."""
        (x,) = parents
        if not torch.is_grad_enabled():
            return monotone_range(self, x, 1)
        inside, valid = self._inside(x)
        ends = [self._end(inside.lower, LOWER), self._end(inside.upper, UPPER)]
        return Interval(*(torch.where(valid, end.clamp(*self.range), torch.nan) for end in ends))

    def _end(self, x: Tensor, side: int) -> Tensor:
        value, zero = self.value(x), torch.zeros_like(x)
        return value + side * self._outward(Candidate(x, value.detach(), zero, zero, zero.bool()), zero)

    def slope(self, inside: Interval, side: int) -> Tensor:
        """The slope at the middle of the envelope, the least concave function above or the largest convex one below.

        Seen from the end of the interval where the function bends away from it, the envelope is a line up to the point
        where it touches the function, and the function itself behind that point; or the secant, if it touches nowhere.
        """
        near, far = (inside.lower, inside.upper) if side == UPPER else (inside.upper, inside.lower)
        center = middle(inside)
        secant = self._secant(inside, self.derivative(center))
        with torch.no_grad():
            touching = self._touching_point(near, far, side)
            straight = (self.derivative(far) >= secant) | (side * far <= 0)
            behind = (side * (center - touching) > 0) | (side * near >= 0)
        tangent = self.derivative(torch.where(behind, center, touching))
        return torch.where(straight, secant, tangent)

    def _touching_point(self, near: Tensor, far: Tensor, side: int) -> Tensor:
        """The point where a line through the function at ``near`` touches it, on the other side of 0.

        The secant through ``near`` is steepest there, so that its slope hardly depends on the point: each step squares
        the error. Its rounding costs tightness only.
        """
        height, point = self.value(near), far
        for _ in range(TOUCHING_STEPS):
            slope = (self.value(point) - height) / (point - near)
            point = side * self.root(slope)
            point = torch.where(point.isfinite(), point, far)
        return point


def _s_shape(
    value: Map, derivative: Map, root: Map, *, limit: float, low: float, absolute_error: float = 0.0
) -> SShape:
    """The function, its derivative and the positive point of a slope, with the values that it does not reach."""
    pieces = (
        Piece(value, derivative, 1, lambda k, *_: -root(k), end=0.0),
        Piece(value, derivative, -1, lambda k, *_: root(k), start=0.0),
    )
    return SShape(
        value=value,
        derivative=derivative,
        root=root,
        pieces=pieces,
        absolute_error=absolute_error,
        range=(low, limit),
    )


def sigmoid() -> PiecewiseFunction:
    """``1 / (1 + exp(-x))``."""
    return _s_shape(torch.sigmoid, _sigmoid_slope, _sigmoid_root, limit=1.0, low=0.0)


def tanh() -> PiecewiseFunction:
    """The hyperbolic tangent."""
    return _s_shape(
        torch.tanh, lambda x: 4 * _sigmoid_slope(2 * x), lambda k: _sigmoid_root(k / 4) / 2, limit=1.0, low=-1.0
    )


def atan() -> PiecewiseFunction:
    """The inverse tangent."""
    limit = math.nextafter(math.pi / 2, 2)
    return _s_shape(
        torch.atan, lambda x: 1 / (1 + x * x), lambda k: (1 / k.clamp(tiny(k), 1) - 1).sqrt(), limit=limit, low=-limit
    )


def erf() -> PiecewiseFunction:
    """The error function."""
    scale = 2 / math.sqrt(math.pi)
    return _s_shape(
        torch.erf,
        lambda x: scale * torch.exp(-x * x),
        lambda k: (-(k / scale).clamp(tiny(k), 1).log()).sqrt(),
        limit=1.0,
        low=-1.0,
        absolute_error=1.0,
    )


# Smooth relatives of ReLU


def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> PiecewiseFunction:
    """``scale x`` above 0, ``scale alpha (exp(input_scale x) - 1)`` below; covers SELU and CELU (1 / alpha inside)."""
    alpha, scale = checks.nonnegative("alpha", alpha), checks.positive("scale", scale)
    rate, height = checks.positive("input_scale", input_scale), scale * alpha
    steepest = height * rate
    bend = Piece(
        lambda x: height * torch.expm1(rate * x),
        lambda x: steepest * torch.exp(rate * x),
        1 if alpha else 0,
        (lambda k, *_: (k / steepest).clamp(min=tiny(k)).log() / rate) if alpha else None,
        end=0.0,
    )
    return PiecewiseFunction(
        value=lambda x: torch.where(x > 0, scale * x, bend.value(x.clamp(max=0))),
        pieces=(bend, linear_piece(scale, start=0.0)),
        curvature=1 if alpha * rate <= 1 else 0,
        absolute_error=0.0 if rate == 1 else max(height, steepest),
        range=(-height * (1 + 1e-6), _INFINITY),
    )


def selu() -> PiecewiseFunction:
    """The self-normalising exponential linear unit."""
    return elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)  # accurate in both tails, unlike F.softplus with any threshold


def softplus(beta: float = 1.0, threshold: float = 20.0) -> PiecewiseFunction:
    """``log(1 + exp(beta x)) / beta``, and ``x`` itself from ``beta x > threshold`` on."""
    beta, edge = checks.positive("beta", beta), float(threshold) / beta
    overlap = 1e-6 * abs(edge)  # rounding decides on which side of the jump a number so close to it lies
    smooth = Piece(
        lambda x: _softplus(beta * x) / beta,
        lambda x: torch.sigmoid(beta * x),
        1,
        lambda k, *_: torch.logit(k.clamp(tiny(k), 1 - unit_roundoff(k.dtype))) / beta,
        end=edge + overlap,
    )
    return PiecewiseFunction(
        value=lambda x: F.softplus(x, beta, threshold),
        pieces=(smooth, linear_piece(1.0, start=edge - overlap)),
        curvature=1,
        absolute_error=0.0 if beta == 1 else max(1.0, 1 / beta),
        range=(min(0.0, edge - overlap), _INFINITY),
    )


def _bent_twice(
    value: Map, derivative: Map, first: float, second: float, floor: float, absolute_error: float
) -> PiecewiseFunction:
    """A function that is concave outside of two inflection points and convex between them."""

    def piece(curvature: int, start: float, end: float) -> Piece:
        def root(slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
            # Beyond 64 the derivative is 0 or 1 as far as float64 can tell.
            ends = lower.clamp(-64, 64), upper.clamp(-64, 64)
            return rooted(lambda x: curvature * (derivative(x) - slope), *ends)

        return Piece(value, derivative, curvature, root, start, end)

    return PiecewiseFunction(
        value=value,
        pieces=(piece(-1, -_INFINITY, first), piece(1, first, second), piece(-1, second, _INFINITY)),
        absolute_error=absolute_error,
        range=(floor, _INFINITY),
    )


def _silu_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def silu() -> PiecewiseFunction:
    """``x sigmoid(x)``, with inflections where ``x tanh(x / 2) = 2``."""
    bend = 2.3993572805154677
    return _bent_twice(lambda x: x * torch.sigmoid(x), _silu_slope, -bend, bend, -0.2784647, 2 * SPECIAL)


def _mish_slope(x: Tensor) -> Tensor:
    soft = _softplus(x)
    return torch.tanh(soft) + 4 * x * torch.sigmoid(x) * _sigmoid_slope(2 * soft)


def mish() -> PiecewiseFunction:
    """``x tanh(log(1 + exp(x)))``."""
    return _bent_twice(
        lambda x: x * torch.tanh(_softplus(x)),
        _mish_slope,
        -2.2563763963607931,
        1.4905711794854285,
        -0.3088436,
        3 * SPECIAL,
    )


def gelu(approximate: str = "none") -> PiecewiseFunction:
    """``x Phi(x)`` with the normal distribution function, or ``approximate="tanh"``, its approximation."""
    if checks.one_of("approximate", approximate, ("none", "tanh")) == "tanh":
        return _gelu_tanh()
    density = 1 / math.sqrt(2 * math.pi)

    def cumulative(x: Tensor) -> Tensor:
        return torch.erfc(-x / math.sqrt(2)) / 2

    return _bent_twice(
        lambda x: x * cumulative(x),
        lambda x: cumulative(x) + x * density * torch.exp(-x * x / 2),
        -math.sqrt(2),
        math.sqrt(2),
        -0.1699714,
        4 * SPECIAL,
    )


def _gelu_tanh() -> PiecewiseFunction:
    rate, cubic, bend = 2 * math.sqrt(2 / math.pi), 0.044715, 1.4185040087908284

    def derivative(x: Tensor) -> Tensor:
        inner = rate * (x + cubic * x * x * x)
        # The inner derivative is bounded, for it may overflow where the factor before it has long been 0.
        growth = (rate * x * (1 + 3 * cubic * x * x)).clamp(-1e6, 1e6)
        return torch.sigmoid(inner) + growth * _sigmoid_slope(inner)

    return _bent_twice(
        lambda x: x * torch.sigmoid(rate * (x + cubic * x * x * x)), derivative, -bend, bend, -0.1700410, 8 * SPECIAL
    )
