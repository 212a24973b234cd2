"""Linear programmes: recorded optima, grids, laws, and solvers that lie."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest
import torch
from oracles.halfspace import generator
from oracles.networks import dense, grid
from torch import Tensor, nn

from bounds import Box, Graph, InvalidInput, LpBall, SparseBall, UnsupportedLayer, capture, crown, margin_bounds
from bounds.operations.functions import Tables
from bounds.relaxations.scalar import LinePair, ScalarFunction
from bounds.solvers.affine_form import AffineForm, lowest, shifted
from bounds.solvers.encoding import encodings
from bounds.solvers.linear_programme import LinearProgramme, Proposal
from bounds.solvers.triangle import lp_bounds, lp_margins

NETWORKS = ("mlp_relu", "mlp_relu_deep", "mlp_leaky", "cnn_relu", "cnn_bn_avgpool")
RADII = {"inf": (0.02, 0.1), "1": (0.1, 0.5)}
FAST = (("mlp_relu", "inf", 0.1), ("mlp_relu", "1", 0.5), ("mlp_leaky", "inf", 0.1))
RECORDED = [
    pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow)
    for case in ((name, norm, radius) for name in NETWORKS for norm, radii in RADII.items() for radius in radii)
]


@pytest.mark.parametrize(("name", "norm", "radius"), RECORDED)
def test_recorded_optima(rectified, name: str, norm: str, radius: float):
    """HiGHS on another formulation, with the same layer-wise tightening; and never looser than backward bounds."""
    model, x, label, exact, attacks = rectified(name)
    graph, ball = capture(model, x), LpBall(x, radius, norm=float(norm), low=None, high=None)
    found, margins, straight = lp_bounds(graph, ball), lp_margins(graph, ball, label), crown(graph, ball)
    start = f"{norm}/{radius}"
    torch.testing.assert_close(found.lower[0], torch.from_numpy(exact[f"{start}/LP/lb"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.upper[0], torch.from_numpy(exact[f"{start}/LP/ub"]), rtol=0, atol=1e-6)
    others = torch.arange(margins.shape[1]) != label
    torch.testing.assert_close(margins[0, others], torch.from_numpy(exact[f"{start}/LP/margin_lb"]), rtol=0, atol=1e-6)
    assert (margins[0, others].numpy() <= attacks[f"{start}/attack_margin"]).all()
    assert (margins >= margin_bounds(graph, ball, label, "crown")).all()
    assert ((found.lower >= straight.lower) & (found.upper <= straight.upper)).all()
    assert name != "mlp_relu" or (found.lower > straight.lower + 1e-3).any()


def test_the_triangle_by_hand():
    """On [-1, 2] it has the corners (-1, 0), (0, 0) and (2, 2): 3 h - z is at least 0 and at most 4."""

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([3 * x.relu() - x, -3 * x.relu() + 4 * x], 1)

    ball = Box(torch.tensor([[-1.0]]).double(), torch.tensor([[2.0]]).double())
    found = lp_bounds(Sum(), ball)
    torch.testing.assert_close(found.lower, torch.tensor([[0.0, -4.0]]).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.upper, torch.tensor([[4.0, 2.0]]).double(), rtol=0, atol=1e-12)


class Residual(nn.Module):
    """Residual, with a slope for each channel, shared weights, a slice and two kinds of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(1, 4, 2, padding=1), nn.BatchNorm1d(4)
        self.shared, self.slopes, self.last = nn.Conv1d(4, 4, 1, groups=2), nn.PReLU(4), nn.Linear(12, 3)
        for weight in self.parameters():
            weight.data.normal_(0, 0.8, generator=generator(weight.numel()))
        self.slopes.weight.data.copy_(torch.tensor([0.0, 0.3, 1.0, 1.4]))
        self.norm.running_mean.copy_(torch.linspace(-0.3, 0.3, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x.unsqueeze(1))))
        h = self.slopes(self.shared(h)) + h
        one, other = self.shared(h).chunk(2, dim=1)
        h = torch.cat([2 * one - other, torch.tanh(other)], 1)
        return self.last(h.flatten(1))


MODELS = {
    "relu": dense(nn.ReLU(), 2, 8, 6, 3, seed=5),
    "tanh": dense(nn.Tanh(), 2, 6, 5, 3, seed=6),
    "gelu": dense(nn.GELU(), 2, 6, 5, 3, seed=7),
    "branching": Residual().double().eval(),
}


