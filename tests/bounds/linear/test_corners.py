"""Intervals over hulls of few boxes, against points of the hulls and against backward passes."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.linear import settled
from bounds.linear.network import Network
from bounds.linear.passes import corners
from bounds.linear.passes.corners import corner_intervals
from bounds.linear.refined import RefinedNetwork


class Both(nn.Module):
    """A residual block whose skip connection meets a product of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.one(x)) * self.other(x)


def convolutional() -> nn.Sequential:
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "convolutional": convolutional,
    "smooth": lambda: nn.Sequential(nn.Flatten(), nn.Linear(70, 8), nn.GELU(), nn.Linear(8, 6), nn.Tanh()),
    "pooled": lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)),
    "branches": lambda: nn.Sequential(Both(), nn.ReLU(), nn.Flatten(), nn.Linear(70, 3)),
}


@cache
def graph(kind: str) -> bounds.Graph:
    torch.manual_seed(3)
    return bounds.capture(NETWORKS[kind]().double().eval(), torch.zeros(3, 2, 5, 7, dtype=torch.float64))


def network(kind: str, count: int = 4, thickness: float = 0.0, sound: str = "rounding") -> Network:
    """A random network over hulls of so many boxes of images around which pixels move together."""
    middle = torch.rand(3, 1, 2, 5, 7, generator=generator(1), dtype=torch.float64)
    lower = middle + 0.4 * torch.randn(3, count, 2, 5, 7, generator=generator(2), dtype=torch.float64)
    return Network(graph(kind), bounds.HullOfBoxes(lower, lower + thickness), sound=sound)


@pytest.mark.parametrize(
    "kind", ["convolutional", *(pytest.param(k, marks=pytest.mark.slow) for k in list(NETWORKS)[1:])]
)
@pytest.mark.parametrize("thickness", [0.0, 0.05])
def test_intervals_hold_at_mixtures_of_points_of_the_boxes(kind: str, thickness: float):
    found = network(kind, thickness=thickness)
    intervals, lower = corner_intervals(found), found.ball.lower
    shares = torch.rand(3, 60, 4, generator=generator(5), dtype=torch.float64) ** 4
    shares[:, :4] = torch.eye(4)
    shares = shares / shares.sum(2, keepdim=True)
    at = torch.rand(3, 60, *lower.shape[2:], generator=generator(6), dtype=torch.float64)
    x = torch.einsum("npv,nv...->np...", shares, lower) + thickness * at
    for point in x.unbind(1):
        values = {found.order[0]: point}
        for name, node in found.nodes.items():
            if name not in values:
                values[name] = node.function(*(values[key] for key in node.parents))
            assert (intervals[name].lower <= values[name] + 1e-12).all()
            assert (intervals[name].upper >= values[name] - 1e-12).all()


def test_intervals_behind_one_function_are_those_of_backward_passes(monkeypatch):
    found = network("convolutional")
    forward = RefinedNetwork(found).refine().intervals
    monkeypatch.setattr(corners, "hull_of_few", lambda _: None)
    passes: list[bounds.Interval] = []
    for parallel in (False, True):
        passes.append(RefinedNetwork(found, tighten=True, parallel=parallel).refine().intervals)
    count = 0
    for name in settled._behind_one_function(found, {found.order[0], "conv2d"}):
        if name in found.functions or not found.consumers(name):
            continue
        both = passes[0][name] & passes[1][name]
        unstable = (both.lower < 0) & (both.upper > 0)
        assert torch.allclose(forward[name].lower[unstable], both.lower[unstable], atol=1e-9)
        assert torch.allclose(forward[name].upper[unstable], both.upper[unstable], atol=1e-9)
        count += int(unstable.sum())
    assert count > 10


def test_margins_are_no_lower_and_cost_no_passes(monkeypatch):
    labels = torch.tensor([0, 1, 2])
    found = network("convolutional")
    rows: list[str] = []
    inner = RefinedNetwork._of_entries

    def counting(self: RefinedNetwork, name: str, *arguments: object, **options: object) -> bounds.Interval:
        rows.append(name)
        return inner(self, name, *arguments, **options)

    monkeypatch.setattr(RefinedNetwork, "_of_entries", counting)
    margins = bounds.margin_bounds(graph("convolutional"), found.ball, labels, "crown")
    assert set(rows) == {"linear"}  # the layers before are known
    monkeypatch.setattr(corners, "hull_of_few", lambda _: None)
    before = bounds.margin_bounds(graph("convolutional"), found.ball, labels, "crown")
    assert len(set(rows)) > 1
    assert (margins >= before - 1e-9).all()


def test_boxes_that_are_thick_leave_passes_in_place():
    assert corners.has_thin_corners(network("convolutional"))
    assert not corners.has_thin_corners(network("convolutional", thickness=0.05))
    assert corners.hull_of_few(network("convolutional", count=corners.MOST + 1)) is None


@pytest.mark.slow
@pytest.mark.parametrize("sound", ["real", "deployed"])
def test_other_modes_hold_what_real_arithmetic_does(sound: str):
    torch.manual_seed(3)
    model = convolutional().eval()
    lower = torch.rand(2, 2, 2, 5, 7, generator=generator(2))
    ball = bounds.HullOfBoxes(lower, lower)
    real = corner_intervals(Network(model, ball, sound="rounding"))
    found = corner_intervals(Network(model, ball, sound=sound))
    for name, interval in found.items():
        apart = 1e-5 if sound == "real" else 0.0  # which is in float32
        assert (interval.lower <= real[name].lower + apart).all()
        assert (interval.upper >= real[name].upper - apart).all()
