"""Methods in turn: each bounds only what those before it leave open, as it would alone."""

import math

import pytest
import torch
from oracles.families import SETS, inputs, network
from oracles.networks import dense, outside
from oracles.selection import some
from torch import nn

from bounds import LpBall, capture, margin_bounds
from bounds.linear import ladder
from bounds.linear.ladder import margins_in_turn
from bounds.linear.network import Network

RADII = torch.tensor([0.02, 0.05, 0.08, 0.12, 0.2, 0.003]).double()
CASES = [
    ("dense", "linf"),
    ("leaky", "l2"),
    ("convolutional", "l2 in a box"),
    ("tanh", "box"),
    ("residual", "few changes"),
]


@pytest.mark.parametrize(("kind", "name"), some(CASES, [("dense", "linf"), ("leaky", "l2")]))
def test_margins_in_turn_are_those_of_each_method_alone(kind: str, name: str):
    model, x = network(kind, 1), inputs(6, 2)
    graph, ball, label = capture(model, x), SETS[name](x, RADII), model(x).argmax(1)
    found = margins_in_turn(graph, ball, label, "alpha_crown", steps=4)
    left = torch.arange(6)
    for place, part in enumerate(found):
        assert torch.equal(part.places, left)  # whom a cheaper one settled does not come again
        if part.method != "alpha_crown" or place == len(found) - 1:
            alone = margin_bounds(graph, ball.rows(left), label[left], part.method, steps=4)
            torch.testing.assert_close(
                part.margins, alone, rtol=1e-9, atol=1e-7 if part.method == "alpha_crown" else 1e-9
            )
        open_rows = ~(part.margins.scatter(1, label[left][:, None], math.inf) > 0).all(1)
        left = left[open_rows]
    assert len(left) < 6 or name == "few changes"  # which no method settles


def test_no_row_is_bounded_by_more_than_it_needs(monkeypatch: pytest.MonkeyPatch):
    """Counted in the networks that are bounded: as many inputs as were open, for each method."""
    model, x = network("dense", 1), inputs(6, 2)
    sizes = []

    class Counted(Network):
        def __init__(self, graph: object, ball: object, *rest: object) -> None:
            sizes.append(len(ball.center))
            super().__init__(graph, ball, *rest)

    monkeypatch.setattr(ladder, "Network", Counted)
    found = margins_in_turn(capture(model, x), SETS["linf"](x, RADII), model(x).argmax(1), "crown")
    assert sizes == sorted({len(part.places) for part in found}, reverse=True)
    assert len(sizes) > 1


def test_inputs_without_hope_go_no_further():
    """Their margins stay, and those of others are what they were; intervals alone give nobody up."""
    model, x = network("dense", 1), inputs(6, 2)
    graph, ball, label = capture(model, x), SETS["linf"](x, RADII), model(x).argmax(1)
    all_parts = margins_in_turn(graph, ball, label, "crown")
    kept = int(all_parts[-1].places[-1])
    asked = []

    def hopeful(places: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        asked.append((places, margins))
        return places == kept

    found = margins_in_turn(graph, ball, label, "crown", hopeful=hopeful)
    assert [part.method for part in found] == [part.method for part in all_parts]
    for part, before in zip(found[:-1], all_parts[:-1], strict=True):
        assert torch.equal(part.places, before.places)
        assert torch.equal(part.margins, before.margins)
    assert found[-1].places.tolist() == [kept]
    torch.testing.assert_close(found[-1].margins[0], all_parts[-1].margins[-1], rtol=1e-9, atol=1e-9)
    places, margins = asked[0]
    least = found[-2].margins.scatter(1, label[places][:, None], math.inf).amin(1)
    assert torch.equal(margins, least)


def test_networks_without_rectifiers_have_no_rung_of_parallel_lines():
    x = inputs(2, 2)
    for kind, expected in (("tanh", ["crown_ibp", "crown"]), ("dense", ["crown_ibp", "fast_lin", "crown"])):
        found = ladder.rungs(Network(network(kind, 1), SETS["linf"](x, RADII[:2])), "crown")
        assert [rung.method for rung in found] == expected


def test_a_node_that_mixes_inputs_with_others_hands_on_no_intervals():
    class Turned(nn.Module):
        """The dimension of inputs comes second in between, as in sequences before batches."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 4), nn.Linear(48, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned = self.first(x).flatten(1, 2).transpose(0, 1).relu()
            return self.last(turned.transpose(0, 1).flatten(1))

    model, x = Turned().double().eval(), inputs(6, 2)
    graph, label = capture(model, x), model(x).argmax(1)
    found = margins_in_turn(graph, SETS["linf"](x, RADII), label, "crown")
    assert len(found[-1].places) < 6
    for part in found:
        alone = margin_bounds(graph, SETS["linf"](x, RADII).rows(part.places), label[part.places], part.method)
        torch.testing.assert_close(part.margins, alone, rtol=1e-9, atol=1e-9)


def test_affine_layers_in_front_of_all_functions_are_bounded_as_one():
    """Intervals of a box widen in the second of two affine layers, where backward bounds are exact."""
    layers = (nn.Linear(4, 8, bias=False), nn.Linear(8, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))
    model, x = nn.Sequential(*layers).double().eval(), torch.zeros(1, 4, dtype=torch.float64)
    network = Network(model, LpBall(x, 0.2, low=None, high=None))
    *_, last = ladder.refinements(network, ladder.rungs(network, "crown"))
    (before,) = network.nodes[next(iter(network.functions))].parents
    reach = 0.2 * (model[1].weight @ model[0].weight).abs().sum(1).detach()
    torch.testing.assert_close(last.refine().intervals[before].upper[0], reach, rtol=1e-9, atol=0)


@pytest.mark.slow
def test_forward_bounds_come_first_where_layers_are_far_wider_than_the_input():
    """They save backward passes, never loosen what these find, and no output of a dense grid escapes."""
    model, narrow = dense(nn.ReLU(), 2, 300, 300, 3, seed=1), dense(nn.ReLU(), 20, 40, 40, 3, seed=1)
    x, radius = torch.rand(2, 2, dtype=torch.float64), torch.tensor([0.05, 0.2]).double()
    network = Network(model.requires_grad_(False), LpBall(x, radius, low=None, high=None))
    way = ladder.rungs(network, "crown")
    assert [rung.forward for rung in way] == [False, True, False, False]
    small = Network(narrow, LpBall(torch.rand(2, 20, dtype=torch.float64), 0.1))
    assert not any(rung.forward for rung in ladder.rungs(small, "crown"))
    assert not any(rung.forward for rung in ladder.rungs(network, "crown", memory=1000))
    loose, forward, *_ = (part.refine().intervals for part in ladder.refinements(network, way))
    (second,) = (network.nodes[name].parents[0] for name in list(network.functions)[1:])
    width = [float((found[second].upper - found[second].lower).mean()) for found in (loose, forward)]
    assert width[1] < 0.7 * width[0]
    with_it, without = ([*ladder.refinements(network, part)][-1].output() for part in (way, [way[0], *way[2:]]))
    assert (with_it.upper - with_it.lower).sum() <= (without.upper - without.lower).sum() * (1 + 1e-9)
    step = torch.cartesian_prod(*[torch.linspace(-1, 1, 41, dtype=torch.float64)] * 2)
    assert outside(model, x + step[:, None] * radius[:, None], with_it) == 0