@cache
def graph_of(name: str) -> Graph:
    return capture(MODELS[name], torch.zeros(1, 2).double())


def outside_of_programmes(name: str, ball: LpBall, **options: bool) -> int:
    """Points of a dense grid whose outputs or margins are not as the programmes say."""
    model, graph, x = MODELS[name], graph_of(name), grid(ball, 61)
    label = model(ball.center).argmax(1)
    found, margins = lp_bounds(graph, ball, **options), lp_margins(graph, ball, label, **options)
    y = model(x)
    outside = (y < found.lower - 1e-12) | (y > found.upper + 1e-12) | (y[:, label] - y < margins - 1e-12)
    return int(outside.sum())


GRIDS = [
    ("branching", math.inf),
    *(
        pytest.param(name, norm, marks=pytest.mark.slow)
        for name, norm in (("relu", math.inf), ("tanh", 1), ("relu", 1), ("gelu", 1), ("gelu", math.inf))
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), GRIDS)
def test_no_point_of_a_dense_grid_lies_outside(name: str, norm: float):
    x = torch.tensor([[0.3, 0.4]]).double()
    assert outside_of_programmes(name, LpBall(x, 0.5, norm=norm)) == 0
    assert outside_of_programmes(name, LpBall(x, 0.5, norm=norm, low=None, high=None), tighten=False) == 0


