"""The memory setting is kept: tensors that are held at the same time are counted, for inputs and for rows."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.memory import live_tensors
from torch import Tensor, nn

import bounds
from bounds.linear import refined

METHODS: dict[str, Callable[..., bounds.Interval]] = {
    "ibp": bounds.ibp,
    "crown_ibp": bounds.crown_ibp,
    "fast_lin": bounds.fast_lin,
    "crown": bounds.crown,
    "alpha_crown": lambda *given, **settings: bounds.alpha_crown(*given, 2, **settings),
}
MEMORY = 2**20
DERIVED = 2**20  # bytes that are derived from weights alone


class Block(nn.Module):
    """Two convolutions around a skip, which halves the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, 2, 1)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1)
        self.skip = nn.Conv2d(channels, 2 * channels, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.norm(self.first(x)).relu()) + self.skip(x)).relu()


def ending(*layers: nn.Module, size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(size, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: ending(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), size=4 * 64),
    "residual": lambda: ending(Block(4), size=8 * 16),
    "grouped": lambda: ending(nn.Conv2d(4, 8, 3, 2, 1, groups=4), nn.ReLU(), size=8 * 16),
    "dilated": lambda: ending(nn.Conv2d(4, 4, 3, 1, 2, dilation=2), nn.ReLU(), size=4 * 64),
    "transposed": lambda: ending(
        nn.AvgPool2d(2), nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), size=4 * 64
    ),
}


def captured(name: str, count: int, norm: float) -> tuple[bounds.Graph, bounds.LpBall]:
    """A network with random weights, and balls in which most neurons are unstable."""
    torch.manual_seed(0)
    x = torch.rand(count, 2, 8, 8)
    radius = 0.1 if norm == math.inf else 1.0
    return bounds.capture(NETWORKS[name]().eval().requires_grad_(False), x), bounds.LpBall(x, radius, norm=norm)


def peak(
    monkeypatch: pytest.MonkeyPatch, graph: bounds.Graph, ball: bounds.LpBall, method: str, memory: int
) -> tuple[int, bounds.Interval]:
    """Bytes that are held at most besides constants, which are bound before."""
    monkeypatch.setattr(refined, "keep_freed_memory", lambda: None)  # 32 MiB that are never touched
    graph._bound.clear()
    with torch.no_grad(), live_tensors() as counted:
        found = METHODS[method](graph, ball, memory=memory)
    return counted.peak, found


@pytest.mark.slow
@pytest.mark.parametrize("norm", [math.inf, 2])
@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_inputs_are_bounded_in_parts(monkeypatch, method: str, norm: float):
    graph, ball = captured("plain", 100, norm)
    whole, found = peak(monkeypatch, graph, ball, method, 2**40)
    kept, same = peak(monkeypatch, graph, ball, method, MEMORY)
    assert kept <= MEMORY + DERIVED < whole
    assert torch.allclose(found.lower, same.lower, atol=1e-6)
    assert torch.allclose(found.upper, same.upper, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [math.inf, 2])
@pytest.mark.parametrize("method", ["crown", "alpha_crown"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_are_bounded_in_parts(monkeypatch, name: str, method: str, norm: float):
    """Also behind strided, grouped, dilated and transposed convolutions."""
    graph, ball = captured(name, 4, norm)
    whole, found = peak(monkeypatch, graph, ball, method, 2**40)
    kept, same = peak(monkeypatch, graph, ball, method, MEMORY)
    assert kept <= MEMORY + DERIVED
    assert kept < whole
    assert torch.allclose(found.lower, same.lower, rtol=1e-2, atol=1e-3)  # an ascent meets other rows
    assert torch.allclose(found.upper, same.upper, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_layer_by_layer_inputs_are_bounded_in_parts(monkeypatch, norm: float):
    """A sequential network is not captured for intervals."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 4))
    model.requires_grad_(False)
    ball, labels = bounds.LpBall(torch.rand(400, 20), 0.1, norm=norm), torch.arange(400) % 4
    found = {}
    for memory in (2**40, MEMORY):
        with live_tensors() as counted:
            found[memory] = bounds.margin_bounds(model, ball, labels, "ibp", memory=memory), counted
    assert found[MEMORY][1].peak <= MEMORY + DERIVED < found[2**40][1].peak
    assert torch.allclose(found[MEMORY][0], found[2**40][0], atol=1e-5)
    with live_tensors() as counted:
        bounds.ibp(model, ball, memory=MEMORY)
    assert counted.peak <= MEMORY + DERIVED


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_parts_name_rows_among_all(method: str):
    graph, ball = captured("plain", 6, math.inf)
    labels = torch.tensor([0, 1, 2, 3, 9, 0])
    with pytest.raises(bounds.InvalidInput, match="got 9 in row 4"):
        bounds.margin_bounds(graph, ball, labels, method, memory=1)
    with pytest.raises(bounds.InvalidInput, match=r"shape \(6,\), got \(5,\)"):
        bounds.margin_bounds(graph, ball, labels[:5], method, memory=1)


def test_sets_that_cannot_be_taken_apart_stay_together():
    class Around(bounds.PerturbationSet):
        """A box of one's own, without rows."""

        def __init__(self, center: Tensor) -> None:
            self.center = center

        def hull(self) -> bounds.Interval:
            return bounds.Interval(self.center - 0.01, self.center + 0.01)

        def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
            return (slopes * reach).sum(-1), reach

    graph, ball = captured("plain", 3, math.inf)
    found, usual = (bounds.crown_ibp(graph, Around(ball.center), memory=memory) for memory in (1, 2**40))
    assert torch.allclose(found.lower, usual.lower, atol=1e-6)


def test_all_inputs_train_together():
    """Gradients of parts would hold everything all the same."""
    graph, ball = captured("plain", 3, math.inf)
    weights = [weight.requires_grad_() for weight in graph.program.state_dict.values()]
    bounds.crown_ibp(graph, ball, memory=1).lower.sum().backward()
    first = [weight.grad.clone() for weight in weights]
    graph.program.module().zero_grad()
    bounds.crown_ibp(graph, ball, memory=2**40).lower.sum().backward()
    for weight, gradient in zip(weights, first, strict=True):
        assert torch.allclose(weight.grad - gradient, gradient, rtol=1e-3) or torch.allclose(weight.grad, gradient)
