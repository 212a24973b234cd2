"""A captured graph has the values of its model: a rule that computes something else is refused, rounding is not."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from oracles.networks import randomized
from oracles.one_operation import Made
from torch import Tensor, nn

from bounds import UnsupportedLayer, capture
from bounds.decompositions.table import REWRITES
from bounds.graph.values import refuse_other_values

aten = torch.ops.aten
WRONG = {
    "half of a gate": (aten.glu.default, lambda x, dim=-1: x.chunk(2, dim)[0], lambda x: F.glu(x, 1)),
    "a variance of the population": (
        aten.var.dim,
        lambda x, dim, unbiased=True, keepdim=False: (x - x.mean(dim, keepdim=True)).square().mean(dim, keepdim),
        lambda x: x.var(1, keepdim=True) + x,
    ),
    "a step in place of a floor": (
        aten.ceil.default,
        lambda x: x.floor(),
        lambda x: (7 * x + 0.01).ceil(),
    ),
}


def rows(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator(1))


@pytest.mark.parametrize(
    "name", ["half of a gate", *(pytest.param(name, marks=pytest.mark.slow) for name in [*WRONG][1:])]
)
@pytest.mark.parametrize("one_by_one", [False, True], ids=["batches", "one by one"])
def test_an_operation_that_is_written_as_another_one_is_refused(monkeypatch, name: str, one_by_one: bool):
    operation, wrong, function = WRONG[name]
    model = Made(lambda x: function(x.view(2, 4)).reshape(1, -1)) if one_by_one else Made(function)
    assert capture(model, rows(1, 8)).one_by_one == one_by_one
    monkeypatch.setitem(REWRITES, operation, wrong)
    with pytest.raises(UnsupportedLayer, match=r"another function than the model.* answers -?[\d.]+ and the graph"):
        capture(model, rows(1, 8))


def test_networks_for_one_input_at_a_time_have_rows_of_their_own():
    """Their nodes hold the values of the first row: of the others nothing would be compared, or refused for good."""
    model = randomized(Made(lambda x, part: F.gelu(part(x.view(4))).view(1, -1), nn.Linear(4, 3)), seed=1).eval()
    x = rows(3, 4)
    graph = capture(model, x[:1])
    assert graph.one_by_one
    with torch.no_grad():
        answers = torch.cat([model(row) for row in x.split(1)])
        nodes = graph.nodes_at(x)
    refuse_other_values(graph, nodes, x, answers, 1e-6)
    answers[2] += 0.1
    with pytest.raises(UnsupportedLayer, match="another function"):
        refuse_other_values(graph, nodes, x, answers, 1e-6)


def _cast(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    return last(first(x).relu().bfloat16().float())


def _autocast(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return last(first(x).relu())


ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "large numbers that cancel": lambda x: (1e4 * x).square() + 1 - (1e4 * x).square(),
    "a function steeper than rounding": lambda x: (1e9 * x).sin(),
    "steps where rows are": lambda x: (20 * (x - x)).round() + torch.fmod((20 * x).round() / 20, 0.05),
    "numbers that are none": lambda x: (x - 0.5).log(),
    "a limit": lambda x: torch.xlogy((x - 9).relu(), (x - 9).relu()),
    "minus infinity": lambda x: x.masked_fill(torch.tensor([True, False, False, False]), -math.inf),
    "large answers": lambda x: 1e30 * x.exp(),
    "answers next to 0": lambda x: 1e-30 * x.exp(),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_rounding_explains_is_taken(name: str):
    capture(Made(ROUNDED[name]), rows(1, 4))


@pytest.mark.parametrize("function", [_cast, _autocast])
def test_coarser_numbers_within_a_model_are_taken(function: Callable[..., Tensor]):
    model = randomized(Made(function, nn.Linear(4, 50), nn.Linear(50, 3)), seed=1).eval()
    capture(model, rows(1, 4))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_few_digits_are_taken(dtype: torch.dtype):
    """Sums of squares leave the range of float16 in the graph, and not in the kernel of a layer norm."""
    layers = [nn.Linear(4, 50), nn.LayerNorm(50), nn.GELU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3)]
    model = randomized(nn.Sequential(*layers), seed=1).eval()
    with torch.no_grad():
        layers[0].weight.mul_(300)
    capture(model.to(dtype), rows(1, 4))


def test_the_difference_is_measured_in_units_of_what_rounding_does():
    """Answers of another network are refused by as little as a share of a hundredth."""
    model = randomized(nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 3)), seed=1).eval()
    x = rows(3, 4)
    graph, answers = capture(model, x), model(x).detach()
    with torch.no_grad():
        nodes = graph.nodes_at(x)
    allowed = 1e-3 * float(answers.abs().max())
    refuse_other_values(graph, nodes, x, answers, allowed)
    with pytest.raises(UnsupportedLayer, match="rounding does not explain"):
        refuse_other_values(graph, nodes, x, 1.01 * answers, allowed)
