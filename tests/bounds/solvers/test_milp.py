"""Branch and bound: every activation pattern one by one, recorded optima, grids, and bounds that hold at every stop."""

import math
from functools import cache

import pytest
import torch
from oracles.activation_patterns import exact_minimum
from oracles.halfspace import generator
from oracles.networks import dense, grid
from torch import Tensor, nn

from bounds import Box, Graph, Interval, InvalidInput, LpBall, UnsupportedLayer, capture, crown, margin_bounds
from bounds.solvers.affine_form import AffineForm
from bounds.solvers.encoding import Encoding
from bounds.solvers.milp import BranchAndBound, milp_bounds, milp_margins
from bounds.solvers.triangle import lp_bounds, lp_margins

NETWORKS = ("mlp_relu", "mlp_relu_deep", "mlp_leaky", "cnn_relu", "cnn_bn_avgpool")
RADII = {"inf": (0.02, 0.1), "1": (0.1, 0.5)}
FAST = (("mlp_leaky", "inf", 0.02), ("mlp_relu_deep", "1", 0.1))
MINUTES = [(name, norm, RADII[norm][1]) for name in ("cnn_relu", "cnn_bn_avgpool") for norm in RADII]
RECORDED = [
    pytest.param(*case, marks=[] if case in FAST else pytest.mark.exhaustive if case in MINUTES else pytest.mark.slow)
    for case in ((name, norm, radius) for name in NETWORKS for norm, radii in RADII.items() for radius in radii)
]


@pytest.mark.timeout(1200)  # the widest ball takes minutes
@pytest.mark.parametrize(("name", "norm", "radius"), RECORDED)
def test_recorded_optima(rectified, name: str, norm: str, radius: float):
    """HiGHS on the whole programme; ours lie between the linear programme and what attacks reached."""
    model, x, label, exact, attacks = rectified(name)
    graph, ball = capture(model, x), LpBall(x, radius, norm=float(norm), low=None, high=None)
    (outer, inner), margins = milp_bounds(graph, ball), milp_margins(graph, ball, label)
    start = f"{norm}/{radius}"
    torch.testing.assert_close(outer.lower[0], torch.from_numpy(exact[f"{start}/MILP/lb"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(outer.upper[0], torch.from_numpy(exact[f"{start}/MILP/ub"]), rtol=0, atol=1e-6)
    others = torch.arange(margins.proved.shape[1]) != label
    recorded = torch.from_numpy(exact[f"{start}/MILP/margin_lb"])
    torch.testing.assert_close(margins.proved[0, others], recorded, rtol=0, atol=1e-6)
    assert (margins.proved[0, others].numpy() <= attacks[f"{start}/attack_margin"]).all()
    assert (margins.proved >= lp_margins(graph, ball, label) - 1e-9).all()
    for low, high in ((outer.lower, inner.lower), (inner.upper, outer.upper), (margins.proved, margins.reached)):
        assert (low <= high + 1e-12).all()
        assert (high - low <= 2e-9 * (1 + high.abs())).all()


NETS = {
    "relu": dense(nn.ReLU(), 2, 4, 3, 2, seed=1),
    "leaky": dense(nn.LeakyReLU(0.2), 2, 4, 3, 2, seed=1),
    "wide": dense(nn.ReLU(), 2, 8, 6, 2, seed=5),
}


@cache
def graph_of(name: str) -> Graph:
    return capture(NETS[name], torch.zeros(1, 2).double())


@pytest.mark.parametrize("norm", [1, math.inf])
@pytest.mark.parametrize("name", ["relu", "leaky", pytest.param("wide", marks=pytest.mark.combinations)])
def test_every_activation_pattern(name: str, norm: float):
    """All 128 or 16,384 patterns, each a linear programme in the input, solved by SciPy."""
    model, x = NETS[name], torch.tensor([[0.3, 0.6]]).double()
    ball = LpBall(x, 0.8, norm=norm, low=-0.1, high=1.0)
    graph = graph_of(name)
    found = milp_margins(graph, ball, torch.tensor([0]))
    low, high = (x[0] - 0.8).clamp(min=-0.1), (x[0] + 0.8).clamp(max=1.0)
    row = torch.tensor([1.0, -1.0]).double()
    exact = exact_minimum(model, row, low, high, (x[0], 0.8) if norm == 1 else None)
    assert abs(float(found.proved[0, 1]) - exact) < 1e-7
    assert abs(float(found.reached[0, 1]) - exact) < 1e-7
    assert float(lp_margins(graph, ball, torch.tensor([0]))[0, 1]) < exact - 1e-3  # so that there was something to find


def test_a_wide_ball_against_a_dense_grid():
    model, x = NETS["wide"], torch.tensor([[0.3, 0.4]]).double()
    ball = LpBall(x, 1.0, low=None, high=None)
    outer, inner = milp_bounds(graph_of("wide"), ball)
    y = model(grid(ball, 201))
    assert ((y >= outer.lower - 1e-12) & (y <= outer.upper + 1e-12)).all()
    assert (y.amin(0) >= inner.lower[0] - 1e-9).all()
    assert (y.amin(0) <= inner.lower[0] + 0.05).all()
    assert (y.amax(0) >= inner.upper[0] - 0.05).all()


def test_channels_skips_and_frozen_features():
    """A slope of its own for each channel, a skip and a box with a frozen feature, against a dense line of inputs."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.slopes, self.last = nn.Conv1d(1, 3, 2), nn.PReLU(3), nn.Linear(3, 2)
            for weight in self.parameters():
                weight.data.normal_(0, 1, generator=generator(weight.numel()))
            self.slopes.weight.data.copy_(torch.tensor([0.0, 0.4, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x.unsqueeze(1))
            return self.last((self.slopes(z) - torch.relu(2 * z - 0.1)).flatten(1))

    model = Skip().double()
    low, high = torch.tensor([[[-1.0, 0.3]], [[1.0, 0.3]]], dtype=torch.float64)
    (outer, inner), line = milp_bounds(model, Box(low, high)), torch.linspace(-1, 1, 2001, dtype=torch.float64)
    y = model(torch.stack([line, torch.full_like(line, 0.3)], 1))
    for proved, reached, found in ((outer.lower, inner.lower, y.amin(0)), (outer.upper, inner.upper, y.amax(0))):
        torch.testing.assert_close(proved, reached, rtol=0, atol=1e-8)
        torch.testing.assert_close(proved[0], found, rtol=0, atol=2e-2)
    assert ((y >= outer.lower - 1e-12) & (y <= outer.upper + 1e-12)).all()


class Pooled(nn.Module):
    """The largest of six pairs of two lines each, and of all six in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 3, 2, padding=1), nn.Linear(3, 2)
        for weight in self.requires_grad_(False).parameters():
            weight.normal_(0, 1, generator=generator(weight.numel()))

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.unsqueeze(1))
        return self.last(torch.nn.functional.max_pool1d(z, 3).flatten(1)) - z.amax((1, 2), keepdim=True).squeeze(2)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1, math.inf])
