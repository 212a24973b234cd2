"""Maps that change their shape on the way: reshapes, permutations, channel shuffles and layouts in memory.

Random networks of such steps are compared with sampled outputs, with intervals, and with the same networks written as
dense matrices and activations.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Interval, LpBall, alpha_crown, capture, crown, crown_ibp, fast_lin, forward_linear, ibp

METHODS = {"ibp": ibp, "crown_ibp": crown_ibp, "fast_lin": fast_lin, "crown": crown, "forward_linear": forward_linear}
Shape = tuple[int, ...]
Step = Callable[[Tensor], Tensor]


class Then(nn.Module):
    """Functions one after another, on (N, *D)."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = steps
        self.parts = nn.ModuleList(step for step in steps if isinstance(step, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x.flatten(1)


def drawn(module: nn.Module, seed: int) -> nn.Module:
    for weight in module.parameters():
        weight.data.normal_(0, 0.5, generator=generator(seed))
    return module.double()


def as_map(shape: Shape, choice: int) -> Shape:
    """One of the ways to see all entries as a map."""
    count = math.prod(shape)
    ways = [(c, h, count // c // h) for c in (1, 2, 3, 4, 8) for h in (1, 2, 3, 4) if count % (c * h) == 0]
    return ways[choice % len(ways)]


def step_of(kind: str, shape: Shape, choice: int) -> Step:
    """A step of this kind from a map of this shape; of another kind where it does not fit."""
    channels, height, width = shape
    if kind == "conv":
        out, stride = (2, 3, 4)[choice % 3], 1 + choice % 2
        return drawn(nn.Conv2d(channels, out, (min(height, 3), min(width, 2)), stride, padding=(1, 0)), choice)
    if kind == "skip":
        layer = drawn(nn.Conv2d(channels, channels, 3, padding=1), choice)
        return Skip(layer)
    if kind == "shuffle" and channels % 2 == 0:
        return nn.ChannelShuffle(2)
    if kind == "split channels" and channels % 2 == 0:
        return lambda x: x.view(x.shape[0], 2, -1, height, width).transpose(1, 2).contiguous().view(x.shape)
    if kind == "pool":
        return nn.AvgPool2d((min(2, height), min(2, width)), stride=1)
    if kind == "rows":
        return drawn(nn.Linear(width, 1 + choice % 4), choice)
    if kind == "permute":
        order = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (0, 2, 1, 3))[choice % 4]
        return lambda x: x.permute(order)
    target = as_map(shape, choice)
    return (
        lambda x: x.reshape(x.shape[0], *target),
        lambda x: x.flatten(1).unflatten(1, target),
        lambda x: x.contiguous().view(-1, *target),
    )[choice % 3]


class Skip(nn.Module):
    """A layer whose input is added to its output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


BENDS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "max pool": lambda x: F.max_pool2d(x, (min(2, x.shape[2]), 1)),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:], eps=0.1),
    "group norm": lambda x: F.group_norm(x, 1, eps=0.1),
    "local response": lambda x: F.local_response_norm(x, 3),
}
KINDS = ("conv", "skip", "shuffle", "split channels", "pool", "rows", "permute", "reshape")
STEPS = st.lists(st.tuples(st.sampled_from([*KINDS, "reshape", *BENDS, "relu"]), st.integers(0, 11)), max_size=7)
PLAIN = st.lists(st.tuples(st.sampled_from([*KINDS, "reshape"]), st.integers(0, 11)), min_size=1, max_size=6)


def network(steps: list[tuple[str, int]], shape: Shape, *, first: Step | None = None) -> tuple[Then, list[Shape]]:
    """Perhaps an activation, the steps and a linear layer; with the shapes on the way."""
    made: list[Step] = []
    shapes, x = [shape], torch.zeros(1, *shape, dtype=torch.float64)
    if first is not None:
        made.append(first)
        shapes.append(shape)
    for kind, choice in steps:
        made.append(BENDS[kind] if kind in BENDS else step_of(kind, shapes[-1], choice))
        x = made[-1](x)
        shapes.append(tuple(x.shape[1:]))
    made += [nn.Flatten(), drawn(nn.Linear(x.numel(), 2), 5)]
    return Then(*made), [*shapes, (x.numel(),), (2,)]


def dense(model: Then, shapes: list[Shape], activation: Step) -> Then:
    """The network as one of flat layers: a matrix for all that stands between two activations."""
    layers: list[Step] = []
    start, between = shapes[0], []
    for step, shape in [*zip(model.steps, shapes[1:], strict=True), (activation, (2,))]:
        if step is not activation:
            between.append(step)
            continue
        whole, size = Then(*between), math.prod(start)
        with torch.no_grad():
            units = torch.eye(size, dtype=torch.float64).view(size, *start)
            layer = nn.Linear(size, math.prod(shape), dtype=torch.float64)
            layer.bias.data = whole(torch.zeros_like(units[:1]))[0]
            layer.weight.data = (whole(units) - layer.bias).T.contiguous()
        layers += [layer, activation]
        start, between = shape, []
    return Then(nn.Flatten(), *layers[:-1])


def sampled(model: nn.Module, ball: LpBall, count: int = 40) -> Tensor:
    step = torch.rand(count, *ball.center.shape, generator=generator(1), dtype=torch.float64) * 2 - 1
    step[: count // 2] = step[: count // 2].sign()
    with torch.no_grad():
        return torch.stack([model(ball.center + float(ball.radii[0]) * part) for part in step])


def encloses(found: Interval, y: Tensor) -> bool:
    slack = 1e-9 * (1 + y.abs())
    return bool(((found.lower <= y + slack) & (y - slack <= found.upper)).all())


def check_enclosed(steps: list[tuple[str, int]], seed: int, radius: float) -> None:
    model, _ = network(steps, (2, 4, 3))
    x = torch.randn(2, 2, 4, 3, generator=generator(seed), dtype=torch.float64)
    graph, ball = capture(model, x), LpBall(x, radius, low=None, high=None)
    y, loose = sampled(model, ball), ibp(graph, ball)
    for bound in METHODS.values():
        found = bound(graph, ball)
        assert encloses(found, y)
        assert (found.lower >= loose.lower - 1e-9 * (1 + loose.lower.abs())).all()
        assert (found.upper <= loose.upper + 1e-9 * (1 + loose.upper.abs())).all()
    other = crown(graph, LpBall(x.contiguous(memory_format=torch.channels_last), radius, low=None, high=None))
    whole = crown(graph, ball)
    assert (other.lower - whole.lower).abs().max() <= 1e-9 * (1 + whole.lower.abs().max())


def check_dense(steps: list[tuple[str, int]], seed: int, radius: float) -> None:
    """Linear bounds are exact if no rectifier bends, whatever is written as one matrix."""
    model, shapes = network(steps, (2, 4, 3), first=torch.relu)
    x = torch.randn(2, 2, 4, 3, generator=generator(seed), dtype=torch.float64)
    ball = LpBall(x, radius, low=None, high=None)
    found, expected = crown(model, ball, sound="real"), crown(dense(model, shapes, torch.relu), ball, sound="real")
    scale = 1e-12 * (1 + expected.upper.abs().max())
    assert (found.lower - expected.lower).abs().max() <= scale
    assert (found.upper - expected.upper).abs().max() <= scale


@settings(max_examples=1, deadline=None, derandomize=True)
@given(STEPS, st.integers(0, 99), st.sampled_from([0.01, 0.3]))
def test_networks_that_reshape_are_enclosed(steps: list[tuple[str, int]], seed: int, radius: float):
    check_enclosed(steps, seed, radius)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(STEPS, st.integers(0, 99), st.sampled_from([0.01, 0.3]))
def test_many_networks_that_reshape_are_enclosed(steps: list[tuple[str, int]], seed: int, radius: float):
    check_enclosed(steps, seed, radius)


@settings(max_examples=2, deadline=None, derandomize=True)
@given(PLAIN, st.integers(0, 99), st.sampled_from([1e-6, 1e-5]))
def test_networks_that_reshape_have_the_bounds_of_dense_ones(steps: list[tuple[str, int]], seed: int, radius: float):
    check_dense(steps, seed, radius)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(PLAIN, st.integers(0, 99), st.sampled_from([1e-6, 1e-5]))
def test_many_networks_that_reshape_have_the_bounds_of_dense_ones(
    steps: list[tuple[str, int]], seed: int, radius: float
):
    check_dense(steps, seed, radius)


class ConvNext(nn.Module):
    """A block with its normalisation and its layers over channels in the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=0.1)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + self.narrow(F.relu(self.wide(h))).permute(0, 3, 1, 2)


NAMED: dict[str, Callable[[], nn.Module]] = {
    "from a line to a map": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(24, 36), nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 2, 3), nn.ReLU()
    ),
    "group norm of a map": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, (3, 2))
    ),
    "channels last and back": lambda: Then(
        nn.Conv2d(2, 3, 3, padding=1), lambda x: x.permute(0, 2, 3, 1), nn.LayerNorm(3), lambda x: x.permute(0, 3, 1, 2)
    ),
    "flat in another order": lambda: Then(
        nn.Conv2d(2, 3, 3, padding=1), F.relu, lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1), nn.Linear(36, 2)
    ),
    "block with channels last": lambda: nn.Sequential(ConvNext(2), nn.AdaptiveAvgPool2d(1)),
}


