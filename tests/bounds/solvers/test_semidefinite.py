"""Semidefinite programmes: between linear programmes and the exact minimum, whatever the solver says."""

import math
from functools import cache
from itertools import product

import pytest
import torch
from oracles.halfspace import generator
from oracles.networks import dense, grid
from torch import Tensor, nn

from bounds import Graph, InvalidInput, LpBall, capture, margin_bounds
from bounds.solvers import semidefinite
from bounds.solvers.milp import milp_margins
from bounds.solvers.semidefinite import Affines, Multipliers, SemidefiniteProgramme, least_eigenvalue, sdp_margins
from bounds.solvers.triangle import lp_margins

X = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
SHAPES = [((2, 6, 6, 3), 5), ((2, 4, 4, 4, 3), 6)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "norm"),
    [
        (nn.LeakyReLU(0.1), 1),
        *(pytest.param(part, math.inf, marks=pytest.mark.slow) for part in (nn.ReLU(), nn.LeakyReLU(0.1))),
    ],
)
def test_between_the_linear_programme_and_the_minimum(activation: nn.Module, norm: float):
    gain = gap = 0.0
    for sizes, seed in SHAPES:
        model = dense(activation, *sizes, seed=seed)
        net, ball, label = capture(model, X), LpBall(X, 0.7, norm=norm, low=None, high=None), model(X).argmax(1)
        linear, exact = lp_margins(net, ball, label), milp_margins(net, ball, label).reached
        found = sdp_margins(net, ball, label)
        assert (found >= linear - 1e-5).all()
        assert (found <= exact + 1e-12).all()
        assert float(found[0, label]) == 0
        gain, gap = gain + float((found - linear).sum()), gap + float((exact - linear).sum())
    assert gain > (0.1 if norm == math.inf else 0.001) * gap  # an l1 ball is in it by its linear rows alone


@pytest.mark.slow
def test_scs_is_less_accurate_and_as_sound():
    ball = LpBall(X, 0.7, low=None, high=None)
    one, other = sdp_margins(graph(), ball, LABEL), sdp_margins(graph(), ball, LABEL, solver="SCS")
    assert (other <= milp_margins(graph(), ball, LABEL).reached).all()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-2)


MODEL = dense(nn.ReLU(), 2, 6, 6, 3, seed=5)
LABEL = MODEL(X).argmax(1)


@cache
def graph() -> Graph:
    return capture(MODEL, X)


def excess(ball: LpBall) -> float:
    """The most by which margins lie above what a dense grid of inputs reaches."""
    y = MODEL(grid(ball, 81)).detach()
    return float((sdp_margins(graph(), ball, LABEL) - (y[:, LABEL] - y).amin(0)).max())


def test_margins_hold_whatever_the_solver_says(monkeypatch: pytest.MonkeyPatch):
    """Noise, and multipliers that seem to prove anything. The mutant takes the eigenvalue for 0, as the solver does."""
    ball, whole, source = LpBall(X, 0.5, low=None, high=None), SemidefiniteProgramme.propose, generator(3)
    for scale in (1e-4, 0.3, 100.0):

        def wrong(self: SemidefiniteProgramme, cost: Affines, solver: str, scale: float = scale) -> Multipliers:
            answer = whole(self, cost, solver)
            noisy = [part + scale * torch.randn(part.shape, generator=source, dtype=part.dtype) for part in answer]
            return Multipliers(*noisy)

        monkeypatch.setattr(SemidefiniteProgramme, "propose", wrong)
        assert excess(ball) <= 1e-9

    def boasting(self: SemidefiniteProgramme, cost: Affines, solver: str) -> Multipliers:
        rows, products, squares = whole(self, cost, solver)
        return Multipliers(rows, products, squares + 1)

    monkeypatch.setattr(SemidefiniteProgramme, "propose", boasting)
    assert excess(ball) <= 1e-9
    monkeypatch.setattr(semidefinite, "least_eigenvalue", lambda matrix: matrix.new_zeros(()))
    assert excess(ball) > 0.1


def programme_of(rows: Tensor) -> SemidefiniteProgramme:
    """A problem of functions (J, V + 1) that are nonnegative, and no neurons."""
    programme, none = object.__new__(SemidefiniteProgramme), Affines(rows[:0], rows[:0, 0])
    programme.rows, programme.above, programme.partner = Affines(rows, torch.zeros_like(rows[:, 0])), none, none
    return programme


