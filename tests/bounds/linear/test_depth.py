"""Backward passes of inner nodes that end early: sound, between intervals and full passes, and refused below 0."""

import math

import pytest
import torch
from oracles.networks import escapes
from torch import Tensor, nn

import bounds
from bounds.linear import refined
from bounds.linear.network import Network
from bounds.linear.passes.backward_pass import Pass
from bounds.linear.refined import RefinedNetwork

DEPTHS = (0, 1, 2, None)


class Residual(nn.Module):
    """Two blocks, each with one function next to a skip."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((6, 12), (12, 12), (12, 12), (12, 12), (12, 12), (12, 3))
        self.layers = nn.ModuleList(nn.Linear(*size, dtype=torch.float64) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        first, *inner, last = self.layers
        h = first(x).relu()
        for one, other in (inner[:2], inner[2:]):
            h = (h + other(one(h).relu())).relu()
        return last(h)


class Ways(nn.Module):
    """One function behind two ways, or two operations that mix entries on one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        sizes = ((6, 8), (8, 8), (8 if kind != "repeated" else 64, 8), (8, 3))
        self.layers = nn.ModuleList(nn.Linear(*size, dtype=torch.float64) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, last = self.layers
        h = first(x).relu()
        if self.kind == "repeated":
            between = third((h.unsqueeze(1) + second(h).relu().unsqueeze(2)).flatten(1))
        elif self.kind == "twice":
            between = third(second(h))
        else:
            between = h + second(h) if self.kind == "sum" else h - second(h)
        return last(between.relu())


def problem(norm: float, seed: int = 0) -> tuple[nn.Module, bounds.LpBall]:
    torch.manual_seed(seed)
    model = Residual().requires_grad_(False)
    return model, bounds.LpBall(torch.rand(4, 6, dtype=torch.float64), 0.2, norm=norm, low=None, high=None)


@pytest.mark.parametrize("norm", [math.inf, 2])
@pytest.mark.slow
def test_every_depth_holds_and_deeper_is_closer(norm: float):
    model, ball = problem(norm)
    loose = bounds.crown_ibp(model, ball)
    before = (loose.upper - loose.lower).mean()
    for depth in DEPTHS:
        found = bounds.crown(model, ball, depth=depth)
        assert escapes(model, ball, found) == 0
        assert (found.lower >= loose.lower).all()
        assert (found.upper <= loose.upper).all()
        width = (found.upper - found.lower).mean()
        assert width < before or depth == 0
        before = width


@pytest.mark.parametrize("kind", ["sum", "difference", "twice", "repeated"])
def test_passes_are_left_out_only_where_they_gain_nothing(kind: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = Ways(kind).requires_grad_(False)
    ball = bounds.LpBall(torch.rand(4, 6, dtype=torch.float64), 0.2, low=None, high=None)
    found, cheaper = bounds.crown(model, ball, depth=0), bounds.crown_ibp(model, ball)
    monkeypatch.setattr(refined, "known_by_intervals", lambda network: set())
    every = bounds.crown(model, ball, depth=0)
    torch.testing.assert_close(found.lower, every.lower, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.upper, every.upper, rtol=0, atol=1e-12)
    assert (found.lower > cheaper.lower).any()


def test_blocks_with_a_skip_need_no_inner_passes_at_depth_0(monkeypatch: pytest.MonkeyPatch):
    model, ball = problem(math.inf)
    passed, least = [], Pass.least

    def counted(self: Pass) -> Tensor:
        passed.append(self.name)
        return least(self)

    monkeypatch.setattr(Pass, "least", counted)
    labels = torch.zeros(4, dtype=torch.int64)
    found = bounds.margin_bounds(model, ball, labels, "crown", depth=0)
    assert set(passed) == {"output"}
    assert torch.equal(found, bounds.margin_bounds(model, ball, labels, "crown_ibp"))


@pytest.mark.parametrize("depth", [5, 9])
def test_the_depth_of_the_network_is_no_limit(depth: int):
    model, ball = problem(math.inf)
    network = Network(model, ball)
    loose, full = RefinedNetwork(network), RefinedNetwork(network, tighten=True)
    whole, limited = full.output() & loose.output(), bounds.crown(model, ball, depth=depth)
    torch.testing.assert_close(whole.lower, limited.lower, rtol=0, atol=1e-9)
    torch.testing.assert_close(whole.upper, limited.upper, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_margins_have_the_depth_too():
    model, ball = problem(math.inf)
    labels = model(ball.center).argmax(1)
    found = [bounds.margin_bounds(model, ball, labels, "crown", depth=depth).sum() for depth in DEPTHS]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_depths_below_zero_are_refused():
    model, ball = problem(math.inf)
    with pytest.raises(bounds.InvalidInput, match="depth must be an integer of at least 0, got -1"):
        bounds.crown(model, ball, depth=-1)
    with pytest.raises(bounds.InvalidInput, match="depth must be an integer of at least 0, got -1"):
        bounds.margin_bounds(model, ball, torch.zeros(4, dtype=torch.int64), "crown", depth=-1)
