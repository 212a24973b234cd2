"""Constant masks in front of a softmax hide what they hide: the oracle is the softmax of what is left."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall, UnsupportedLayer, capture, crown, ibp

LATER = torch.ones(4, 4).triu(1).bool()
PADDING = torch.tensor([False, False, True, False])
X = torch.randn(3, 4, generator=generator(4), dtype=torch.float64)


class Attends(nn.Module):
    """Scores of an input with itself, and a function of them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.unsqueeze(1) * torch.tensor([-1.0, -0.5, 0.25, 1.0]).to(x).unsqueeze(1)).flatten(1)


def hidden(scores: Tensor) -> Tensor:
    """The oracle: softmax of the entries that are left, row by row."""
    found = torch.zeros_like(scores)
    for i in range(4):
        found[:, i, : i + 1] = scores[:, i, : i + 1].softmax(-1)
    return found


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "filled with minus infinity": lambda s: s.masked_fill(LATER, -math.inf).softmax(-1),
    "filled with a large number": lambda s: s.masked_fill(LATER, -1e9).softmax(-1),
    "filled, then scaled": lambda s: (2 * s).masked_fill(LATER, -math.inf).div(2.0).softmax(-1),
    "with a summand behind": lambda s: (s - 1).masked_fill(LATER, -math.inf).add(torch.ones(4).to(s)).softmax(-1),
    "chosen": lambda s: torch.where(~LATER, s, torch.tensor(-math.inf).to(s)).softmax(-1),
    "added": lambda s: (s + torch.zeros(4, 4).masked_fill(LATER, -math.inf).to(s)).softmax(-1),
    "added, the least number": lambda s: (s + torch.finfo(torch.float32).min * LATER.to(s)).softmax(-1),
    "twice, by heads": lambda s: (
        s.unsqueeze(1).masked_fill(LATER, -math.inf).masked_fill(LATER & PADDING, -1e5).softmax(-1)
    ),
    "for every input": lambda s: s.masked_fill(torch.zeros(s.shape[0], 4, 4).bool() | LATER, -math.inf).softmax(-1),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n.endswith("number") else pytest.param(n, marks=pytest.mark.slow) for n in MASKS]
)
def test_what_is_hidden_takes_no_part(name: str):
    """Bounds are those of the rest: exact at a point, of the sampled width around it."""
    graph = capture(Attends(MASKS[name]), X)
    exact = Attends(hidden)
    for bound in (ibp, crown):
        found = bound(graph, LpBall(X, 0.0, low=None, high=None))
        torch.testing.assert_close(found.lower, exact(X), rtol=0, atol=1e-11)
        torch.testing.assert_close(found.upper, exact(X), rtol=0, atol=1e-11)
        found = bound(graph, LpBall(X, 0.2, low=None, high=None))
        corners = torch.cartesian_prod(*[torch.tensor([-0.2, 0.2], dtype=torch.float64)] * 4)
        y = torch.stack([exact(X + step) for step in corners])  # softmax is largest and least at corners
        assert (found.lower <= y.amin(0) + 1e-12).all()
        assert (found.upper >= y.amax(0) - 1e-12).all()
        torch.testing.assert_close(found.upper, y.amax(0), rtol=0, atol=1e-9)


SEVERAL = torch.tensor([-2000.0, -2001.0, -2002.0, -2000.5])


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda s: (s + SEVERAL.to(s)).softmax(-1),  # all of them large, by different amounts: no mask at all
        lambda s: (600 * s).masked_fill(LATER, -1100.0).softmax(-1),  # scores reach what they are masked with
        lambda s: s.masked_fill(LATER, -3.0).softmax(-1),
    ],
)
def test_large_numbers_that_hide_nothing_are_numbers(function: Callable[[Tensor], Tensor]):
    model = Attends(function)
    graph = capture(model, X)
    for bound in (ibp, crown):
        for radius in (0.0, 0.5):
            found = bound(graph, LpBall(X, radius, low=None, high=None))
            step = torch.rand(300, 3, 4, generator=generator(1), dtype=torch.float64).mul(2).sub(1) * radius
            y = model((X + step).flatten(0, 1)).view(300, 3, -1)
            assert ((found.lower <= y + 1e-11) & (y - 1e-11 <= found.upper)).all()


@pytest.mark.slow
def test_a_row_without_entries_is_refused_or_0_where_torch_says_so():
    mask = torch.tensor([[True] * 4, [False] * 4, [False] * 4, [True, False, False, False]])
    with pytest.raises(UnsupportedLayer, match="all entries are masked by minus infinity"):
        ibp(Attends(lambda s: s.masked_fill(mask, -math.inf).softmax(-1)), LpBall(X, 0.1, low=None, high=None))

    def attention(scores: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(scores, scores, scores, attn_mask=~mask)

    found, y = crown(Attends(attention), LpBall(X, 0.0, low=None, high=None)), Attends(attention)(X)
    torch.testing.assert_close(found.lower, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.upper, y, rtol=0, atol=1e-10)
