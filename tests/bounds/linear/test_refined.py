"""Refinement as a function of intervals: started from given ones, and with intervals known besides."""

import copy

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Interval, LpBall
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork

SOUND = ["real", "rounding", "deployed"]


def case(sound: str = "rounding") -> tuple[nn.Sequential, Network]:
    """Two hidden layers of ReLU, over the unit ball of the maximum norm around 0."""
    dtype = torch.float32 if sound == "deployed" else torch.float64
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).to(dtype)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator(1), dtype=dtype) / 2
    ball = LpBall(torch.zeros(2, 3, dtype=dtype), 1.0, low=None, high=None)
    return model, Network(model, ball, sound=sound)


def before(network: Network, which: int) -> str:
    """The node in front of a ReLU."""
    (name, *_), *rest = (network.nodes[function].parents for function in network.functions)
    return [name, *(parents[0] for parents in rest)][which]


def below(network: RefinedNetwork, node: str, neuron: int) -> dict[str, Interval]:
    """The interval of a node where one neuron, which has both signs, is at most 0, and all others are as they were."""
    interval = network.refine().intervals[node]
    assert (interval.upper[:, neuron] > 0).all()
    upper = interval.upper.clone()
    upper[:, neuron] = 0
    return {node: Interval(interval.lower, upper)}


def same(one: Interval, other: Interval) -> bool:
    return torch.equal(one.lower, other.lower) and torch.equal(one.upper, other.upper)


def close(one: Interval, other: Interval) -> bool:
    pairs = ((one.lower, other.lower), (one.upper, other.upper))
    return all(torch.allclose(first, second, rtol=1e-13, atol=1e-13) for first, second in pairs)


@pytest.mark.parametrize("sound", SOUND)
def test_to_start_from_an_earlier_refinement_is_to_refine_again(sound: str):
    _, network = case(sound)
    earlier = RefinedNetwork(network, tighten=True)
    again = RefinedNetwork(network, start=earlier.refine().intervals, tighten=True)
    assert same(again.output(), earlier.output())
    for name, interval in earlier.refine().intervals.items():
        assert same(again.refine().intervals[name], interval)
    loose = RefinedNetwork(network)
    assert not same(loose.output(), earlier.output())  # what it started from is what counts
    assert same(RefinedNetwork(network, start=loose.refine().intervals, tighten=True).output(), loose.output())


def test_intervals_of_others_stay_as_they_are():
    _, network = case()
    earlier = RefinedNetwork(network)
    intervals = earlier.refine().intervals
    kept = copy.copy(intervals)
    known = below(earlier, before(network, 1), 0)
    RefinedNetwork(network, start=intervals, known=known, tighten=True).output()
    RefinedNetwork(earlier.network, tighten=True).output()
    assert network.intervals == {}
    assert intervals.keys() == kept.keys()
    assert all(intervals[name] is kept[name] for name in kept)


def inside(model: nn.Sequential, depth: int, known: Interval, count: int = 4000) -> Tensor:
    """Outputs of random points of the ball for which the values after some layers lie in an interval."""
    x = 2 * torch.rand(count, 3, generator=generator(2), dtype=torch.float64) - 1
    values = model[:depth](x)
    chosen = ((values >= known.lower[0]) & (values <= known.upper[0])).all(1)
    return model(x[chosen]).detach()


@pytest.mark.parametrize(("which", "depth"), [(0, 1), (1, 3)])
def test_a_known_interval_serves_what_lies_behind_it_and_holds(which: int, depth: int):
    model, network = case()
    whole = RefinedNetwork(network, tighten=True)
    node = before(network, which)
    known = below(whole, node, 0)
    for start in (None, whole.refine().intervals):
        part = RefinedNetwork(network, start=start, known=known, tighten=True)
        found, intervals = part.output(), part.refine().intervals
        (behind,) = (name for name, function in network.nodes.items() if node in function.parents)
        here = intervals[node]
        assert ((here.lower >= known[node].lower) & (here.upper <= known[node].upper)).all()
        assert close(here, known[node])  # passes for other rows round in another way
        assert same(intervals[behind], Interval(here.lower.relu(), here.upper.relu()))
        assert not same(found, whole.output())  # it reaches the output
        outputs = inside(model, depth, known[node])
        assert len(outputs) > 100
        assert ((outputs >= found.lower[0]) & (outputs <= found.upper[0])).all()


def test_errors_that_were_found_for_a_part_of_the_set_do_not_serve_another_part():
    _, network = case()
    node = before(network, 0)
    tiny = Interval(*(torch.full((2, 6), end, dtype=torch.float64) for end in (-1e-9, 1e-9)))
    part = RefinedNetwork(network, known={node: tiny})
    part.output()
    plain, behind_part = RefinedNetwork(network), RefinedNetwork(part.network)
    assert same(behind_part.output(), plain.output())
