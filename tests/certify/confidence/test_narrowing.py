import math

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall
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
    with torch.no_grad():
        return model.double()((x + moves[:, None]).flatten(0, 1).double()).softmax(1).amax(1).view(-1, len(x)).amax(0)


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
