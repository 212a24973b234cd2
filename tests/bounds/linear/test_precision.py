"""Certificates and time that rounding costs: errors of tight intervals, ends that cross, subnormal numbers."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bounds import (
    Interval,
    LpBall,
    alpha_crown,
    capture,
    crown,
    crown_ibp,
    fast_lin,
    forward_linear,
    ibp,
    margin_bounds,
)
from bounds.linear import precision
from bounds.linear.methods import METHODS
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork


def dense(depth: int, width: int, features: int = 50) -> nn.Sequential:
    """A network whose values keep their size: He's initialisation."""
    layers: list[nn.Module] = []
    sizes = [features, *[width] * depth, 10]
    for seed, (before, behind) in enumerate(pairwise(sizes)):
        linear = nn.Linear(before, behind)
        linear.weight.data = torch.randn(behind, before, generator=generator(seed)) * (2 / before) ** 0.5
        linear.bias.data.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def certified(model: nn.Module, x: Tensor, radius: float, sound: str) -> int:
    labels = model(x).argmax(1)
    margins = margin_bounds(model, LpBall(x, radius), labels, "crown", sound=sound)
    return int((margins.scatter(1, labels[:, None], 1.0) > 0).all(1).sum())


def test_a_deep_network_that_is_refined_again_has_the_errors_of_its_tight_intervals():
    """Those of the loose pass may be many times as large; a search refines what was refined before."""
    model, x = dense(5, 20), torch.rand(3, 50, generator=generator())
    network = Network(model, LpBall(x, 0.02))
    loose = RefinedNetwork(network)
    loose.output()  # which needs the errors of the loose intervals
    again, anew = (RefinedNetwork(one, tighten=True).output() for one in (loose.network, network))
    assert torch.equal(again.lower, anew.lower)
    assert torch.equal(again.upper, anew.upper)


@pytest.mark.slow
def test_a_deep_network_keeps_its_certificates_in_float32(monkeypatch: pytest.MonkeyPatch):
    model, x = dense(9, 200), torch.rand(40, 50, generator=generator())
    exact = certified(model.double(), x.double(), 2e-3, "real")
    assert 10 < exact < 40
    assert certified(model.float(), x, 2e-3, "rounding") == exact
    # On devices that are slow in float64 as well; with the errors of the loose pass, none was left.
    monkeypatch.setattr(precision, "_computes_double", lambda device: False)
    assert certified(model.float(), x, 2e-3, "rounding") >= 0.85 * exact


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.dense(self.behind(x))


