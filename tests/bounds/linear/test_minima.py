"""Minima of rows with few coefficients, first layers, and what one rung of the ladder keeps of the one before."""

import math
import operator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Box, Interval, LpBall, SparseBall, capture, crown_ibp, ibp
from bounds.linear.ladder import refinements, rungs
from bounds.linear.network import Network
from bounds.linear.passes.minima import minima_in_windows
from bounds.linear.refined import RefinedNetwork
from bounds.relaxations.activations import relu
from bounds.rows import DenseRows, PatchRows, mirrored
from bounds.sets import moves
from bounds.sets.linear_minimum import linear_minimum

SHAPE = (2, 5, 4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


X = draw(3, *SHAPE).sigmoid()
FROZEN = torch.zeros(SHAPE, dtype=torch.bool)
FROZEN[:, 1] = True
RADII = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
REGIONS = {
    **{f"l_{norm:g}": LpBall(X, RADII, norm=norm) for norm in (1.0, 1.5, 2.0)},
    "frozen features": LpBall(X, RADII, norm=2.0, frozen_features=FROZEN),
    **{f"{changes} changes": SparseBall(X, changes) for changes in (0, 1, 4, 100)},
    "changes of features that are not frozen": SparseBall(X, 3, frozen_features=FROZEN),
}


def windows(count: int) -> PatchRows:
    """Four windows of 3 by 2 entries, which reach beyond the map, with two rows each."""
    values = draw(count, 1, 4, 2, SHAPE[0], 3, 2, seed=5)
    place = torch.arange(4).repeat(count, 1)
    return PatchRows(values, place, (2, 2), (2, 2), (1, 1), SHAPE, clean=False)


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_minima_of_windows_are_those_of_all_entries(region: LpBall | SparseBall, count: int, rounded: bool):
    """Rows of each input or the same for all, as windows and with all coefficients; both signs of each."""
    for rows in (windows(count), DenseRows(windows(count).dense())):
        found = minima_in_windows(rows, region, region.hull(), joint=True, rounded=rounded)
        expected = linear_minimum(mirrored(rows).dense().expand(3, -1, *SHAPE), region)
        assert torch.equal(found[:, :8], minima_in_windows(rows, region, region.hull(), joint=False, rounded=rounded))
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_no_minimum_lies_above_that_in_exact_arithmetic():
    """In float32, where some do unless rounding is taken away."""
    x, values, changes = draw(1, 20).sigmoid().float(), draw(1, 100, 20, seed=3).float(), 5
    region = SparseBall(x, changes)
    found = {
        rounded: minima_in_windows(DenseRows(values), region, region.hull(), joint=False, rounded=rounded)[0].tolist()
        for rounded in (True, False)
    }
    exact = []
    center = [Fraction(number) for number in x[0].tolist()]
    for row in values[0].tolist():
        slopes = [Fraction(number) for number in row]
        gains = [max(a * c, a * (c - 1)) for a, c in zip(slopes, center, strict=True)]
        start = sum(a * c for a, c in zip(slopes, center, strict=True))
        exact.append(start - sum(sorted(gains)[-changes:]))
    above = {rounded: sum(map(operator.gt, least, exact)) for rounded, least in found.items()}
    assert above[True] == 0
    assert above[False] > 10
    assert max(float(b - a) for a, b in zip(found[True], exact, strict=True)) < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_levels_of_squares_are_those_by_logarithms(seed: int):
    slope, room = draw(2, 3, 7, seed=seed).abs(), draw(2, 3, 7, seed=seed + 50).abs() / 3
    slope[0, 0, :3] = 0
    expected = torch.minimum(slope, moves._level(slope, room, 2.0, 2.0))
    torch.testing.assert_close(torch.minimum(slope, moves._level_of_squares(slope, room)), expected, rtol=1e-9, atol=0)


def few_changes(layer: nn.Conv2d, x: Tensor, changes: int) -> tuple[Tensor, Tensor]:
    """The exact range behind a convolution if so many entries may go anywhere in [0, 1], window by window."""
    size = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    weight = layer.weight.flatten(1)[None, :, :, None]
    inside = F.unfold(torch.ones_like(x), **size)[:, None]
    here = F.unfold(x, **size)[:, None]
    down, up = weight * here, weight * (inside - here)  # what is lost or gained by 0, and by 1
    ends = [torch.maximum(sign * -down, sign * up).topk(changes, dim=2).values.sum(2) for sign in (-1, 1)]
    middle = layer(x)
    return middle - ends[0].view_as(middle), middle + ends[1].view_as(middle)


@pytest.mark.parametrize("sound", ["real", "rounding"])
def test_a_first_convolution_has_its_exact_range_for_few_changes(sound: str):
    layer = nn.Conv2d(2, 3, (3, 2), stride=2, padding=1).double().requires_grad_(False)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten())
    lower, upper = few_changes(layer, X, 2)
    graph = capture(model, X)
    for bound in (ibp, crown_ibp):
        found = bound(graph, SparseBall(X, 2), sound=sound)
        torch.testing.assert_close(found.lower, lower.relu().flatten(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.upper, upper.relu().flatten(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
def test_first_layers_have_their_exact_range_in_balls(norm: float):
    """Hölder's inequality, through a factor for each input, which no row serves for all."""

    class Scaled(nn.Module):
        factor: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(40, 5, dtype=torch.float64)
            self.register_buffer("factor", 1 + draw(1, 40).abs())

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1) * self.factor).relu()

    model = Scaled().requires_grad_(False)
    found = ibp(capture(model, X), LpBall(X, RADII, norm=norm, low=None, high=None))
    weight = model.layer.weight * model.factor
    reach = RADII[:, None] * weight.norm(math.inf if norm == 1 else norm / (norm - 1), dim=1)
    middle = X.flatten(1) @ weight.T + model.layer.bias
    torch.testing.assert_close(found.lower, (middle - reach).relu(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper, (middle + reach).relu(), rtol=1e-9, atol=1e-9)


def test_a_box_goes_through_the_layers_of_a_sequential_network(monkeypatch):
    """Without capturing it, to the same bounds."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3)).double().requires_grad_(False)
    box = Box((X - 0.1).clamp(0, 1), X + 0.05)
    expected = ibp(capture(model, X), box)
    monkeypatch.setattr("bounds.linear.parts.capture", None)
    found = ibp(model, box)
    torch.testing.assert_close(found.lower, expected.lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.upper, expected.upper, rtol=1e-12, atol=1e-12)


def deep(ball: LpBall, sound: str) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(40, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7))
        return Network(
            nn.Sequential(model, nn.ReLU(), nn.Linear(7, 2)).double().requires_grad_(False), ball, sound=sound
        )


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("sound", ["real", "rounding"])
def test_a_rung_keeps_what_no_new_interval_reaches_and_finds_all_else_anew(norm: float, sound: str):
    network = deep(LpBall(X, 0.1, norm=norm), sound)
    start = RefinedNetwork(network).refine().intervals
    again = RefinedNetwork(network, start=start, again=frozenset(network.order), tighten=True).refine().intervals
    scratch = RefinedNetwork(network, start=start, known=dict(start), tighten=True).refine().intervals
    kept = [name for name in start if again[name] is start[name]]
    assert len(kept) >= 3  # up to the first function
    assert len(kept) < len(start) / 2
    for name, interval in scratch.items():
        torch.testing.assert_close(again[name].lower, interval.lower, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(again[name].upper, interval.upper, rtol=1e-12, atol=1e-12)
    assert (again["output"].lower > start["output"].lower).all()


def test_the_line_above_is_that_of_the_interval_asked_for():
    """In whatever order, and with gradients where these are wanted."""
    function, ends = relu(), draw(2, 6)
    one, other = (Interval(-ends[row].abs(), scale * ends[row].abs()) for row, scale in ((0, 1), (1, 3)))
    with torch.no_grad():
        expected = [relu().default_planes(interval).upper_slopes[0] for interval in (one, other, other, one)]
        found = [function.default_planes(interval).upper_slopes[0] for interval in (one, other, other, one)]
        assert found[1] is found[2]
        assert all(map(torch.equal, found, expected))
    upper = one.upper.clone().requires_grad_()
    moving = Interval(one.lower, upper)
    with torch.no_grad():
        function.default_planes(moving)
    function.default_planes(moving).upper_intercept.sum().backward()
    assert (upper.grad > 0).any()


def test_every_rung_of_a_ladder_has_bounds_within_those_before():
    network = deep(LpBall(X, 0.05), "rounding")
    bounds = [part.refine().intervals for part in refinements(network, rungs(network, "crown"))]
    for before, after in pairwise(bounds):
        for name in network.order:
            assert (after[name].lower >= before[name].lower).all()
            assert (after[name].upper <= before[name].upper).all()