QUICK = {"from a line to a map"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMED]
)
def test_layouts_in_memory_change_nothing(name: str):
    """Weights and inputs with channels last in memory have the bounds of others, by every method."""
    model = drawn(nn.Sequential(NAMED[name](), nn.Flatten()), 3).eval()
    x = torch.randn(2, 2, 4, 3, generator=generator(4), dtype=torch.float64)
    ball = LpBall(x, 0.1, low=None, high=None)
    graph = capture(model, x)
    methods = METHODS | {"alpha_crown": lambda *both: alpha_crown(*both, steps=2)}
    expected = {method: bound(graph, ball) for method, bound in methods.items()}
    y = sampled(model, ball)
    model = model.to(memory_format=torch.channels_last)
    other = LpBall(x.contiguous(memory_format=torch.channels_last), 0.1, low=None, high=None)
    turned = capture(model, other.center)
    for method, bound in methods.items():
        found = bound(turned, other)
        assert encloses(found, y)
        for end in ("lower", "upper"):
            difference = getattr(found, end) - getattr(expected[method], end)
            # An optimiser makes steps of one size of gradients however small, also of those that are rounding alone.
            tolerance = 1e-6 if method == "alpha_crown" else 1e-9
            assert difference.abs().max() <= tolerance * (1 + y.abs().max())
