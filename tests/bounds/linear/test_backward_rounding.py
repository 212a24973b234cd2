"""Backward bounds against the same relaxation in exact rational arithmetic: rounding falls on the safe side.

The intervals and the lines are those of the engine, as rational numbers. What is left are the sums of the backward
pass, which the bound may never exceed; without rounding terms it does.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall
from bounds.linear import precision
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork

Exact = list[Fraction]
WIDTHS = (6, 9, 9, 3)


def exact(values: Tensor) -> Exact:
    return [Fraction(value) for value in values.detach().flatten().tolist()]


def networks(count: int, dtype: torch.dtype) -> Iterator[tuple[nn.Sequential, LpBall]]:
    for seed in range(count):
        draw = generator(seed)
        layers: list[nn.Module] = []
        for before, behind in pairwise(WIDTHS):
            linear = nn.Linear(before, behind, dtype=dtype)
            linear.weight.data = torch.randn(behind, before, generator=draw, dtype=dtype)
            linear.bias.data = torch.randn(behind, generator=draw, dtype=dtype)
            layers += [linear, nn.LeakyReLU(0.1) if seed % 2 else nn.ReLU()]
        x = torch.rand(1, WIDTHS[0], generator=draw, dtype=dtype)
        yield nn.Sequential(*layers[:-1]).eval(), LpBall(x, 0.05 + 0.1 * (seed % 4), low=None, high=None)


def exact_minimum(refined: RefinedNetwork, row: int) -> Fraction:
    """The least value of an output that the engine's lines allow."""
    network = refined.refine()
    nodes = [network.nodes[name] for name in reversed(network.order)]
    last, *others = [node for node in nodes if "linear" in node.operation]
    functions = [name for name in reversed(network.order) if name in network.functions]
    coefficients, constant = exact(last.arguments[1][row]), exact(last.arguments[2])[row]
    for name, affine in zip(functions, others, strict=True):
        planes = refined.backward.default_planes(name)
        (low,), (high,) = ([exact(part) for part in slopes] for slopes in (planes.lower_slopes, planes.upper_slopes))
        above = exact(planes.upper_intercept)
        assert planes.lower_intercept is None
        constant += sum((a * b for a, b in zip(coefficients, above, strict=True) if a < 0), Fraction(0))
        slopes = [a * (high[i] if a < 0 else low[i]) for i, a in enumerate(coefficients)]
        constant += sum((a * b for a, b in zip(slopes, exact(affine.arguments[2]), strict=True)), Fraction(0))
        rows = [exact(part) for part in affine.arguments[1].T]
        coefficients = [sum((a * w for a, w in zip(slopes, part, strict=True)), Fraction(0)) for part in rows]
    hull = network.ball.hull()
    ends = zip(coefficients, exact(hull.lower), exact(hull.upper), strict=True)
    return constant + sum((a * (low if a > 0 else high) for a, low, high in ends), Fraction(0))


def excess(dtype: torch.dtype, sound: str, count: int) -> list[Fraction]:
    """How far bounds lie above what the lines allow, of all outputs."""
    found = []
    for model, ball in networks(count, dtype):
        refined = RefinedNetwork(Network(model, ball, sound=sound), tighten=True)
        bounds = refined.functions(torch.eye(WIDTHS[-1], dtype=refined.refine().ball.center.dtype)[None])
        found += [Fraction(bounds[0, row].item()) - exact_minimum(refined, row) for row in range(WIDTHS[-1])]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_bound_is_above_what_its_lines_allow(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Also in float32, where devices are slow in float64."""
    monkeypatch.setattr(precision, "_computes_double", lambda device: False)
    rounded, plain = excess(dtype, "rounding", 8), excess(dtype, "real", 8)
    assert max(rounded) < 0
    assert sum(part > 0 for part in plain) > 2
    assert min(rounded) > -3e4 * torch.finfo(dtype).eps


def test_the_last_step_loses_what_a_long_sum_loses():
    """Numbers of half a unit, added to -1 one by one, are lost: the computed value is above the true one."""
    count, unit = 20_000, 2.0**-53
    x = torch.full((1, count), unit * (1 - 2.0**-10), dtype=torch.float64)
    x[0, 0] = 1.0
    model = nn.Linear(count, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, -1.0)
    refined = RefinedNetwork(Network(model, LpBall(x, 0.0, low=None, high=None)))
    bound = refined.functions(torch.ones(1, 1, 1, dtype=torch.float64)).item()
    assert Fraction(bound) <= -sum(exact(x), Fraction(0))
