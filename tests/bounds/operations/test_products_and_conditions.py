"""Activations written by hand are the ones that they are, and what has no rule says why."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall, UnsupportedLayer, capture, crown, explain
from bounds.graph.captured import Graph


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


X = torch.rand(3, 4, generator=generator())

RELU: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda h: torch.where(h > 0, h, 0.0),
    "where turned": lambda h: torch.where(h <= 0, torch.zeros_like(h), h),
    "product": lambda h: h * (h > 0),
    "product with numbers": lambda h: (h >= 0).float() * h,
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
    "threshold": lambda h: F.threshold(h, 0.0, 0.0),
    "negated": lambda h: torch.where(h > 0, h, 0),
}
LEAKY: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "where turned": lambda h: torch.where(h < 0, h * 0.1, h),
}


def graph_of(function: Callable[[Tensor], Tensor]) -> Graph:
    return capture(Between(function).eval(), X)


@pytest.mark.parametrize("name", RELU)
def test_a_relu_written_by_hand_is_one(name: str):
    ball = LpBall(X, 0.2)
    found, same = crown(graph_of(RELU[name]), ball), crown(graph_of(F.relu), ball)
    assert torch.equal(found.lower, same.lower)
    assert torch.equal(found.upper, same.upper)


@pytest.mark.parametrize("name", LEAKY)
def test_a_leaky_relu_written_by_hand_is_one(name: str):
    ball = LpBall(X, 0.2)
    found, same = crown(graph_of(LEAKY[name]), ball), crown(graph_of(lambda h: F.leaky_relu(h, 0.1)), ball)
    torch.testing.assert_close(found.lower, same.lower)
    torch.testing.assert_close(found.upper, same.upper)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.where(h > 0, h, 2 * h),  # steeper below than above
        lambda h: torch.where(h > 0.1, h, 0.0),
        lambda h: torch.where(h > 0, h, 0.1),
        lambda h: torch.where(h > 0, h.flip(1), 0.0),
        lambda h: torch.where(h < 0, h, 0.0),
    ],
)
def test_what_is_no_leaky_relu_is_not_taken_for_one(function: Callable[[Tensor], Tensor]):
    rules = {part.operation for part in explain(Between(function).eval(), X).operations}
    assert "certify_bounds.choice.default" in rules
    assert not rules & {"aten.relu.default", "aten.leaky_relu.default"}


def test_conditions_that_nothing_needs_any_more_are_gone():
    operations = [node.operation for node in graph_of(RELU["where"]).bind(X).values()]
    assert operations == ["input", "aten.linear.default", "aten.leaky_relu.default", *operations[3:]]
    assert not any("positive" in operation for operation in operations)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda h: ((h > 0) + (h < 1)).float(), r"aten\.add\.Tensor of conditions"),
        (lambda h: ((h > 0) ^ (h < 1)).float(), r"xor__\.Tensor of conditions"),
        (lambda h: h * ((h > 0).int() << 1), r"lshift__\.Scalar of 1 data"),
        (lambda h: h * F.one_hot((h[:, 0] > 0).long(), 6), r"aten\.one_hot\.default of 1 data"),
        (lambda h: torch.arange(6.0)[(h > 0).long()], r"aten\.index\.Tensor of 1 data"),
        (lambda h: torch.logical_and(h, h > 0).float(), r"aten\.logical_and\.default of numbers"),
        (lambda h: h.int().float(), r"from torch\.float64 to torch\.int32"),
        (lambda h: h.half().float(), r"from torch\.float64 to torch\.float16"),
        (lambda h: (h == 0).float(), r"aten\.eq\.Scalar"),
        (lambda h: h * h.norm(0, dim=1, keepdim=True), r"aten\.linalg_vector_norm\.default"),
        (lambda h: h - h.gather(1, h.argmax(1, keepdim=True)), r"aten\.argmax\.default"),
    ],
)
def test_what_has_no_rule_says_why(function: Callable[[Tensor], Tensor], told: str):
    with pytest.raises(UnsupportedLayer, match=told):
        crown(Between(function).eval(), LpBall(X, 0.1))
    assert not explain(Between(function).eval(), X).supported


def test_casts_round_in_deployed_mode():
    """To float64 and back: a bound that takes the way for exact is too tight."""
    ball = LpBall(X, 0.05)
    plain = crown(graph_of(F.relu), ball, sound="deployed")
    cast = crown(graph_of(lambda h: F.relu(h.double().float())), ball, sound="deployed")
    assert (cast.upper > plain.upper).all()
