"""Random small networks: sums, products, concatenations, skips, shared weights and activations in any order."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.halfspace import generator
from oracles.networks import outside
from torch import Tensor, nn

from bounds import LpBall, alpha_crown, capture, crown, crown_ibp, fast_lin, ibp
from bounds.operations.affine import AFFINE
from bounds.operations.transposes import linear
from bounds.rows import DenseRows

WIDTH, BATCH = 4, 2
ACTIVATIONS = {
    "relu": torch.relu,
    "leaky": lambda x: nn.functional.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "sine": torch.sin,
    "abs": torch.abs,
    "square": lambda x: 0.3 * x**2,
    "softmax": lambda x: x.softmax(1),
    "norm": lambda x: nn.functional.layer_norm(x, (WIDTH,), eps=0.1),
    "clamp": lambda x: x.clamp(-0.5, 0.8),
}
BINARY = {
    "sum": torch.add,
    "difference": lambda x, y: x - 0.5 * y,
    "product": torch.mul,
    "maximum": torch.maximum,
    "quotient": lambda x, y: x / (1 + y**2),
    "halves": lambda x, y: torch.cat([y[:, 2:], x[:, :2]], 1),
    "rows": lambda x, y: (x.unsqueeze(2) @ y.unsqueeze(1)).mean(2),
}
Step = tuple[str, int, int]  # what is done, to which of the earlier values
STEPS = st.lists(
    st.tuples(st.sampled_from(["linear", "linear", *ACTIVATIONS, *BINARY]), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)


class Random(nn.Module):
    """Every step takes earlier values; two linear layers are shared by all; all values but the input are added up."""

    def __init__(self, steps: list[Step], seed: int) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, dtype=torch.float64) for _ in range(2))
        for weight in self.parameters():
            weight.data.normal_(0, 0.8, generator=generator(seed))

    def forward(self, x: Tensor) -> Tensor:
        values = [self.layers[0](x)]
        for name, one, other in self.steps:
            first, second = (values[-1 - place % len(values)] for place in (one, other))
            if name == "linear":
                values.append(self.layers[other % 2](first))
            elif name in ACTIVATIONS:
                values.append(ACTIVATIONS[name](first))
            else:
                values.append(BINARY[name](first, second))
        return torch.stack(values, 2).sum(2)


def points(ball: LpBall) -> Tensor:
    """All corners of both boxes, and points inside: (M, N, WIDTH)."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * WIDTH)
    inside = torch.rand(60, WIDTH, generator=generator(1), dtype=torch.float64) * 2 - 1
    return ball.center + torch.cat([corners, inside]).unsqueeze(1) * ball.radii.view(1, -1, 1)


def check(steps: list[Step], seed: int, radius: float) -> None:
    model = Random(steps, seed)
    x = torch.randn(BATCH, WIDTH, generator=generator(seed + 1), dtype=torch.float64)
    graph = capture(model, x)
    ball = LpBall(x, radius * torch.tensor([1.0, 0.3]).double(), low=None, high=None)
    loose = ibp(graph, ball)
    for bound in (crown_ibp, fast_lin, crown, lambda *both: alpha_crown(*both, steps=2)):
        found = bound(graph, ball)
        assert not outside(model, points(ball), found)
        assert (found.lower >= loose.lower - 1e-9 * (1 + loose.lower.abs())).all()
    assert not outside(model, points(ball), loose)
    point = LpBall(x, 0.0, low=None, high=None)
    with torch.no_grad():
        y = model(x)
    width = crown(graph, point).upper - crown(graph, point).lower
    assert (width <= 1e-9 * (1 + y.abs())).all()


@pytest.mark.slow
@settings(max_examples=2, deadline=None, derandomize=True)
@given(STEPS, st.integers(0, 99), st.sampled_from([0.01, 0.2, 1.0]))
def test_random_networks_are_enclosed(steps: list[Step], seed: int, radius: float):
    check(steps, seed, radius)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(STEPS, st.integers(0, 99), st.sampled_from([0.01, 0.2, 1.0]))
def test_many_random_networks_are_enclosed(steps: list[Step], seed: int, radius: float):
    check(steps, seed, radius)


def _negated(node, rows, shapes):  # stands for a transpose
    (part,) = linear(node, rows, shapes)
    return (DenseRows(-part.dense()),)


def _without_move(node, reach):  # stands for a spread
    return torch.zeros_like(node.value)


@pytest.mark.parametrize("change", [{"transpose": _negated}, {"spread": _without_move}], ids=["sign", "spread"])
def test_a_wrong_rule_is_seen(change: dict[str, object]):
    """Mutants: a transpose with the wrong sign, and an affine layer that does not spread its interval."""
    entry = AFFINE["aten.linear.default"]
    table = {**AFFINE, "aten.linear.default": replace(entry, **change)}
    model = Random([("relu", 0, 0), ("product", 0, 1), ("linear", 0, 1)], 3)
    x = torch.randn(BATCH, WIDTH, generator=generator(4), dtype=torch.float64)
    ball = LpBall(x, 0.3, math.inf, low=None, high=None)
    assert not outside(model, points(ball), crown(model, ball))
    assert outside(model, points(ball), crown(model, ball, table=table))