class VisionTransformer(nn.Module):
    """Two blocks with a class token, whose interval is a point."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, size) / 50)
        self.positions = nn.Parameter(torch.randn(1, 5, size) / 50)
        self.blocks = nn.Sequential(Block(size), Block(size))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


BOUNDS = {"ibp": ibp, "crown_ibp": crown_ibp, "fast_lin": fast_lin, "crown": crown, "forward": forward_linear}
BOUNDS |= {"alpha_crown": partial(alpha_crown, steps=2)}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_bounds_in_single_precision_are_those_in_double_rounded_outward(bound: Callable[..., Interval], norm: float):
    model, x = dense(2, 10, 5), torch.rand(20, 5, generator=generator())
    with torch.no_grad():
        single, double = bound(model, LpBall(x, 0.1, norm)), bound(model.double(), LpBall(x.double(), 0.1, norm))
    assert single.lower.dtype == single.upper.dtype == torch.float32
    for found, wanted in ((single.lower, double.lower), (-single.upper, -double.upper)):
        assert (found.double() <= wanted).all()
        assert (torch.nextafter(found, torch.tensor(math.inf)).double() > wanted).all()


@pytest.mark.parametrize("method", METHODS)
def test_margins_in_single_precision_are_those_in_double_rounded_down(method: str):
    model, x, y = dense(2, 10, 5), torch.rand(20, 5, generator=generator()), torch.arange(20) % 10
    with torch.no_grad():
        single = margin_bounds(model, LpBall(x, 0.1), y, method)
        double = margin_bounds(model.double(), LpBall(x.double(), 0.1), y, method)
    assert single.dtype == torch.float32
    assert (single.double() <= double).all()
    assert (torch.nextafter(single, torch.tensor(math.inf)).double() > double).all()


@pytest.mark.parametrize("bound", [ibp, crown_ibp])
def test_gradients_of_bounds_in_single_precision_are_those_in_double(bound: Callable[..., Interval]):
    model, x = dense(2, 10, 5), torch.rand(4, 5, generator=generator())
    found = []
    for dtype in (torch.float32, torch.float64):
        weights = list(model.to(dtype).parameters())
        found.append(torch.autograd.grad(bound(model, LpBall(x.to(dtype), 0.1)).lower.sum(), weights))
    for single, double in zip(*found, strict=True):
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, rtol=1e-4, atol=1e-5)


def test_training_stays_in_single_precision():
    """It leaves rounding errors out, and would pay twice."""
    model, x = dense(2, 10, 5), torch.rand(4, 5, generator=generator())
    assert Network(model, LpBall(x, 0.1)).ball.center.dtype == torch.float64
    assert Network(model, LpBall(x, 0.1), sound="real").ball.center.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "sound", "most"),
    [
        (torch.float32, "real", 6),  # ends that crossed by rounding became NaN: 85,000
        (torch.float64, "rounding", 4),  # errors of the loose pass: 5,700
        (torch.float32, "rounding", 4),
    ],
    ids=str,
)
def test_a_transformer_with_a_class_token_is_bounded_tightly_in_small_balls(
    dtype: torch.dtype, sound: str, most: float
):
    """Widths of outputs, over the range of samples."""
    torch.manual_seed(0)
    model, x = VisionTransformer().to(dtype).eval(), torch.rand(1, 1, 8, 8, generator=generator(), dtype=dtype)
    radius = 1 / 25500
    found = crown(model, LpBall(x, radius), sound=sound)
    signs = torch.randint(0, 2, (2000, *x.shape[1:]), generator=generator(1)) * 2.0 - 1
    with torch.no_grad():
        y = model.double()((x.double() + radius * signs).clamp(0, 1))
    slack = 1e-9 if dtype == torch.float64 else 1e-5  # what real arithmetic leaves out
    assert ((found.lower.double() - slack <= y) & (y <= found.upper.double() + slack)).all()
    assert ((found.upper - found.lower)[0] <= most * (y.amax(0) - y.amin(0))).all()


@pytest.mark.parametrize("sound", ["real", "rounding"])
def test_ends_that_cross_by_rounding_are_exchanged_in_real_arithmetic_alone(sound: str):
    network = Network(nn.Linear(2, 1), LpBall(torch.zeros(1, 2), 0.1), sound=sound)
    ends = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])
    found = network.meet(Interval(*ends), Interval(torch.tensor([1.0, 3.1]), torch.tensor([4.0, 5.0])))
    assert found.lower.tolist() == pytest.approx([1.0, 3.0 if sound == "real" else 3.1])
    assert found.upper.tolist() == pytest.approx([2.0, 3.1 if sound == "real" else 3.0])


class Subnormal(TorchDispatchMode):
    """Counts the subnormal numbers in the results of operations, by operation."""

    # Memory that is not written yet, views of it, and the neighbours of 0.
    IDLE = ("aten.new_empty.default", "aten.slice.Tensor", "aten.permute.default", "aten.alias.default")
    IDLE += ("aten.nextafter.default",)

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: object, arguments: tuple = (), options: dict | None = None
    ) -> object:
        result = function(*arguments, **(options or {}))
        for part in tree_leaves(result):
            if isinstance(part, Tensor) and part.is_floating_point() and str(function) not in self.IDLE:
                small = (part != 0) & (part.abs() < torch.finfo(part.dtype).tiny)
                self.found[str(function)] += int(small.sum())
        return result


def convolutional() -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(36, 10)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("bound", [crown, partial(alpha_crown, steps=2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_number_is_subnormal(bound: Callable[..., Interval], dtype: torch.dtype):
    """Matrix products of them take ten times as long: stable neurons, pixels at the edge of the box, point balls."""
    for model, x in ((dense(3, 40), torch.rand(3, 50)), (convolutional(), torch.rand(2, 1, 10, 10))):
        x = x.to(dtype)
        x.flatten(1)[:, :20] = 0
        graph = capture(model.to(dtype), x)
        for ball in (LpBall(x, 0.01), LpBall(x, 0.05, 2), LpBall(x, 0.0)):
            with Subnormal() as seen:
                bound(graph, ball)
            assert sum(seen.found.values()) == 0, seen.found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bound", [ibp, crown])
def test_half_precision_loses_its_own_rounding_alone(bound: Callable[..., Interval], dtype: torch.dtype):
    """Without rounding errors too: computed in half precision, intervals around balls were 64 wide."""
    model = dense(2, 8, 4).to(dtype).eval()
    ball = LpBall(torch.full((2, 4), 0.5, dtype=dtype), 0.125, 2)
    exact = bound(dense(2, 8, 4).to(dtype).double().eval(), ball.double())
    for sound in ("real", "rounding"):
        found = bound(model, ball, sound=sound)
        for own, other in ((found.lower, exact.lower), (-found.upper, -exact.upper)):
            lost = other - own.double()
            assert (lost >= -1e-9).all()
            assert (lost <= 2 * torch.finfo(dtype).eps * (1e-3 + other.abs())).all()
