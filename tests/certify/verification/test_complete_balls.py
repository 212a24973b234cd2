"""Complete search in round balls: exact radii against a dense grid, whichever way the search goes."""

import math
from dataclasses import replace

import pytest
import torch
from oracles.networks import dense
from torch import Tensor, nn

from bounds import Box, LpBall, capture
from bounds.search import branch_and_bound
from bounds.search.problem import problem_of
from certify import certified_radius, verify

MODEL = dense(nn.ReLU(), 2, 6, 4, 3, seed=4).requires_grad_(False)
X = torch.tensor([[0.3, 0.4], [0.7, 0.1]], dtype=torch.float64)
STEP = 8.0 / 800


def nearest(norm: float, low: float | None, high: float | None) -> list[float]:
    """Distance of the nearest input of another class on a grid, for each of the inputs."""
    line = torch.linspace(-4.0, 4.0, 801, dtype=torch.float64)
    line = line if low is None or high is None else line[(line >= low) & (line <= high)]
    grid, labels = torch.cartesian_prod(line, line), MODEL(X).argmax(1)
    other = MODEL(grid).argmax(1)
    return [
        float(torch.linalg.vector_norm(grid[other != label] - x, norm, dim=1).min())
        for x, label in zip(X, labels, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "low", "high", "neurons"),
    [
        (1, None, None, False),
        (2, None, None, True),
        (3, None, None, False),
        (2, -1.5, 2.0, False),
        *(
            pytest.param(*rest, marks=pytest.mark.combinations)
            for rest in ((1, None, None, True), (2, None, None, False), (3, None, None, True), (2, -1.5, 2.0, True))
        ),
    ],
)
def test_radii_meet_at_the_nearest_other_class(
    monkeypatch: pytest.MonkeyPatch, norm: float, low: float | None, high: float | None, neurons: bool
):
    if neurons:  # few inputs would have their boxes cut
        monkeypatch.setattr(branch_and_bound, "FEW_INPUTS", 0)
    found = certified_radius(MODEL, X, MODEL(X).argmax(1), norm=norm, method="complete", low=low, high=high, timeout=60)
    for radius, upper, distance in zip(
        found.radius.tolist(), found.upper.tolist(), nearest(norm, low, high), strict=True
    ):
        assert radius <= distance
        assert distance - 3 * STEP <= upper <= radius * (1 + 2e-3)
    adversarial = found.adversarial
    assert (MODEL(adversarial).argmax(1) != MODEL(X).argmax(1)).all()
    assert (torch.linalg.vector_norm(adversarial - X, norm, dim=1) <= found.upper * (1 + 1e-12)).all()


def test_verdicts_on_both_sides_of_the_nearest_other_class():
    distance, labels = min(nearest(2, None, None)), MODEL(X).argmax(1)
    options = {"norm": 2, "method": "complete", "low": None, "high": None, "attack": False, "timeout": 60}
    assert verify(MODEL, X, labels, epsilon=distance - 3 * STEP, **options).verified.all()
    assert verify(MODEL, X, labels, epsilon=distance, **options).falsified.any()


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 4.0])
def test_the_least_point_of_a_ball_is_the_least_of_many(norm: float):
    source = torch.Generator().manual_seed(1)
    ball = LpBall(X[:1], 0.5, norm=norm, low=None, high=None)
    hull = ball.hull()
    case = (torch.ones(1, 3).double(), torch.zeros(1).double())
    problem = problem_of(capture(MODEL, X), Box(hull.lower, hull.upper), [case], math.inf, "rounding", lambda x: None)
    problem = replace(problem, ball=ball)
    slopes = torch.randn(7, 2, generator=source, dtype=torch.float64)
    moves = torch.randn(20_000, 2, generator=source, dtype=torch.float64)
    points: Tensor = X[0] + 0.5 * moves / torch.linalg.vector_norm(moves, norm, dim=1, keepdim=True)
    found = problem.corner(slopes)
    assert (torch.linalg.vector_norm(found - X[0], norm, dim=1) <= 0.5 + 1e-12).all()
    assert ((found * slopes).sum(1) <= (points @ slopes.T).amin(0) + 1e-9).all()
    lower = X[0] + torch.tensor([[0.2, 0.3], [0.6, -0.1], [0.51, 0.0], [-0.2, -0.2]]).double()
    reached = problem.reaches(lower, lower + 0.05)
    apart = torch.maximum(lower - X[0], X[0] - lower - 0.05).clamp(min=0)
    assert reached.tolist() == (torch.linalg.vector_norm(apart, norm, dim=1) <= 0.5).tolist()
    assert 0 < int(reached.sum()) < 4


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2, math.inf])
def test_a_constant_network_without_a_box_is_proved_as_far_as_numbers_go(norm: float):
    model = nn.Linear(2, 3).double()
    model.weight.data.zero_(), model.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
    found = certified_radius(model, X, norm=norm, low=None, high=None, method="complete")
    assert (found.radius > 1e300).all()
    assert found.upper.isinf().all()
