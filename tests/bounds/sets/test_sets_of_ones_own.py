"""Perturbation sets that a user adds: ellipsoids in every bounding method, against closed forms, balls and samples."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from oracles.selection import some
from torch import Tensor, nn

import bounds
from bounds import Interval, InvalidInput

DIMENSIONS = 4


@dataclass(frozen=True, eq=False)
class Ellipsoid(bounds.PerturbationSet):
    """All inputs with ``sum(((x - center) / axes) ** 2) <= 1``."""

    center: Tensor
    axes: Tensor

    def hull(self) -> Interval:
        slack = 1e-12 * (self.center.abs() + self.axes)
        return Interval(self.center - self.axes - slack, self.center + self.axes + slack)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        axes = self.axes.flatten(1)[:, None].to(slopes.dtype)
        gain = torch.linalg.vector_norm(slopes * axes, dim=2)
        return gain, slopes * axes.square() / gain.clamp(min=1e-300)[..., None]

    def rows(self, index: Tensor) -> "Ellipsoid":
        return replace(self, center=self.center[index], axes=self.axes[index])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CENTER, AXES = random(3, DIMENSIONS, seed=1), 0.1 + 0.4 * random(3, DIMENSIONS, seed=2).abs()
SET = Ellipsoid(CENTER, AXES)


def network(*widths: int) -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh() if after == 6 else nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval()


def points(count: int) -> Tensor:
    """Points of the three ellipsoids, most of them on the surface, (count, 3, D)."""
    direction = torch.nn.functional.normalize(random(count, 3, DIMENSIONS, seed=4), dim=2)
    direction[: count // 4] *= torch.rand(count // 4, 3, 1, generator=torch.Generator().manual_seed(5)).double()
    return CENTER + AXES * direction


METHODS: dict[str, Callable[[nn.Module, bounds.PerturbationSet], Interval]] = {
    "ibp": bounds.ibp,
    "crown_ibp": bounds.crown_ibp,
    "fast_lin": bounds.fast_lin,
    "crown": bounds.crown,
    "alpha_crown": bounds.alpha_crown,
    "forward_linear": bounds.forward_linear,
}


@pytest.mark.parametrize("name", METHODS)
def test_bounds_of_a_linear_map_are_those_of_the_ellipsoid(name: str):
    layer = network(DIMENSIONS, 3, 1)[0]
    found = METHODS[name](layer, SET)
    reach = torch.linalg.vector_norm(layer.weight * AXES[:, None], dim=2)
    torch.testing.assert_close(found.lower, layer(CENTER) - reach, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper, layer(CENTER) + reach, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", some(METHODS, [name for name in METHODS if name != "alpha_crown"]))
def test_no_point_of_the_set_leaves_the_bounds_of_a_deep_network(name: str):
    model = network(DIMENSIONS, 8, 6, 8, 3, 1)
    found, outputs = METHODS[name](model, SET), model(points(2000).flatten(0, 1)).view(2000, 3, -1)
    assert ((outputs >= found.lower) & (outputs <= found.upper)).all()


@pytest.mark.parametrize("method", ["ibp", "crown", pytest.param("alpha_crown", marks=pytest.mark.slow)])
def test_an_ellipsoid_with_equal_axes_is_the_round_ball(method: str):
    """Its margins are those of the ball, also behind a specification."""
    model, labels = network(DIMENSIONS, 8, 6, 3, 1)[:-2], torch.tensor([0, 1, 2])
    sets = Ellipsoid(CENTER, torch.full_like(CENTER, 0.3)), bounds.LpBall(CENTER, 0.3, 2, None, None)
    graph = bounds.capture(model, CENTER)
    own, ball = (bounds.margin_bounds(graph, region, labels, method) for region in sets)
    torch.testing.assert_close(own, ball, rtol=1e-6, atol=1e-6)
    unsafe = [(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))]
    own, ball = (bounds.specification_bounds(graph, region, unsafe, method) for region in sets)
    torch.testing.assert_close(own, ball, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_lipschitz_bounds_take_the_hull():
    model = network(DIMENSIONS, 8, 3, 1)
    whole = bounds.Box(*(lambda hull: (hull.lower, hull.upper))(SET.hull()))
    for method in ("recurjac", "local"):
        own, box = (bounds.lipschitz_bound(model, 2, method, region) for region in (SET, whole))
        assert torch.equal(own, box)


@pytest.mark.parametrize("solve", [bounds.lp_bounds, bounds.milp_bounds])
def test_solvers_name_the_sets_that_they_take(solve: Callable[..., object]):
    with pytest.raises(InvalidInput, match="ball must be a Box or an LpBall of norm 1 or infinity, got a Ellipsoid"):
        solve(network(DIMENSIONS, 3, 1), SET)


def test_the_semidefinite_bound_names_the_sets_that_it_takes():
    with pytest.raises(InvalidInput, match="ball must be a Box or an LpBall of norm 1 or infinity, got a Ellipsoid"):
        bounds.sdp_margins(network(DIMENSIONS, 8, 3, 1), SET, torch.tensor([0, 1, 2]))


class Corners(Ellipsoid):
    """A box by another name, which solvers take since it says so."""

    @property
    def is_box(self) -> bool:
        return True

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        return (slopes * reach).sum(2), reach


@pytest.mark.slow
def test_a_set_that_says_it_is_a_box_is_solved_like_one():
    model, own = network(DIMENSIONS, 8, 3, 1), Corners(CENTER, AXES)
    hull = own.hull()
    for bound in (bounds.lp_bounds, bounds.crown):
        found, box = bound(model, own), bound(model, bounds.Box(hull.lower, hull.upper))
        torch.testing.assert_close(found.lower, box.lower, rtol=1e-9, atol=1e-9)


class Narrow(Ellipsoid):
    def hull(self) -> Interval:
        return Interval(self.center[:, :1], self.center[:, :1])


class Kept(Ellipsoid):
    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        gain, move = super().largest_gain(slopes, reach)
        return gain[..., None], move


class Coarse(Ellipsoid):
    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        gain, move = super().largest_gain(slopes, reach)
        return gain.float(), move


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            Narrow(CENTER, AXES),
            "hull().lower of Narrow must have the shape (3, 4) and dtype torch.float64 of",
        ),
        (Kept(CENTER, AXES), "largest_gain of Kept must return a gain of shape (3, "),
        (Coarse(CENTER, AXES), "largest_gain of Coarse must return a gain of shape (3, "),
        (CENTER, "the set must be an LpBall, a Box, a SparseBall or your own bounds.PerturbationSet, got Tensor"),
    ],
)
def test_mistakes_in_a_set_are_named(region: bounds.PerturbationSet, message: str):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        bounds.crown(network(DIMENSIONS, 8, 3, 1), region)


def test_a_set_without_rows_or_gain_says_what_is_missing():
    class Bare(bounds.PerturbationSet):
        def hull(self) -> Interval:
            return Interval(CENTER, CENTER)

    with pytest.raises(TypeError, match="largest_gain"):
        Bare()
    Bare.largest_gain = lambda self, slopes, reach: (0 * slopes.sum(2), reach)
    Bare.__abstractmethods__ = frozenset()
    with pytest.raises(InvalidInput, match="Bare must define rows"):
        Bare().rows(torch.tensor([0]))
    with pytest.raises(InvalidInput, match="Bare must define contains"):
        Bare().contains(CENTER)


@pytest.mark.parametrize(
    "region",
    [
        bounds.LpBall(CENTER, AXES[:, 0], 2, None, None),
        bounds.Box(CENTER, CENTER + AXES),
        bounds.SparseBall(CENTER.sigmoid(), 2),
        SET,
    ],
)
def test_rows_are_the_sets_of_some_inputs(region: bounds.PerturbationSet):
    index = torch.tensor([2, 0])
    slopes = random(3, 5, DIMENSIONS, seed=6)
    whole = bounds.linear_minimum(slopes, region)
    torch.testing.assert_close(
        bounds.linear_minimum(slopes[index], region.rows(index)), whole[index], rtol=1e-13, atol=0
    )
    assert region.is_box is isinstance(region, bounds.Box)
    assert not math.isnan(float(whole.sum()))