def test_negative_multipliers_of_rows_prove_nothing():
    """Against the corners of a square. The mutant without the clip turns rows and multipliers around."""
    source, wrong = generator(4), 0
    vectors = torch.randn(3, 3, generator=source, dtype=torch.float64)
    vectors[:, 0] = vectors[:, 1:].abs().sum(1)  # nonnegative on the square
    corners = torch.tensor([(1, *corner) for corner in product((-1, 1), repeat=2)]).double()
    for _ in range(50):
        cost, rows = torch.randn(2, 3, generator=source, dtype=torch.float64)
        exact, function = (corners @ cost).min(), Affines(cost[None], cost.new_zeros(1))
        linear = cost - rows @ vectors
        half = linear[1:].abs() / 2
        squares = torch.cat([linear[:1] - half.sum(), -half])  # the best ones for a linear function
        assert programme_of(vectors).proved(function, Multipliers(rows, rows[:0], squares)) <= exact
        turned = programme_of(vectors * rows.sign()[:, None])
        wrong += int(turned.proved(function, Multipliers(rows.abs(), rows[:0], squares)) > exact)
    assert programme_of(vectors).proved(function, Multipliers(rows * math.nan, rows[:0], squares)) == -math.inf
    assert wrong > 0


def test_a_positive_square_adds_nothing():
    """The set is x = 0, where the function is 1; the multiplier -2 of x * x = 0 adds 2 x^2, which is at least 0."""
    programme, x = programme_of(torch.zeros(0, 2).double()), torch.tensor([[0.0, 1.0]]).double()
    programme.above = programme.partner = Affines(x, torch.zeros(1).double())
    function = Affines(torch.tensor([[1.0, 0.0]]).double(), torch.zeros(1).double())
    multipliers = Multipliers(x[0, :0], torch.tensor([-2.0]).double(), torch.tensor([1.0, 2.0]).double())
    assert 1 - 1e-12 < float(programme.proved(function, multipliers)) <= 1


def test_the_least_eigenvalue_is_bounded_from_below(monkeypatch: pytest.MonkeyPatch):
    """Second differences on a path have the least eigenvalue 2 - 2 cos(pi / (n + 1)); also where ``eigh`` is wrong."""
    for size in (2, 5, 30):
        path = 2 * torch.eye(size, dtype=torch.float64)
        path -= torch.diag(torch.ones(size - 1), 1) + torch.diag(torch.ones(size - 1), -1)
        for shift in (0.0, 1.0, 5.0):
            exact = 2 - 2 * math.cos(math.pi / (size + 1)) - shift
            bound = float(least_eigenvalue(path - shift * torch.eye(size, dtype=torch.float64)))
            assert min(exact, 0.0) - 1e-10 <= bound <= min(exact, 0.0) + 1e-15
    whole = torch.linalg.eigh

    for shift, factor in ((0.3, 1.0), (0.3, 1.1), (0.0, 0.9)):

        def nonsense(matrix: Tensor, shift: float = shift, factor: float = factor) -> tuple[Tensor, Tensor]:
            values, vectors = whole(matrix)
            return values + shift, vectors * factor

        monkeypatch.setattr(torch.linalg, "eigh", nonsense)
        assert float(least_eigenvalue(path - 5 * torch.eye(size, dtype=torch.float64))) <= exact
    assert float(least_eigenvalue(path * math.nan)) == -math.inf


def test_a_solver_that_fails_leaves_backward_bounds(monkeypatch: pytest.MonkeyPatch):
    ball = LpBall(X, 0.5)
    straight = margin_bounds(graph(), ball, LABEL, "crown")
    assert (sdp_margins(graph(), ball, LABEL) > straight).any()
    monkeypatch.setattr(semidefinite, "solved", lambda *arguments, **parameters: False)
    torch.testing.assert_close(sdp_margins(graph(), ball, LABEL), straight, rtol=0, atol=0)


def test_bad_input_is_refused():
    model, ball, label = graph(), LpBall(X, 0.5), torch.tensor([0])
    with pytest.raises(InvalidInput, match="solver must be one of CLARABEL, SCS, got 'MOSEK'"):
        sdp_margins(model, ball, label, solver="MOSEK")
    with pytest.raises(InvalidInput, match="norm 2"):
        sdp_margins(model, LpBall(X, 0.5, norm=2), label)
    with pytest.raises(InvalidInput, match="labels must be class indices"):
        sdp_margins(model, ball, label + 3)
    wide = nn.Sequential(nn.Linear(2, 200), nn.ReLU(), nn.Linear(200, 2)).double()
    with pytest.raises(InvalidInput, match="at most 100 entries of the input and unstable neurons"):
        sdp_margins(wide, LpBall(X, 10.0, low=None, high=None), label)
