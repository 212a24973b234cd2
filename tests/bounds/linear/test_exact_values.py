"""Tiny networks of extreme weights, biases and inputs, whose values are computed in fractions: no bound may pass them.

In floating point such a network cancels, overflows and underflows, and its bounds with it.
"""

import math
import random
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import bounds

CLASSES, POINTS = 3, 8
METHODS = {
    "ibp": bounds.ibp,
    "crown_ibp": bounds.crown_ibp,
    "fast_lin": bounds.fast_lin,
    "crown": bounds.crown,
    "forward": bounds.forward_linear,
}
Exact = list[Fraction]


def extreme(draw: random.Random, features: int, dtype: torch.dtype) -> nn.Sequential:
    """A ReLU network whose weights and biases have sizes of their own in each layer."""
    layers: list[nn.Module] = []
    size = draw.choice([0.0, 3.0, 10.0, 30.0 if dtype == torch.float32 else 150.0])
    for width in [draw.randint(1, 4) for _ in range(draw.randint(1, 2))]:
        layer = nn.Linear(features, width, dtype=torch.float64)
        layer.weight.data *= 10 ** draw.uniform(-size / 2, size / 2)
        layer.bias.data *= draw.choice([0.0, 10 ** draw.uniform(-size, size)])
        layers += [layer, draw.choice([nn.ReLU(), nn.Hardtanh(-0.5, 2.0)])]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, CLASSES, dtype=torch.float64)).to(dtype).requires_grad_(False)


def exactly(model: nn.Sequential, x: Exact) -> Exact:
    for layer in model:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.double().tolist(), layer.bias.double().tolist(), strict=True)
            x = [sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(b)) for row, b in rows]
        else:
            low, high = (-0.5, 2.0) if isinstance(layer, nn.Hardtanh) else (0.0, math.inf)
            x = [max(v, Fraction(low)) if high == math.inf else min(max(v, Fraction(low)), Fraction(high)) for v in x]
    return x


def sets(draw: random.Random, x: Tensor, reach: float) -> tuple[bounds.PerturbationSet, list[Exact]]:
    """A set around the only input, and points of it."""
    kind, features = draw.choice(["box", "l1", "linf", "hull"]), x.shape[1]
    if kind in ("l1", "linf"):
        moved = [[Fraction(draw.choice([-reach, reach])) for _ in range(features)] for _ in range(POINTS)]
        for move in moved if kind == "l1" else ():
            kept = draw.randrange(features)
            move[:] = [each if place == kept else Fraction(0) for place, each in enumerate(move)]
        center = [Fraction(entry) for entry in x[0].tolist()]
        points = [[c + m for c, m in zip(center, move, strict=True)] for move in moved]
        return bounds.LpBall(x, reach, 1 if kind == "l1" else math.inf, None, None), points
    lower = x.unsqueeze(1) + reach * torch.randn(1, 3, features, dtype=x.dtype)
    upper = lower + reach * torch.rand_like(lower)
    corners = [[draw.choice(pair) for pair in zip(*sides, strict=True)] for sides in _boxes(lower, upper, POINTS)]
    if kind == "hull":
        middle = [sum(entry, Fraction(0)) / POINTS for entry in zip(*corners, strict=True)]
        return bounds.HullOfBoxes(lower, upper), [*corners, middle]
    return bounds.Box(lower[:, 0], upper[:, 0]), corners[::3]


def _boxes(lower: Tensor, upper: Tensor, count: int) -> list[tuple[Exact, Exact]]:
    found = [
        tuple([Fraction(v) for v in side[0, place % 3].tolist()] for side in (lower, upper)) for place in range(count)
    ]
    return found  # type: ignore[return-value]


def not_above(bound: float, value: Fraction) -> bool:
    """Whether a lower bound holds; NaN does not."""
    return bound == -math.inf or (math.isfinite(bound) and Fraction(bound) <= value)


def check(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float64])
    features = draw.randint(1, 3)
    model = extreme(draw, features, dtype)
    size = 10 ** draw.uniform(-20, 12)
    ball, points = sets(draw, (torch.randn(1, features) * size).to(dtype), size * draw.choice([0.0, 1e-7, 0.1, 3.0]))
    values = [exactly(model, point) for point in points]
    graph = bounds.capture(model, ball.double().center)
    for name, method in METHODS.items():
        found = method(graph, ball)
        for lower, upper, *own in zip(found.lower[0].tolist(), found.upper[0].tolist(), *values, strict=True):
            assert all(not_above(lower, v) and not_above(-upper, -v) for v in own), (name, seed)
    rows = torch.randn(1, 2, CLASSES, dtype=torch.float64)
    form, pairs = bounds.linear_forms(graph, ball, rows), bounds.pairwise_margins(graph, ball)[0].tolist()
    for point, value in zip(points, values, strict=True):
        assert all(not_above(pairs[j][k], value[j] - value[k]) for j in range(CLASSES) for k in range(CLASSES)), seed
        for slope, constant, row in zip(
            form.slope[0].tolist(), form.constant[0].tolist(), rows[0].tolist(), strict=True
        ):
            exact = _dot(row, value) - _dot(slope, point)
            assert not_above(constant, exact), seed


def _dot(row: list[float], values: Exact) -> Fraction:
    return sum((Fraction(r) * v for r, v in zip(row, values, strict=True)), Fraction(0))


def test_no_bound_passes_an_exact_value():
    check(13)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20, 10))
def test_no_bound_passes_any_of_many_exact_values(first: int):
    for seed in range(first, first + 10):
        check(seed)
