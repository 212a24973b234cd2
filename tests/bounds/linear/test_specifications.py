"""Sets of unsafe outputs: closed forms, margins, exact minima by branch and bound, sampling, and what is refused."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from oracles.networks import dense
from torch import Tensor, nn

from bounds import InvalidInput, LpBall, capture, margin_bounds, milp_bounds, specification_bounds
from bounds.linear.methods import METHODS
from bounds.linear.specifications import _Worst


class Slanted(nn.Module):
    """Outputs x1 + x0 and x1 - x0, of which the larger is x1 + |x0|."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 1] + x[:, 0], x[:, 1] - x[:, 0]], 1)


@pytest.mark.slow
def test_inequalities_that_hold_nowhere_together():
    """Each of them holds somewhere in the ball; half of both is x1 > 0.4, which proves that they never do at once."""
    ball = LpBall(torch.tensor([[0.0, 1.0], [0.0, 0.8]], dtype=torch.float64), 0.5, low=None, high=None)
    pair = torch.eye(2, dtype=torch.float64), torch.full((2,), 0.375, dtype=torch.float64)
    exact = torch.tensor([[0.125], [-0.075]], dtype=torch.float64)
    alone = specification_bounds(Slanted(), ball, [(pair[0][:1], pair[1][:1])])
    torch.testing.assert_close(alone, exact - 0.5, rtol=0, atol=1e-9)
    together = specification_bounds(Slanted(), ball, [pair], steps=100)
    assert (together <= exact).all()
    torch.testing.assert_close(together, exact, rtol=0, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_single_inequalities_are_margins(method: str):
    """Unsafe where another class is at least as large."""
    model = dense(nn.ReLU(), 5, 12, 10, 2)
    x = torch.rand(3, 5, generator=generator(), dtype=torch.float64)
    graph, y, ball = capture(model, x), torch.zeros(3, dtype=torch.long), LpBall(x, 0.1, 2)
    unsafe = [(torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    found = specification_bounds(graph, ball, unsafe, method, steps=0)
    margins = margin_bounds(graph, ball, y, method, steps=0)[:, 1:]
    torch.testing.assert_close(found, margins, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_bounds_against_exact_minima(single: bool):
    """Below branch and bound, also for a model in single precision, and near it; better than any one inequality."""
    model = dense(nn.ReLU(), 3, 8, 8, 4, seed=3)
    model = model.float() if single else model
    x = torch.rand(2, 3, generator=generator(1), dtype=torch.float64)
    rows = torch.randn(3, 4, generator=generator(2)).to(torch.float64)  # exact in single precision
    ball, offsets = LpBall(x, 0.05), torch.zeros(3, dtype=torch.float64)
    found = specification_bounds(model, ball, [(rows, offsets)], steps=60)
    dtype = model[0].weight.dtype
    exact = milp_bounds(_Worst(model, rows.to(dtype), offsets.to(dtype)), ball).outer.lower
    assert (found <= exact + 1e-9).all()
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)
    if not single:
        each = specification_bounds(model, ball, [(rows[i : i + 1], offsets[:1]) for i in range(3)], steps=60)
        assert (found[:, 0] >= each.amax(1) - 1e-6).all()


@pytest.mark.parametrize("method", ["ibp", pytest.param("crown", marks=pytest.mark.slow)])
def test_a_set_that_is_reached_is_never_excluded(method: str):
    """Each set has the output of one input of one ball as its corner; farther away the bound tells that it is clear."""
    model = dense(nn.Tanh(), 4, 10, 6, seed=5).requires_grad_(False)
    x = torch.rand(2, 4, generator=generator(3), dtype=torch.float64)
    inside = (x + 0.2 * (2 * torch.rand(2, 4, generator=generator(6), dtype=torch.float64) - 1)).clamp(0, 1)
    rows = torch.randn(5, 6, generator=generator(4), dtype=torch.float64)
    corners = [(rows, rows @ output) for output in model(inside)]
    found = specification_bounds(model, LpBall(x, 0.2), corners, method)
    assert (found.diagonal() <= 0).all()
    clear = specification_bounds(model, LpBall(x, 0.2), [(a, b - 20) for a, b in corners], method)
    assert (clear > 0).all()


PAIR = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unsafe": []}, "unsafe must hold at least one pair"),
        ({"unsafe": [(PAIR[0][:, :1], PAIR[1])]}, r"pairs of A \(M, 2\) and b \(M,\)"),
        ({"unsafe": [(PAIR[0], PAIR[1][:1])]}, r"pairs of A \(M, 2\) and b \(M,\)"),
        ({"unsafe": [(PAIR[0][:0], PAIR[1][:0])]}, "one row for each inequality"),
        ({"unsafe": [(PAIR[0] * math.nan, PAIR[1])]}, "A must be finite"),
        (
            {"unsafe": [(PAIR[0], PAIR[1] + 0.1)], "model": nn.Linear(2, 2)},
            "b must be finite and exact in the torch.fl",
        ),
        ({"method": "magic"}, "method must be one of"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str):
    proper: dict[str, object] = {"model": Slanted(), "ball": LpBall(torch.zeros(1, 2).double(), 0.1), "unsafe": [PAIR]}
    call: Callable = specification_bounds
    with pytest.raises(InvalidInput, match=message):
        call(**proper | change)
