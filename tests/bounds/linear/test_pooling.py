"""Max pooling of maps as one function: its windows, its planes, and coefficients through both."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.linear import precision
from bounds.linear.network import Network
from bounds.linear.passes.backward import Backward
from bounds.linear.passes.through_functions import through_planes, through_windows
from bounds.linear.refined import RefinedNetwork
from bounds.operations.functions import FUNCTIONS, Tables
from bounds.relaxations.base import Planes
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.pooled import PooledMaximum
from bounds.rows import DenseRows, PatchRows, Rows
from bounds.sets.balls import Box, Interval, LpBall

pytestmark = pytest.mark.usefixtures("without_gradients")
INPUTS, SHAPE = 2, (3, 7, 6)
WINDOWS: dict[str, dict[str, Any]] = {
    "apart": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "of all strides": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)},
    "with gaps": {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": (2, 1)},
    "beyond the map": {"kernel_size": 2, "stride": 2, "ceil_mode": True},
}


@pytest.fixture
def without_gradients() -> Iterator[None]:
    """With gradients, windows are gathered."""
    with torch.no_grad():
        yield


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@cache
def pooling(kind: str) -> tuple[nn.MaxPool2d, bounds.Graph]:
    """A pooling, captured once."""
    layer = nn.MaxPool2d(**WINDOWS[kind])
    return layer, bounds.capture(nn.Sequential(layer, nn.Flatten()), draw(INPUTS, *SHAPE))


def network_of(*layers: nn.Module, shape: tuple[int, ...] = SHAPE, **settings: Any) -> Network:
    model = nn.Sequential(*layers, nn.Flatten()).double()
    return Network(model, LpBall(draw(INPUTS, *shape), 0.5, low=None, high=None), **settings)


def pooled_in(network: Network) -> tuple[str, PooledMaximum]:
    found = [(name, part) for name, part in network.functions.items() if isinstance(part, PooledMaximum)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_recognised(kind: str):
    expected, graph = pooling(kind)
    network = Network(graph, LpBall(draw(INPUTS, *SHAPE), 0.5, low=None, high=None))
    name, function = pooled_in(network)
    x = draw(INPUTS, *SHAPE, seed=1)
    assert torch.equal(network.nodes[name].function(x), expected(x))
    geometry, given = function.windows.geometry, expected
    pair = lambda value: (value, value) if isinstance(value, int) else value  # noqa: E731
    assert geometry.kernel == pair(given.kernel_size)
    assert geometry.stride == pair(given.stride)
    assert geometry.padding == pair(given.padding)
    assert geometry.dilation == pair(given.dilation)


@pytest.mark.slow
def test_other_windows_and_functions_of_a_caller_stay_as_they_are():
    irregular = network_of(nn.AdaptiveMaxPool2d((4, 3)))
    own = Tables(functions=FUNCTIONS | {"aten.amax.default": lambda node: Maximum((-1,), keepdim=False)})
    for network in (irregular, network_of(nn.MaxPool2d(2), tables=own), network_of(nn.MaxPool2d(2), pooled=False)):
        assert [type(function) for function in network.functions.values()] == [Maximum]


def case(kind: str) -> tuple[Backward, str]:
    """Backward passes with intervals of different widths, some of them points."""
    network = Network(pooling(kind)[1], LpBall(draw(INPUTS, *SHAPE), 0.5, low=None, high=None))
    center, radius = draw(INPUTS, *SHAPE, seed=2), draw(INPUTS, *SHAPE, seed=3).clamp(min=0)
    network.intervals["input"] = Interval(center - radius, center + radius)
    return Backward(network), pooled_in(network)[0]


def rows_at(shape: torch.Size, *, dense: bool) -> Rows:
    """Rows of a map; windows of them reach beyond it."""
    if dense:
        return DenseRows(draw(INPUTS, 4, *shape[1:], seed=4))
    place = torch.tensor([[0, 3], [2, 1]])
    return PatchRows(draw(INPUTS, 1, 2, 2, shape[1], 2, 2, seed=4), place, (2, 2), (1, 1), (1, 1), shape[1:], False)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "windows"])
@pytest.mark.parametrize("kind", WINDOWS)
def test_the_quick_way_is_the_plain_one(kind: str, dense: bool, joint: bool):
    backward, name = case(kind)
    function = backward.network.functions[name]
    assert isinstance(function, PooledMaximum)
    rows = rows_at(backward.network.nodes[name].value.shape, dense=dense)
    plain = DenseRows(rows.dense())
    planes = backward.default_planes(name).at(plain)
    (parent,) = backward.network.parents(name)
    expected = through_planes(function, plain, planes, [parent.lower.shape], joint=joint, reach=[])
    lines = backward.window_lines(name, rounded=False)
    found = through_windows(rows, lines, function.windows.geometry, SHAPE, joint=joint)
    assert torch.allclose(found.constant, expected.constant, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.parts[0].dense(), expected.parts[0].dense(), rtol=1e-12, atol=1e-12)
    clean = found.parts[0].cleaned()
    assert torch.allclose(clean.flat().abs().sum(2), expected.parts[0].flat().abs().sum(2))


@pytest.mark.parametrize("kind", WINDOWS)
def test_planes_are_around_the_maximum(kind: str):
    backward, name = case(kind)
    (parent,), planes = backward.network.parents(name), backward.default_planes(name)
    function = backward.network.functions[name]
    share = torch.rand(200, *parent.lower.shape, generator=generator(5), dtype=torch.float64)
    x = parent.lower + share.round() * (parent.upper - parent.lower)  # corners
    y = pooling(kind)[0](x.flatten(0, 1)).unflatten(0, (200, INPUTS))
    below, above = (
        function.combined(slopes[0] * function.beside(x)) + constant
        for slopes, constant in (
            (planes.lower_slopes, planes.lower_intercept),
            (planes.upper_slopes, planes.upper_intercept),
        )
    )
    assert (below <= y).all()
    assert (above >= y).all()
    narrow = (above - y).amin(0) < 0.05 * (1 + (function.range_of(parent).upper - function.range_of(parent).lower))
    assert narrow.float().mean() > 0.5  # else any plane would do


class Pooling(nn.Sequential):
    """Convolutions with a pooling of some kind between them."""

    def __init__(self, options: dict[str, Any], bend: nn.Module) -> None:
        parts = [nn.Conv2d(1, 3, 3, padding=1), bend, nn.MaxPool2d(**options), nn.Conv2d(3, 4, 2), nn.ReLU()]
        super().__init__(*parts, nn.MaxPool2d(2, 1), nn.Flatten(), nn.LazyLinear(3))


BENDS = [nn.ReLU(), nn.Sigmoid(), nn.Identity(), nn.LeakyReLU(0.2), nn.Tanh()]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bend"), list(zip(WINDOWS, BENDS, strict=True)))
def test_bounds_hold_and_are_at_least_as_tight_as_those_of_gathered_windows(kind: str, bend: nn.Module):
    torch.manual_seed(1)
    x = draw(2, 1, 8, 7).to(torch.float32)
    model = Pooling(WINDOWS[kind], bend)
    model(x)
    model.requires_grad_(False).eval()
    ball, graph = Box(x - 0.1, x + 0.1), bounds.capture(model, x)
    steps = torch.rand(400, *x.shape, generator=generator(6)).round() * 0.2 - 0.1
    y = model((x + steps).flatten(0, 1)).unflatten(0, (400, 2))
    for sound in ("rounding", "real"):
        found = bounds.crown(graph, ball, sound=sound)
        assert (found.lower <= y + 1e-6).all()
        assert (y <= found.upper + 1e-6).all()
        assert (found.upper - found.lower).mean() < 8 * (y.amax(0) - y.amin(0)).mean()  # of random corners
        wide, narrow = (
            RefinedNetwork(Network(graph, ball, sound=sound, pooled=pooled), tighten=True).output()
            for pooled in (False, True)
        )
        assert (narrow.upper - narrow.lower).mean() <= (wide.upper - wide.lower).mean() * (1 + 1e-5)


@pytest.mark.slow
def test_windows_of_coefficients_pass_a_pooling():
    """No row behind two convolutions and two poolings has coefficients of all entries."""
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()]
    network = network_of(*layers, nn.MaxPool2d(3, 2, 1), shape=(1, 16, 16))
    refined = RefinedNetwork(network, tighten=True)
    refined.refine()
    assert 0 < max(refined.backward.widest.values()) < 2 * 16 * 16 / 2


def exact(x: Tensor) -> list[Fraction]:
    return [Fraction(number.item()) for number in x.double().flatten()]


def any_planes(function: PooledMaximum, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
    """Planes of any kind, which the way of coefficients is to follow whether they are right or not."""
    entries = function.beside(parents[0].lower)
    low, high = (draw(*entries.shape, seed=seed).to(entries) * function.windows.inside for seed in (1, 2))
    below, above = (1e4 + draw(*entries.shape[:-1], seed=seed).to(entries) for seed in (3, 4))
    return Planes((low,), below, (high,), above)


def allowed(planes: Planes, places: list[list[int]], weights: list[Fraction], x: Interval) -> Fraction:
    """The least value of a weighted sum of maxima that planes allow, in exact arithmetic."""
    assert planes.lower_intercept is not None
    coefficients, total = [Fraction(0)] * x.lower.numel(), Fraction(0)
    slopes = [exact(part) for part in (planes.lower_slopes[0], planes.upper_slopes[0])]
    constants = [exact(part) for part in (planes.lower_intercept, planes.upper_intercept)]
    for entry, weight in enumerate(weights):
        side, (channel, window) = int(weight < 0), divmod(entry, len(places))
        total += weight * constants[side][entry]
        for tap, place in enumerate(places[window]):
            coefficients[16 * channel + place] += weight * slopes[side][entry * len(places[0]) + tap]
    ends = zip(coefficients, exact(x.lower), exact(x.upper), strict=True)
    return total + sum((a * (low if a > 0 else high) for a, low, high in ends), Fraction(0))


@pytest.mark.parametrize("kind", ["apart", "overlapping"])
@pytest.mark.slow
def test_no_bound_is_above_what_its_planes_allow(kind: str, monkeypatch: pytest.MonkeyPatch):
    """In float32; without rounding errors some bounds are."""
    monkeypatch.setattr(precision, "_computes_double", lambda device: False)
    monkeypatch.setattr(PooledMaximum, "planes", any_planes)
    torch.manual_seed(0)
    layers = nn.MaxPool2d(**WINDOWS[kind]), nn.Flatten(), nn.Linear(8, 12, bias=False)
    with torch.no_grad():  # constants cancel, of which only their rounding errors remain
        layers[2].weight -= layers[2].weight.mean(1, keepdim=True)
    model, x = nn.Sequential(*layers).requires_grad_(False), torch.rand(1, 2, 4, 4)
    graph, above = bounds.capture(model, x), 0
    for sound in ("rounding", "real"):
        refined = RefinedNetwork(Network(graph, LpBall(x, 0.3, low=None, high=None), sound=sound))
        found = exact(refined.functions(torch.eye(12)[None]))
        name, function = pooled_in(refined.network)
        (parent,), places = refined.network.parents(name), function.windows.places.flatten(0, 1).tolist()
        planes = refined.backward.default_planes(name)
        limits = [allowed(planes, places, exact(weights), parent) for weights in layers[2].weight]
        if sound == "rounding":
            assert all(bound <= limit for bound, limit in zip(found, limits, strict=True))
        else:
            above = sum(bound > limit for bound, limit in zip(found, limits, strict=True))
    assert above > 0


def test_with_gradients_windows_are_gathered():
    with torch.enable_grad():
        network = Network(pooling("apart")[1], LpBall(draw(INPUTS, *SHAPE), 0.5, low=None, high=None))
    assert [type(function) for function in network.functions.values()] == [Maximum]
