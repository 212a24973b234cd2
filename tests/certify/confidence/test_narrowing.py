import math

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Box, InvalidInput, LpBall, SparseBall
from certify import attacks, confidence_bound
from certify.confidence.narrowing import GRAIN, Narrowing, below_the_sum


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_linear_functions_lie_below_the_sum_of_exponentials(scale: float):
    logits = scale * torch.randn(3, 6, generator=generator()).double()
    values = torch.cat([logits, scale * torch.randn(500, 6, generator=generator(1)).double()])
    for label in range(6):
        rows, offsets = below_the_sum(logits, label)
        exact = (values - values[:, label : label + 1]).index_fill(1, torch.tensor(label), -math.inf).logsumexp(1)
        found = (values @ rows.T - offsets).amax(1)
        assert (found <= exact + 1e-12 * (1 + exact.abs())).all()
        assert (found[:3] > exact[:3] - 12 * 6 / GRAIN).all()  # weights of a point give equality there
        assert (rows.float().double() == rows).all()
        assert (rows.sum(1) == 0).all()


def network() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    for layer in model[::2]:
        layer.weight.data *= 2.5
    return model


def most_confident(model: nn.Module, x: Tensor, epsilon: float, norm: float) -> Tensor:
    steps = torch.linspace(-epsilon, epsilon, 81)
    moves = torch.cartesian_prod(steps, steps)
    moves = moves[torch.linalg.vector_norm(moves.double(), norm, dim=1) <= epsilon]
    return confidences(model, x, moves).amax((0, 2))


def confidences(model: nn.Module, x: Tensor, moves: Tensor) -> Tensor:
    """Confidences in all classes (S, N, K) after all moves (S, D)."""
    with torch.no_grad():
        return model.double()((x + moves[:, None]).flatten(0, 1).double()).softmax(1).unflatten(0, (-1, len(x)))


@pytest.mark.slow
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_no_point_is_surer_and_bounds_are_lower_where_marks_lie_between(norm: float):
    model, x, epsilon = network(), torch.rand(3, 2, generator=generator()), 0.3
    exact = most_confident(model, x, epsilon, norm)
    model = model.float()
    ball = LpBall(x.double(), epsilon, norm, None, None)
    budget = {"norm": norm, "epsilon": epsilon, "low": None, "high": None}
    witness = attacks.highest_confidence(model, x, **budget, steps=10, restarts=1, generator=generator())
    before = confidence_bound(model, ball, "crown_ibp").upper
    marks = torch.linspace(0, 1, 200).double()
    found = Narrowing(model=model, ball=ball, most_parts=40).between(marks, witness, before)
    assert (found >= exact - 1e-7).all()
    assert (found <= before.amax(1)).all()
    gap = (before.amax(1) - exact).mean()
    assert (found - exact).mean() < 0.3 * gap
    assert torch.equal(
        Narrowing(model=model, ball=ball, most_parts=40).between(marks[:1], witness, before), before.amax(1)
    )
    late = Narrowing(model=model, ball=ball, most_parts=40, deadline=-math.inf)
    assert torch.equal(late.between(marks, witness, before), before.amax(1))


@pytest.mark.parametrize("parts", [1, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["linf", "l2", "box"])
def test_bounds_on_confidences_of_all_classes_hold_and_are_lower_with_parts(kind: str, parts: int):
    model, x, epsilon = network().double(), torch.rand(2, 2, generator=generator()).double(), 0.25
    norm = 2 if kind == "l2" else math.inf
    steps = torch.linspace(-epsilon, epsilon, 61).double()
    moves = torch.cartesian_prod(steps, steps)
    exact = confidences(model, x, moves[torch.linalg.vector_norm(moves, norm, dim=1) <= epsilon]).amax(0)
    ball = Box(x - epsilon, x + epsilon) if kind == "box" else LpBall(x, epsilon, norm, None, None)
    before = confidence_bound(model, ball, "crown_ibp")
    found = confidence_bound(model, ball, "crown_ibp", most_parts=parts)
    assert (found.upper >= exact - 1e-9).all()
    assert (found.upper <= before.upper).all()
    assert torch.equal(found.lower, before.lower)
    gap, left = (one.largest - exact.amax(1) for one in (before, found))
    assert (left.mean() < gap.mean() * (0.9 if parts == 1 else 0.4)).all()
    late = confidence_bound(model, ball, "crown_ibp", most_parts=parts, timeout=1e-9)
    assert torch.equal(late.upper, before.upper)


def test_sets_that_are_no_balls_are_refused():
    ball = SparseBall(torch.rand(2, 2, generator=generator()), 1)
    with pytest.raises(InvalidInput, match="most_parts must be 0 for a SparseBall, got 3"):
        confidence_bound(network(), ball, most_parts=3)
