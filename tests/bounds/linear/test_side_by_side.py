"""Passes of several refinements at once bound what each of them bounds alone."""

import math
from functools import cache, reduce

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Box, Graph, Interval, LpBall, SparseBall, capture
from bounds.linear.ladder import refinements, row_bounds, rungs
from bounds.linear.network import Network
from bounds.linear.passes.side_by_side import SideBySide
from bounds.linear.refined import RefinedNetwork
from bounds.memory import MEMORY
from bounds.rows import DenseRows
from bounds.sets.balls import PerturbationSet


class Skip(nn.Module):
    """Two ways that meet, with a sum over places, a transposition and a product with constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 4)
        self.register_buffer("scale", torch.linspace(-1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        y = self.second(self.first(y).relu()) + y
        y = (y.relu().reshape(-1, 2, 3).transpose(1, 2) + 1).cumsum(1).mean(2)
        return self.last(torch.tanh(y) * self.scale)


def pooling() -> nn.Sequential:
    layers = (nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.MaxPool2d(2, 1), nn.LeakyReLU(0.1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 4))


def sets(x: Tensor) -> list[PerturbationSet]:
    return [
        LpBall(x, torch.tensor([0.3, 0.6]), low=None, high=None),
        LpBall(x, 1.0, norm=2.0, low=None, high=None),
        LpBall(x, 1.0, norm=2.0, frozen_features=torch.arange(x[0].numel()).view(x.shape[1:]) % 2 == 0),
        SparseBall(x, 2),
        Box(x - 0.4, x + torch.linspace(0, 0.6, x[0].numel()).view(x.shape[1:])),
    ]


NETWORKS = [(Skip, (2, 3)), (pooling, (1, 5, 5))]


def parts(network: Network) -> list[RefinedNetwork]:
    return list(refinements(network, rungs(network, "crown"), MEMORY))


@cache
def captured(which: int) -> tuple[Graph, Tensor]:
    """A network, captured once, and two inputs."""
    make, shape = NETWORKS[which]
    torch.manual_seed(0)
    x = torch.rand(2, *shape, generator=generator(1), dtype=torch.float64)
    return capture(make().double().requires_grad_(False), x), x


def case(which: int, region: int, sound: str) -> Network:
    graph, x = captured(which)
    with torch.no_grad():
        return Network(graph, sets(x)[region], sound=sound)


def close(one: Interval, other: Interval) -> bool:
    pairs = ((one.lower, other.lower), (one.upper, other.upper))
    return all(torch.allclose(first, second, rtol=1e-12, atol=1e-12) for first, second in pairs)


@torch.no_grad()
@pytest.mark.parametrize("sound", ["real", "rounding"])
@pytest.mark.parametrize("region", range(5))
@pytest.mark.parametrize("which", range(2))
def test_outputs_and_functions_are_the_best_of_all_parts(which: int, region: int, sound: str):
    network = case(which, region, sound)
    *others, last = parts(network)
    assert SideBySide.serves([part.backward for part in (*others, last)])
    assert close(last.output(others), reduce(network.meet, [part.output() for part in (*others, last)]))
    rows = torch.randn(2, 3, 4, generator=generator(2), dtype=torch.float64)
    alone = torch.stack([part.functions(rows) for part in (*others, last)])
    backward = SideBySide([part.backward for part in (*others, last)])
    each = backward.bounds("output", DenseRows(rows.repeat(len(alone), 1, 1)), backward.region)
    assert torch.allclose(each.view_as(alone), alone, rtol=1e-12, atol=1e-12)
    assert torch.allclose(last.functions(rows, others=others), alone.amax(0), rtol=1e-12, atol=1e-12)
    assert (alone.amax(0) > alone[0]).any()  # which part is best matters


@torch.no_grad()
def test_each_part_keeps_its_own_errors():
    """With an error as large as the bounds themselves in one part, the others count."""
    network = case(0, 0, "rounding")
    *others, last = parts(network)
    plain = last.output(others)
    last.backward.rounding = lambda name: last.network.rounding(name) + 1.0
    without = [*(part.output() for part in others), last.refine().intervals["output"]]
    assert close(last.output(others), reduce(network.meet, without))
    assert not close(plain, last.output(others))


@torch.no_grad()
def test_one_row_at_a_time_gives_the_same():
    network = case(1, 0, "rounding")
    rows = torch.randn(2, 3, 4, generator=generator(2), dtype=torch.float64)
    whole, little = (row_bounds(network, rows, "crown", steps=0, memory=memory) for memory in (MEMORY, 1))
    assert torch.allclose(whole, little, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_bounded_part_by_part():
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.relu() * x).flatten(1)

    with torch.no_grad():
        ball = LpBall(torch.zeros(2, 3, dtype=torch.float64), 1.0, math.inf, low=None, high=None)
        *others, last = parts(Network(Squares(), ball))
        assert not SideBySide.serves([part.backward for part in (*others, last)])
        assert close(last.output(others), reduce(last.network.meet, [part.output() for part in (*others, last)]))
