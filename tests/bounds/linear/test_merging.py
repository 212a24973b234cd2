"""Layers merged with shifts and factors: the same bounds and gradients as without, and only where that is allowed."""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.linear import network as networks
from bounds.linear.network import Network
from bounds.operations.node import Node


class Through(nn.Module):
    """A convolution, something behind it, a ReLU and a last layer."""

    def __init__(self, behind: Callable[[nn.Module, Tensor], Tensor], **settings: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, **settings)
        self.norm = nn.BatchNorm2d(4)
        self.by_place = nn.Parameter(1 + torch.rand(1, 1, 1, 6))
        self.last = nn.Linear(4 * 36, 3)
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.behind(self, self.conv(x)).relu().flatten(1))


def rows(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 6), *middle, nn.ReLU(), nn.Linear(6, 3))


MERGED: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: Through(lambda self, y: self.norm(y)),
    "groups, no bias": lambda: Through(lambda self, y: self.norm(y), groups=2, bias=False),
    "of rows": lambda: rows(nn.BatchNorm1d(6)),
    "divided": lambda: Through(lambda self, y: (y - self.conv.bias.view(4, 1, 1)) / self.norm.weight.view(4, 1, 1)),
}
APART: dict[str, Callable[[], nn.Module]] = {
    "taken twice": lambda: Through(lambda self, y: self.norm(y) + y),
    "by place": lambda: Through(lambda self, y: y * self.by_place),
    "taken away": lambda: Through(lambda self, y: self.norm.bias.view(4, 1, 1) - y),
    "scalar": lambda: Through(lambda self, y: 2 * y),
}


def problem(make: Callable[[], nn.Module]) -> tuple[bounds.Graph, nn.Module, bounds.LpBall, Tensor]:
    torch.manual_seed(0)
    model = make().double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for part in (layer.weight.data, layer.running_var):
                part.uniform_(0.3, 2.0)
            layer.weight.data[1] *= -1
            for part in (layer.bias.data, layer.running_mean):
                part.normal_()
    x = torch.rand(3, 2, 6, 6, dtype=torch.float64)
    return bounds.capture(model.eval(), x), model, bounds.LpBall(x, 0.05), torch.tensor([0, 1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
@pytest.mark.parametrize("make", [*MERGED.values(), *APART.values()], ids=[*MERGED, *APART])
def test_bounds_are_those_with_rounding(make: Callable[[], nn.Module], method: str):
    """Bounds are those that are found without merging, up to rounding."""
    graph, _, ball, labels = problem(make)
    merged, usual = (bounds.margin_bounds(graph, ball, labels, method, sound=sound) for sound in ("real", "rounding"))
    assert (merged - usual).abs().max() <= 1e-10
    assert (merged - usual).abs().max() > 0


@pytest.mark.parametrize("name", [*MERGED, *APART])
@pytest.mark.slow
def test_nodes_are_fewer_only_where_nothing_else_takes_them(name: str):
    graph, _, ball, _ = problem((MERGED | APART)[name])
    merged, usual = (len(Network(graph, ball, sound=sound).nodes) for sound in ("real", "rounding"))
    assert (merged < usual) == (name in MERGED)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
@pytest.mark.parametrize("make", MERGED.values(), ids=MERGED)
def test_gradients_reach_all_weights(monkeypatch, make: Callable[[], nn.Module], method: str):
    """Also in the second step, which takes over examples of the first."""
    graph, model, ball, labels = problem(make)
    weights = [weight for weight in model.parameters() if weight.numel() != 6 or weight.ndim != 4]

    def gradients() -> tuple[Tensor, ...]:
        loss = bounds.margin_bounds(graph, ball, labels, method, sound="real").sum()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    with torch.no_grad():
        bounds.margin_bounds(graph, ball, labels, method, sound="real")  # what this keeps must not be taken up
    first, second = gradients(), gradients()
    monkeypatch.setattr(networks, "with_merged_layers", lambda nodes: nodes)
    for one, two, expected in zip(first, second, gradients(), strict=True):
        if expected is not None:
            assert torch.allclose(one, expected, atol=1e-9)
            assert torch.allclose(two, expected, atol=1e-9)


@pytest.mark.parametrize("sound", ["real", "rounding"])
def test_of_large_kernels_nothing_is_kept(sound: str, monkeypatch: pytest.MonkeyPatch):
    """Neither scaled copies nor absolute values; bounds stay the same."""
    graph, model, ball, labels = problem(MERGED["batch norm"])
    model.requires_grad_(False)
    usual = bounds.margin_bounds(graph, ball, labels, "crown", sound=sound)
    for name in ("affine", "merging"):  # the first is also the name of a function of the package
        monkeypatch.setattr(import_module(f"bounds.operations.{name}"), "LARGEST_KEPT", 1)
    graph = bounds.capture(model, ball.center)
    assert (bounds.margin_bounds(graph, ball, labels, "crown", sound=sound) - usual).abs().max() <= 1e-10
    kernels = [node for node in graph.bind(ball.center).values() if "conv2d" in node.operation]
    assert kernels
    for node in kernels:
        derived = [node.cache, *(part.cache for part in node.cache.values() if isinstance(part, Node))]
        assert not any("size" in cache for cache in derived)
        weights = [part.arguments[1] for part in node.cache.values() if isinstance(part, Node)]
        assert all(weight is node.arguments[1] for weight in weights)