def test_a_wrong_line_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant: upper lines that are 10 % too flat."""
    whole = ScalarFunction.lines

    def flat(self: ScalarFunction, interval: object) -> LinePair:
        lines = whole(self, interval)
        return lines._replace(upper_slope=0.9 * lines.upper_slope, upper_intercept=0.9 * lines.upper_intercept)

    monkeypatch.setattr(ScalarFunction, "lines", flat)
    assert outside_of_programmes("relu", LpBall(torch.tensor([[0.3, 0.4]]).double(), 0.5, low=None, high=None)) > 0


# ------------------------------------------------------------------------------------------------- solvers that lie


def random_programme(seed: int) -> tuple[LinearProgramme, Tensor]:
    """A programme in which 200 known points are feasible."""
    source = generator(seed)
    points = torch.rand(200, 5, generator=source, dtype=torch.float64) * 2 - 1
    matrix = torch.randn(12, 5, generator=source, dtype=torch.float64)
    lower, upper = points.amin(0), points.amax(0)
    return LinearProgramme(matrix, (points @ matrix.T).amin(0), lower, upper), points


def doubled(programme: LinearProgramme) -> LinearProgramme:
    """With every row in both directions, as an equation."""
    matrix, right = torch.cat([programme.matrix, -programme.matrix]), torch.cat([programme.right, -programme.right])
    return replace(programme, matrix=matrix, right=right)


whole_bound, whole_answer = LinearProgramme.proved, LinearProgramme.propose


def without_clip(programme: LinearProgramme, costs: Tensor, multipliers: Tensor, right: Tensor) -> Tensor:
    """The mutant: multipliers of any sign, as equations would have them."""
    both = torch.cat([multipliers, -multipliers], 1)
    return whole_bound(doubled(programme), costs, both, torch.cat([right, -right]))


def of_equations(programme: LinearProgramme, cost: Tensor, right: Tensor) -> Proposal:
    """A solver that takes rows for equations: its multipliers have any sign, and what they seem to prove is wrong."""
    answer = whole_answer(doubled(programme), cost, torch.cat([right, -right]))
    one, other = answer.multipliers.chunk(2)
    return answer._replace(multipliers=10 * (one - other))


@pytest.mark.slow
def test_any_multipliers_bound_a_programme():
    wrong = 0
    for seed in range(2):
        programme, points = random_programme(seed)
        costs = torch.randn(20, 5, generator=generator(seed + 100), dtype=torch.float64)
        noise = torch.randn(20, 12, generator=generator(seed + 200), dtype=torch.float64)
        best = torch.stack([programme.propose(cost, programme.right).multipliers for cost in costs])
        bad = torch.stack([of_equations(programme, cost, programme.right).multipliers for cost in costs])
        reached = (points @ costs.T).amin(0)
        for given in (noise, 1e6 * noise, best + 0.1 * noise, best, -best, bad, best * math.nan):
            assert (programme.proved(costs, given, programme.right) <= reached).all()
        assert (programme.proved(costs, best, programme.right) >= reached - 3.0).all()  # and not for nothing
        wrong += int((without_clip(programme, costs, bad, programme.right) > reached).sum())
    assert wrong > 20


def noisy(programme: LinearProgramme, cost: Tensor, right: Tensor) -> Proposal:
    """A solver that is off by a third."""
    answer = whole_answer(programme, cost, right)
    noise = torch.randn(len(right), generator=generator(int(1e6 * cost.abs().sum()) % 997), dtype=torch.float64)
    return answer._replace(multipliers=answer.multipliers + 0.3 * noise)


@pytest.mark.slow
def test_bounds_hold_whatever_the_solver_says(monkeypatch: pytest.MonkeyPatch):
    ball = LpBall(torch.tensor([[0.3, 0.4]]).double(), 0.5, norm=1, low=None, high=None)
    for lie in (noisy, of_equations):
        monkeypatch.setattr(LinearProgramme, "propose", lie)
        assert outside_of_programmes("relu", ball) == 0
    monkeypatch.setattr(LinearProgramme, "proved", without_clip)
    assert outside_of_programmes("relu", ball) > 0


def test_a_solver_that_fails_costs_tightness_alone(monkeypatch: pytest.MonkeyPatch):
    ball = LpBall(torch.tensor([[0.3, 0.4]]).double(), 0.5, low=None, high=None)
    straight = crown(graph_of("relu"), ball)
    assert (lp_bounds(graph_of("relu"), ball).lower > straight.lower).any()
    monkeypatch.setattr("bounds.solvers.simplex.Simplex.minimum", lambda *arguments: (None, None))
    found = lp_bounds(graph_of("relu"), ball)
    torch.testing.assert_close(found.lower, straight.lower, rtol=0, atol=0)
    torch.testing.assert_close(found.upper, straight.upper, rtol=0, atol=0)


def test_rounding_is_subtracted():
    """The bound 1 of x >= 1/3 in units of 1/3 is not proved, since 1/3 is rounded; the true minimum is below 1."""
    one = torch.ones(1, dtype=torch.float64)
    programme = LinearProgramme(one[None], one / 3, 0 * one, one)
    bound = programme.proved(3 * one[None], 3 * one[None], programme.right)
    assert float(bound) < 1 - 2**-53 < 1
    assert float(bound) > 1 - 1e-13


def exactly(model: nn.Sequential, x: Tensor) -> list[Fraction]:
    """The outputs of linear layers and rectifiers in rational arithmetic."""
    values = [Fraction(entry) for entry in x.tolist()]
    for layer in model:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b)) for row, b in rows]
        else:
            values = [max(value, Fraction(0)) for value in values]
    return values


@pytest.mark.slow
def test_rounding_of_forms_is_within_their_rounding_error():
    """At single points, where nothing but rounding is left."""
    model, x = (
        dense(nn.ReLU(), 4, 20, 20, 20, 3, seed=2),
        torch.randn(10, 4, generator=generator(1), dtype=torch.float64),
    )
    off = []
    for row, encoding in enumerate(encodings(capture(model, x), Box(x, x), True, Tables())):
        exact, output = exactly(model, x[row]), encoding.forms["output"]
        form = encoding.combination(torch.eye(3).double())
        lower, upper = lowest(encoding.programme(), form), -lowest(encoding.programme(), form.negated())
        for low, value, high in zip(lower.tolist(), exact, upper.tolist(), strict=True):
            assert Fraction(low) <= value <= Fraction(high)
        values = (torch.tensordot(x[row], output.matrix, 1) + output.offset)[0].tolist()
        off += [abs(Fraction(value) - true) for value, true in zip(values, exact, strict=True)]
        assert all(
            error <= Fraction(rounding_error)
            for error, rounding_error in zip(off[-3:], output.rounding_error[0].tolist(), strict=True)
        )
        assert float((upper - lower).max()) < 1e-11
    assert max(off) > 0
    least, offset, rounding_error = torch.rand(3, 100, generator=generator(2), dtype=torch.float64)
    found = shifted(least, AffineForm(offset[None], offset, rounding_error))
    for bound, *parts in zip(found.tolist(), least.tolist(), offset.tolist(), rounding_error.tolist(), strict=True):
        one, other, less = map(Fraction, parts)
        assert one + other - less - Fraction(1, 10**14) < Fraction(bound) <= one + other - less


# -------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.slow
def test_rows_stand_alone_and_laws_hold():
    model = MODELS["relu"]
    x = torch.tensor([[0.3, 0.4], [0.7, 0.2], [0.5, 0.5]]).double()
    radii = torch.tensor([0.3, 0.1, 0.0]).double()
    graph, labels = capture(model, x), torch.tensor([0, 2, 1])
    together, margins = lp_bounds(graph, LpBall(x, radii)), lp_margins(graph, LpBall(x, radii), labels)
    for i in range(3):
        alone = lp_bounds(graph, LpBall(x[i : i + 1], float(radii[i])))
        torch.testing.assert_close(together.lower[i], alone.lower[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together.upper[i], alone.upper[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(together.lower[2], model(x)[2], rtol=0, atol=1e-12)
    assert (margins.gather(1, labels[:, None]) == 0).all()
    # The difference as an objective is at least as tight as a difference of bounds, and somewhere tighter.
    apart = together.lower.gather(1, labels[:, None]) - together.upper
    off = torch.arange(3) != labels[:, None]
    assert (margins >= apart - 1e-9)[off].all()
    assert (margins > apart + 1e-3)[off].any()
    loose, wide = lp_bounds(graph, LpBall(x, radii), tighten=False), lp_bounds(graph, LpBall(x, 2 * radii))
    assert (loose.lower <= together.lower + 1e-9).all()
    assert (wide.lower <= together.lower + 1e-9).all()
    assert (loose.lower < together.lower - 1e-6).any()


def test_a_box_cuts_an_l1_ball():
    """In front of the first functions too, where linear propagation takes one or the other."""
    x = torch.tensor([[0.1, 0.9]]).double()
    cut, whole = LpBall(x, 0.5, norm=1), LpBall(x, 0.5, norm=1, low=None, high=None)
    found, other = lp_bounds(graph_of("relu"), cut), lp_bounds(graph_of("relu"), whole)
    assert (found.lower >= other.lower - 1e-9).all()
    assert (found.upper - found.lower).sum() < 0.9 * (other.upper - other.lower).sum()


def test_an_infinite_ball_is_no_error():
    ball = LpBall(torch.zeros(1, 2).double(), math.inf, low=None, high=None)
    assert lp_bounds(graph_of("relu"), ball).lower.isneginf().all()


@pytest.mark.slow
def test_the_model_comes_back_as_it_was():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).double().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lp_bounds(model, LpBall(torch.rand(1, 2, generator=generator(1), dtype=torch.float64), 0.1))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


X = torch.full((2, 2), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ball", "message"),
    [
        (LpBall(X, 0.1, norm=2), "LpBall of norm 2"),
        (SparseBall(X, 1), "SparseBall"),
        (LpBall(X.float(), 0.1), r"float64, got torch.float32: convert its tensors with .double()"),
    ],
)
def test_other_sets_are_refused(ball: object, message: str):
    with pytest.raises(InvalidInput, match=message):
        lp_bounds(graph_of("relu"), ball)


def test_large_networks_and_unknown_operations_are_refused():
    with pytest.raises(InvalidInput, match="at most 20000 values per input, got 30"):
        lp_bounds(nn.Sequential(nn.Linear(2, 15_000), nn.ReLU(), nn.Linear(15_000, 2)).double(), LpBall(X, 0.1))
    wide = nn.Sequential(nn.Linear(2, 2_500), nn.ReLU(), nn.Linear(2_500, 2)).double()
    with pytest.raises(InvalidInput, match="at most 2000 entries"):
        lp_bounds(wide, LpBall(X, 10.0, low=None, high=None))
    with pytest.raises(InvalidInput, match="labels must be class indices"):
        lp_margins(graph_of("relu"), LpBall(X, 0.1), torch.tensor([0, 3]))

    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0, keepdim=True)).relu()

    with pytest.raises(UnsupportedLayer, match="dimension of inputs"):
        lp_bounds(Mixing(), LpBall(X, 0.1))
