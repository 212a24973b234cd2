"""Bounds against exact rational arithmetic: every rounding error has to fall on the safe side, without tolerance.

The same comparison is run on interval arithmetic without rounding terms, and has to find it wrong.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import Interval, LpBall, Normalize, capture, crown, crown_ibp, ibp, margin_bounds
from bounds.linear import precision

Exact = list[Fraction]
DTYPES = (torch.float32, torch.float64)


def exact(values: Tensor) -> Exact:
    return [Fraction(value) for value in values.detach().flatten().tolist()]


def exact_hull(ball: LpBall) -> tuple[Exact, Exact]:
    """Both sides of one ball in its box."""
    low, high = Fraction(ball.low), Fraction(ball.high)
    radius = Fraction(ball.radii.item())
    center = exact(ball.center)
    return [max(low, c - radius) for c in center], [min(high, c + radius) for c in center]


def exact_affine(weight: list[Exact], bias: Exact, lower: Exact, upper: Exact) -> tuple[Exact, Exact]:
    """Range of ``W x + b`` over a box."""
    ends = [
        [(w * (a if w > 0 else b), w * (b if w > 0 else a)) for w, a, b in zip(row, lower, upper, strict=True)]
        for row in weight
    ]
    below = [sum((low for low, _ in row), b) for row, b in zip(ends, bias, strict=True)]
    above = [sum((high for _, high in row), b) for row, b in zip(ends, bias, strict=True)]
    return below, above


def rows_of(layer: nn.Module, width: int) -> tuple[list[Exact], Exact]:
    """Weights and offsets of a layer on (N, width)."""
    if isinstance(layer, Normalize):
        mean, std = exact(layer.mean) * (width // len(layer.mean)), exact(layer.std) * (width // len(layer.std))
        diagonal = [[1 / std[i] if i == j else Fraction(0) for j in range(width)] for i in range(width)]
        return diagonal, [-m / s for m, s in zip(mean, std, strict=True)]
    rows = [exact(row) for row in layer.weight]
    return rows, [Fraction(0)] * len(rows) if layer.bias is None else exact(layer.bias)


def exact_ibp(model: nn.Sequential, ball: LpBall) -> tuple[Exact, Exact]:
    """Interval propagation of one ball without rounding."""
    lower, upper = exact_hull(ball)
    for layer in model:
        if isinstance(layer, nn.ReLU):
            lower, upper = ([max(Fraction(0), value) for value in side] for side in (lower, upper))
        else:
            lower, upper = exact_affine(*rows_of(layer, len(lower)), lower, upper)
    return lower, upper


def naive_ibp(model: nn.Sequential, ball: LpBall) -> Interval:
    """The mutant: centre and radius without any rounding term."""
    radius = ball.radii[:, None]
    lower, upper = (ball.center - radius).clamp(min=ball.low), (ball.center + radius).clamp(max=ball.high)
    for layer in model:
        if isinstance(layer, nn.ReLU):
            lower, upper = layer(lower), layer(upper)
            continue
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        if isinstance(layer, Normalize):
            center, radius = layer(center), radius / layer.std
        else:
            center, radius = layer(center), F.linear(radius, layer.weight.abs())
        lower, upper = center - radius, center + radius
    return Interval(lower.detach(), upper.detach())


def encloses(interval: Interval, lower: Exact, upper: Exact) -> bool:
    below = all(ours <= true for ours, true in zip(exact(interval.lower), lower, strict=True))
    return below and all(ours >= true for ours, true in zip(exact(interval.upper), upper, strict=True))


def captured_ibp(model: nn.Sequential, ball: LpBall) -> Interval:
    """The second engine, of networks of any code."""
    return ibp(capture(model, ball.center), ball)


def badly_scaled(seed: int, dtype: torch.dtype) -> nn.Sequential:
    """Weights over sixteen powers of ten, in pairs that cancel, below a bias."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(Normalize((0.1307,), (0.3081,)), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        for layer in (model[1], model[3]):
            shape = layer.weight.shape
            size = 10 ** (16 * torch.rand(shape, generator=draw) - 8)
            layer.weight.copy_(size * torch.randn(shape, generator=draw))
            layer.weight[:, 1] = -layer.weight[:, 0]
    return model.to(dtype)


