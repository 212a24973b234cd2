"""Searches against exact minima: a hair below them is proved, a hair above them is refuted, by every way to split."""

from functools import cache

import pytest
import torch
from oracles.activation_patterns import exact_minimum
from oracles.halfspace import generator
from oracles.networks import dense
from oracles.polygons import cells, meets, minimum
from oracles.searches import ALONE, SEARCHES, box, by_inputs, by_neurons, dense_minimum, problem, rectifiers
from torch import Tensor, nn

from bounds import Graph, capture
from bounds.search.problem import Problem, SearchResult

SQUARE = box((-1.0, 1.0), (-0.8, 1.0))
WRONG = {"below": "counterexample", "above": "proved"}
RIGHT = {"below": "proved", "above": "counterexample"}
SLOWLY = lambda *each: [pytest.param(part, marks=pytest.mark.slow) for part in each]  # noqa: E731
HAIR = 1e-4  # of the range of the outputs


class Residual(nn.Module):
    """A sum of a rectified branch and what it branched from, and a smooth function behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.tanh(h + torch.relu(self.branch(h))))


def convolutional(pooling: bool) -> nn.Sequential:
    """Two inputs as a map of 1 x 2; with pooling, the largest of neighbours."""
    body: list[nn.Module] = [nn.Conv2d(1, 3, (1, 2), padding=(0, 1)), nn.ReLU()]
    body += [nn.MaxPool2d((1, 2), stride=1), nn.Conv2d(3, 2, (1, 2))] if pooling else [nn.Conv2d(3, 2, (1, 3))]
    return nn.Sequential(*body, nn.Flatten(), nn.ReLU(), nn.Linear(2, 2))


KINDS = {
    "leaky": ((2,), lambda: dense(nn.LeakyReLU(0.2), 2, 4, 4, 2)),
    "tanh": ((2,), lambda: dense(nn.Tanh(), 2, 4, 3, 2)),
    "sigmoid": ((2,), lambda: dense(nn.Sigmoid(), 2, 4, 3, 2)),
    "gelu": ((2,), lambda: dense(nn.GELU(), 2, 4, 3, 2)),
    "residual": ((2,), Residual),
    "convolution": ((1, 1, 2), lambda: convolutional(False)),
    "pooling": ((1, 1, 2), lambda: convolutional(True)),
}


@cache
def network(kind: str, seed: int) -> tuple[nn.Module, Graph]:
    shape, build = KINDS[kind]
    model, draw = build().double().eval(), generator(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1.8 / max(1, weight[0].numel()) ** 0.5, generator=draw)
    return model, capture(model, torch.zeros(1, *shape, dtype=torch.float64))


def around_minimum(kind: str, seed: int, hair: float) -> dict[str, Problem]:
    """Two problems, with an offset below and above the least value of the first output."""
    if kind == "relu":
        model, graph = rectifiers(seed)
        where = SQUARE
    else:
        model, graph = network(kind, seed)
        where = box((-1.0, 1.0), (-0.8, 1.0))
        shape = (1, *KINDS[kind][0])
        where = type(where)(where.lower.view(shape), where.upper.view(shape))
    low, high = dense_minimum(model, where, ALONE[0])
    if high - low < 0.05:  # of a network that is next to constant, there is nothing to find out
        return {}
    if kind == "relu":
        low = minimum(cells(model, where.lower, where.upper), ALONE[0])
    offsets = {"below": low - hair * (high - low), "above": low + hair * (high - low)}
    return {
        side: problem(model, graph, where, [(ALONE, torch.tensor([offset], dtype=torch.float64))])
        for side, offset in offsets.items()
    }


def confirmed(found: SearchResult, given: Problem) -> bool:
    """Whether a counterexample lies in the box, and its outputs in one of the sets."""
    x = found.counterexample
    if x is None:
        return False
    inside = (x >= given.box.lower).all() and (x <= given.box.upper).all()
    return bool(inside and given.check(x) is not None)


def test_polygons_are_activation_patterns():
    """Two oracles that share nothing."""
    model = dense(nn.ReLU(), 2, 3, 2, 2, seed=5)
    found = cells(model, SQUARE.lower, SQUARE.upper)
    for row in (ALONE[0], -ALONE[0], torch.tensor([0.7, -1.3], dtype=torch.float64)):
        patterns = exact_minimum(model, row, SQUARE.lower[0], SQUARE.upper[0], None)
        assert minimum(found, row) == pytest.approx(patterns, abs=1e-9)
        rows = torch.stack([row, -row])
        assert meets(found, rows, torch.tensor([patterns + 1e-6, 10.0], dtype=torch.float64))
        assert not meets(found, rows, torch.tensor([patterns - 1e-6, 10.0], dtype=torch.float64))


@pytest.mark.parametrize("way", SEARCHES)
@pytest.mark.parametrize("seed", [3, *SLOWLY(0, 5)])
def test_the_minimum_of_a_network_of_rectifiers_is_met(seed: int, way: str):
    for side, given in around_minimum("relu", seed, HAIR).items():
        found = SEARCHES[way](given)
        assert found.status == RIGHT[side]
        assert side == "below" or confirmed(found, given)
        assert found.domains >= 1
        assert way == "both" or found.decided_by in {"bounds", {"inputs": "input splits"}.get(way, "neuron splits")}


@pytest.mark.slow
def test_leaves_of_neuron_splits_are_exact():
    """A linear programme decides where nothing is left to split: seed 1 was left open, which boxes decide."""
    for side, given in around_minimum("relu", 1, HAIR).items():
        found = by_neurons(given)
        assert found.status == RIGHT[side]
        assert side == "below" or confirmed(found, given)


@pytest.mark.parametrize("kind", ["leaky", "sigmoid", *SLOWLY("tanh", "gelu", "residual", "convolution", "pooling")])
def test_input_splits_meet_the_minimum_of_other_kinds(kind: str):
    for side, given in around_minimum(kind, 1, 1e-3).items():
        found = by_inputs(given)
        assert found.status == RIGHT[side]
        assert side == "below" or confirmed(found, given)


@pytest.mark.parametrize("kind", ["leaky", *SLOWLY("tanh", "residual", "convolution")])
def test_neuron_splits_are_never_wrong_about_any_kind(kind: str):
    """And decide what is not close."""
    for side, given in around_minimum(kind, 1, 0.1).items():
        assert by_neurons(given).status != WRONG[side]
    for side, given in around_minimum(kind, 1, 1e-6).items():
        late = problem(given.check.model, given.graph, given.box, given.check.cases, seconds=0.05)
        assert by_neurons(late).status != WRONG[side]


@pytest.mark.combinations
@pytest.mark.parametrize("kind", ["relu", *KINDS])
@pytest.mark.parametrize("way", SEARCHES)
def test_no_search_is_wrong_about_many_networks(kind: str, way: str):
    """Closer and closer to the minimum; input splits decide all of it."""
    for seed in range(4):
        for hair in (0.1, 1e-4):
            for side, given in around_minimum(kind, seed, hair).items():
                late = problem(given.check.model, given.graph, given.box, given.check.cases, seconds=1.0)
                found = SEARCHES[way](late if way == "neurons" else given)
                assert found.status != WRONG[side], (seed, hair)
                assert way == "neurons" or found.status == RIGHT[side], (seed, hair)
                assert found.status != "counterexample" or confirmed(found, given)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_three_inputs_against_activation_patterns(seed: int, slope: float):
    model, graph = rectifiers(10 + seed, slope, 3, 5, 4, 2)
    where = box((-1.0, 1.0), (0.0, 1.0), (-0.5, 0.25))
    row = torch.tensor([0.6, -1.0], dtype=torch.float64)
    least = exact_minimum(model, row, where.lower[0], where.upper[0], None)
    for name, way in SEARCHES.items():
        for side, move in (("below", -1e-3), ("above", 1e-3)):
            case = (row[None], torch.tensor([least + move], dtype=torch.float64))
            found = way(problem(model, graph, where, [case]))
            assert found.status == RIGHT[side] or (name == "neurons" and found.status == "unknown")