def test_maxima_of_several_entries(norm: float):
    """Exact on a dense grid, which the linear programmes enclose, at least as tightly as planes do."""
    model = Pooled().double()
    ball = LpBall(torch.tensor([[0.2, -0.1]]).double(), 0.7, norm=norm, low=None, high=None)
    graph = capture(model, ball.center)
    outer, inner = milp_bounds(graph, ball)
    y, label = model(grid(ball, 401)), torch.tensor([0])
    for proved, reached, found in ((outer.lower, inner.lower, y.amin(0)), (outer.upper, inner.upper, y.amax(0))):
        torch.testing.assert_close(proved, reached, rtol=0, atol=1e-8)
        torch.testing.assert_close(proved[0], found, rtol=0, atol=2e-2)
    assert ((y >= outer.lower - 1e-12) & (y <= outer.upper + 1e-12)).all()
    relaxed, planes = lp_bounds(graph, ball), crown(graph, ball)
    assert ((y >= relaxed.lower - 1e-12) & (y <= relaxed.upper + 1e-12)).all()
    assert (relaxed.lower >= planes.lower - 1e-9).all()
    assert (relaxed.upper <= planes.upper + 1e-9).all()
    assert (relaxed.upper - relaxed.lower < planes.upper - planes.lower - 1e-3).any()
    assert float(milp_margins(graph, ball, label).proved[0, 1]) == pytest.approx(
        float((y[:, 0] - y[:, 1]).min()), abs=2e-2
    )