def small_ball(seed: int, dtype: torch.dtype, norm: float = math.inf, radius: float | None = None) -> LpBall:
    draw = torch.Generator().manual_seed(seed)
    center = torch.rand(1, 6, generator=draw, dtype=dtype)
    center[0, 1] = center[0, 0]
    size = 10 ** -(8 * torch.rand((), generator=draw, dtype=dtype)) if radius is None else radius
    return LpBall(center, torch.as_tensor(size, dtype=dtype), norm, 0.0, 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bound", [ibp, naive_ibp])
def test_encloses_interval_propagation_without_rounding(bound: Callable[..., Interval], dtype: torch.dtype):
    verdicts = []
    for seed in range(30):
        model, ball = badly_scaled(seed, dtype), small_ball(seed, dtype)
        verdicts.append(encloses(bound(model, ball), *exact_ibp(model, ball)))
    assert all(verdicts) if bound is ibp else sum(verdicts) < 15


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_captured_networks_enclose_it_too(dtype: torch.dtype):
    model = badly_scaled(0, dtype)
    graph = capture(model, small_ball(0, dtype).center)  # follows the weights
    for seed in range(100):
        model.load_state_dict(badly_scaled(seed, dtype).state_dict())
        ball = small_ball(seed, dtype)
        lower, upper = exact_ibp(model, ball)
        assert encloses(ibp(graph, ball), lower, upper), seed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cancellation_by_hand(dtype: torch.dtype):
    """1e8 x - 1e8 y + z at x = y: all digits of z are lost to a sum in float32 in another order than from the left."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False)).to(dtype)
    big = 1e8 if dtype == torch.float32 else 1e17
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[big, -big, 1.0]]))
    ball = LpBall(torch.tensor([[0.7, 0.7, 0.3]], dtype=dtype), 0.0)
    lower, upper = exact_ibp(model, ball)
    assert encloses(ibp(model, ball), lower, upper)
    x, y, z = ball.center[0]  # by hand, since no layer promises an order
    logit = ((z - big * y) + big * x).view(1, 1)
    assert not encloses(Interval(logit, logit), lower, upper)
    assert (ibp(model, ball).upper - ibp(model, ball).lower).item() < 1e3  # slack of the order of the cancellation


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_margins_enclose_exact_margins(dtype: torch.dtype):
    """Catches a folded last layer whose row differences are taken for exact."""
    naive_is_right = 0
    for seed in range(30):
        model, ball = badly_scaled(seed, dtype), small_ball(seed, dtype, radius=1e-7)
        with torch.no_grad():
            model[3].weight[1] = model[3].weight[0] * 1.0001
        lower, upper = exact_ibp(model[:3], ball)
        rows, offsets = rows_of(model[3], 4)
        difference = [[a - b for a, b in zip(rows[0], row, strict=True)] for row in rows]
        true, _ = exact_affine(difference, offsets, lower, upper)
        margins = exact(margin_bounds(model, ball, torch.tensor([0])))
        assert all(ours <= exactly for ours, exactly in zip(margins, true, strict=True))
        inner = naive_ibp(model[:3], ball)
        weight = model[3].weight[0] - model[3].weight
        center, radius = (inner.lower + inner.upper) / 2, (inner.upper - inner.lower) / 2
        naive = exact(F.linear(center, weight) - F.linear(radius, weight.abs()))
        naive_is_right += all(ours <= exactly for ours, exactly in zip(naive, true, strict=True))
    assert naive_is_right < 25


@pytest.mark.parametrize("entry", [0.1, 0.11, 0.12])
def test_long_sums(entry: float):
    """Equal products are rounded alike, so that errors add up: catches a constant that does not grow with the sum."""
    model, center = nn.Sequential(nn.Linear(20_000, 2, bias=False)), torch.full((1, 20_000), 0.7)
    with torch.no_grad():
        model[0].weight[0] = entry
        model[0].weight[1] = 0.0
    product = 20_000 * Fraction(center[0, 0].item()) * Fraction(model[0].weight[0, 0].item())
    ball = LpBall(center, 0.0)
    assert encloses(ibp(model, ball), [product, Fraction(0)], [product, Fraction(0)])
    margins = margin_bounds(model, ball, torch.tensor([0]))
    assert Fraction(margins[0, 1].item()) <= product
    assert -margin_bounds(model, ball, torch.tensor([1]))[0, 0].item() >= product
    error = abs(Fraction(model(center)[0, 0].item()) - product) / product
    assert error > 20 * Fraction(torch.finfo(torch.float32).eps)
    assert ibp(model, ball).upper[0, 0].item() <= 1.01 * product


class RunningSum(nn.Module):
    """A sum whose order is known: each term is added to what came before."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)[:, -1:]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("bound", [ibp, crown], ids=["ibp", "crown"])
def test_a_sum_that_loses_all_it_may(bound: Callable[..., Interval], sign: float):
    """Just less than half a unit, added to 1, is lost each time: the worst case of error analysis is attained.

    Catches rounding terms of captured networks that are a part of what they have to be.
    """
    x = torch.full((1, 256), sign * 2.0**-53 * (1 - 2.0**-10), dtype=torch.float64)
    x[0, 0] = sign
    true, model = sum(exact(x)), RunningSum()
    assert abs(Fraction(model(x).item()) - true) > 254 * Fraction(2) ** -53
    found = bound(capture(model, x), LpBall(x, 0.0, low=None, high=None))
    assert encloses(found, [true], [true])
    assert (found.upper - found.lower).item() < 1e-12


def exact_reach(row: Exact, radius: Fraction, norm: float) -> mpmath.mpf:
    """``radius * ||row||_q`` to 60 digits."""
    q = mpmath.mpf(norm) / (mpmath.mpf(norm) - 1)
    power = mpmath.fsum(mpmath.power(abs(mpmath.mpf(w.numerator) / w.denominator), q) for w in row if w)
    return mpmath.power(power, 1 / q) * radius.numerator / radius.denominator


@pytest.mark.parametrize("norm", [2.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("std", [0.3081, 1e-10])
def test_dual_norms_enclose_exact_dual_norms(std: float, dtype: torch.dtype, norm: float):
    """Catches slack that is missing in the norm; and squares of weights that underflow before they are divided by std.

    With std = 1e-10 and weights of 1e-23, float32 gave a reach of 1e-19 instead of 1e-13.
    """
    with mpmath.workdps(60):
        for seed in range(10):
            draw = torch.Generator().manual_seed(seed)
            model = nn.Sequential(Normalize((0.1307,), (std,)), nn.Linear(6, 4)).to(dtype)
            with torch.no_grad():
                scale = 1.0 if std > 1e-3 else 1e-23 if dtype == torch.float32 else 1e-170
                model[1].weight.copy_(scale * torch.randn(4, 6, generator=draw, dtype=torch.float64))
                model[1].bias.zero_()
            ball = LpBall(torch.full((1, 6), 0.1307, dtype=dtype), 0.01, norm, None, None)
            (scales, shifts), (rows, _) = rows_of(model[0], 6), rows_of(model[1], 6)
            point = [scales[j][j] * c + shifts[j] for j, c in enumerate(exact(ball.center))]
            interval = ibp(model, ball)
            for i, row in enumerate(rows):
                middle = sum(w * x for w, x in zip(row, point, strict=True))
                spread = [w * scales[j][j] for j, w in enumerate(row)]
                reach = exact_reach(spread, Fraction(ball.radii.item()), norm)
                below = middle - Fraction(interval.lower[0, i].item())
                above = Fraction(interval.upper[0, i].item()) - middle
                assert mpmath.mpf(below.numerator) / below.denominator >= reach
                assert mpmath.mpf(above.numerator) / above.denominator >= reach


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_that_underflow_are_not_lost(dtype: torch.dtype, norm: float):
    """Relative error bounds say nothing below the smallest normal number; a product there may become 0."""
    tiny = torch.finfo(dtype).tiny
    model = nn.Sequential(nn.Linear(6, 2, bias=False)).to(dtype)
    with torch.no_grad():
        model[0].weight.fill_(tiny**0.6)
    ball = LpBall(torch.full((1, 6), tiny**0.6, dtype=dtype), tiny**0.7, norm, 0.0, 1.0)
    assert (model(ball.center) == 0).all()
    assert (naive_ibp(model, ball).upper == 0).all()
    corner = LpBall(ball.center, 0.0)  # in both balls
    assert encloses(ibp(model, ball), *exact_ibp(model, corner))
    if norm == math.inf:
        assert encloses(ibp(model, ball), *exact_ibp(model, ball))


@pytest.mark.parametrize("method", [crown, crown_ibp])
def test_products_that_underflow_behind_a_layer_are_not_lost(method: Callable[..., Interval]):
    """In float64, which nothing wider computes: 6 products of 1e-185 and 1e-185 are 0 there, and above 0 in truth."""
    tiny = torch.finfo(torch.float64).tiny ** 0.6
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(6))
        model[2].weight.fill_(tiny)
    ball = LpBall(torch.full((1, 6), tiny, dtype=torch.float64), tiny**1.2, math.inf, 0.0, 1.0)
    assert (model(ball.center) == 0).all()
    assert Fraction(method(model, ball).upper.min().item()) >= 6 * Fraction(tiny) ** 2


@pytest.mark.parametrize("center", [0.0, 1e-30, 0.1, 0.9999])
@pytest.mark.parametrize("radius", [0.0, 1e-60, 1e-30, 1e-9, 0.1, 1 / 3])
def test_hull_encloses_the_exact_ball(center: float, radius: float):
    """Catches ``center - radius`` rounded to nearest, and a radius or a side rounded inward by the dtype."""
    ball = LpBall(torch.full((1, 2), center), radius, low=-0.11, high=1 + 1e-9)
    hull = ball.hull()
    low, high = Fraction(-0.11), Fraction(1 + 1e-9)  # float32 rounds both inward
    lower = max(low, Fraction(ball.center[0, 0].item()) - Fraction(radius))
    upper = min(high, Fraction(ball.center[0, 0].item()) + Fraction(radius))
    assert encloses(hull, [lower] * 2, [upper] * 2)
    assert hull.upper.max() <= 1 + 2e-7
    assert hull.lower.min() >= -0.11 - 2e-8
    torch.testing.assert_close(hull.upper, torch.full((1, 2), float(upper)), rtol=1e-6, atol=1e-24)


def test_hull_without_rounding_would_not():
    wrong = 0
    for seed in range(30):
        ball = small_ball(seed, torch.float32)
        rough = Interval((ball.center - ball.radii).clamp(min=0.0), (ball.center + ball.radii).clamp(max=1.0))
        assert encloses(ball.hull(), *exact_hull(ball))
        wrong += not encloses(rough, *exact_hull(ball))
    assert wrong > 15


def test_a_sum_too_long_for_its_dtype_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_computes_double", lambda device: False)
    model = nn.Sequential(nn.Linear(2000, 2)).half()
    with pytest.raises(ValueError, match=r"sums of 2006 terms in torch\.float16 have no useful error bound"):
        ibp(model, LpBall(torch.zeros(1, 2000, dtype=torch.float16), 0.1))


@pytest.mark.parametrize("bound", [ibp, crown])
def test_products_that_vanish_in_single_precision_still_count(bound: Callable[..., Interval]):
    """1e-30 times 1e-20 is 0 in float32, and above 0 in real arithmetic."""
    model, x = nn.Linear(1, 1, bias=False), torch.tensor([[1e-20]])
    for sign in (1.0, -1.0):
        nn.init.constant_(model.weight, sign * 1e-30)
        exact = Fraction(model.weight.item()) * Fraction(x.item())
        found = bound(capture(model, x), LpBall(x, 0.0, low=None, high=None))
        assert Fraction(found.lower.item()) <= exact <= Fraction(found.upper.item())