@pytest.mark.slow
def test_a_maximum_without_one_of_its_entries_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant: the last entry of each maximum is left out."""
    model = Pooled().double()
    ball = LpBall(torch.tensor([[0.2, -0.1]]).double(), 0.7, low=None, high=None)
    whole = Encoding._curve

    def short(self: Encoding, function: object, form: AffineForm, interval: Interval, *rest: object) -> AffineForm:
        found = whole(self, function, form, interval, *rest)
        return found._replace(matrix=0 * found.matrix, offset=0 * found.offset)

    monkeypatch.setattr(Encoding, "_curve", short)
    found = milp_margins(capture(model, ball.center), ball, torch.tensor([0]))
    assert (found.proved > found.reached + 1e-6).any()


@pytest.mark.slow
def test_the_bound_holds_wherever_the_search_stops():
    """One programme is the linear relaxation, more only tighten it."""
    model, graph, x = NETS["wide"], graph_of("wide"), torch.tensor([[0.3, 0.4]]).double()
    ball = LpBall(x, 1.0, low=None, high=None)
    label = model(x).argmax(1)
    exact = milp_margins(graph, ball, label)
    previous = lp_margins(graph, ball, label) - 1e-9
    for limit in (1, 5, 9):
        stopped = milp_margins(graph, ball, label, limit=limit)
        assert (previous <= stopped.proved).all()
        assert (stopped.proved <= exact.reached + 1e-12).all()
        assert (exact.reached <= stopped.reached + 1e-9).all()
        previous = stopped.proved - 1e-9
    assert (milp_margins(graph, ball, label, limit=1).proved < exact.proved - 1e-3).any()
    relaxed = lp_bounds(graph, ball)
    torch.testing.assert_close(milp_bounds(graph, ball, limit=1).outer.lower, relaxed.lower, rtol=0, atol=1e-8)


def test_a_wrong_big_m_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant: neurons that are held to both lines, so that what remains is far too small, or empty."""
    graph, x = graph_of("wide"), torch.tensor([[0.3, 0.4], [-0.2, 0.9], [0.8, -0.5]]).double()
    ball, label = LpBall(x, 1.0, low=None, high=None), NETS["wide"](x).argmax(1)
    honest = milp_margins(graph, ball, label)
    whole = BranchAndBound.__init__

    def tight(self: BranchAndBound, *arguments: object) -> None:
        whole(self, *arguments)
        self.loose = self.tight - 0.7 * (self.tight - self.loose)

    monkeypatch.setattr(BranchAndBound, "__init__", tight)
    found = milp_margins(graph, ball, label)
    assert (found.proved > honest.reached + 1e-3).any()


def test_a_solver_that_fails_leaves_backward_bounds(monkeypatch: pytest.MonkeyPatch):
    model, ball = graph_of("relu"), LpBall(torch.tensor([[0.3, 0.6]]).double(), 0.8)
    monkeypatch.setattr("bounds.solvers.simplex.Simplex.minimum", lambda *arguments: (None, None))
    found = milp_margins(model, ball, torch.tensor([0]), limit=40)
    assert (found.proved >= margin_bounds(model, ball, torch.tensor([0]), "crown")).all()
    assert (found.proved <= milp_margins(model, ball, torch.tensor([0])).reached).all()


def test_affine_networks_need_no_search():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).double()
    outer, inner = milp_bounds(model, LpBall(torch.zeros(1, 2).double(), 0.5, low=None, high=None), limit=1)
    torch.testing.assert_close(outer.lower, inner.lower, rtol=0, atol=1e-12)
    torch.testing.assert_close(outer.upper, inner.upper, rtol=0, atol=1e-12)


def test_bad_input_is_refused():
    ball = LpBall(torch.zeros(1, 2).double(), 0.5)
    with pytest.raises(UnsupportedLayer, match=r"got aten.tanh.default: use bounds.lp_bounds"):
        milp_bounds(dense(nn.Tanh(), 2, 3, 2), ball)
    with pytest.raises(InvalidInput, match="limit must be an integer of at least 1, got 0"):
        milp_bounds(graph_of("relu"), ball, limit=0)
    with pytest.raises(InvalidInput, match="labels must be class indices"):
        milp_margins(graph_of("relu"), ball, torch.tensor([2]))
    with pytest.raises(InvalidInput, match="norm 2"):
        milp_margins(graph_of("relu"), LpBall(ball.center, 0.5, norm=2), torch.tensor([1]))
