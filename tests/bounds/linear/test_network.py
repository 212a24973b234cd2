"""A network keeps planes between methods: those of the same bounds, and no others."""

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.linear.network import Network
from bounds.linear.passes.backward import Backward
from bounds.linear.refined import RefinedNetwork
from bounds.relaxations.base import Planes


def refined(bend: nn.Module) -> tuple[Network, str]:
    """A network with intervals of all nodes, and the name of its last function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), bend, nn.Linear(8, 8), bend, nn.Linear(8, 2)).double().requires_grad_(False)
    ball = bounds.LpBall(torch.rand(2, 3, dtype=torch.float64), 0.4, low=None, high=None)
    network = RefinedNetwork(Network(model, ball)).refine()
    return network, list(network.functions)[-1]


def numbers(planes: Planes) -> list[Tensor]:
    lower = () if planes.lower_intercept is None else (planes.lower_intercept,)
    return [*planes.lower_slopes, *planes.upper_slopes, *lower, planes.upper_intercept]


def test_planes_of_the_same_bounds_are_made_once_for_all_copies():
    network, name = refined(nn.Tanh())
    with torch.no_grad():
        planes = network.planes(name, parallel=False)
        copy = network.without_intervals()
        copy.intervals = dict(network.intervals)
        assert copy.planes(name, parallel=True) is planes  # tanh has no planes of parallel lines of its own


def test_other_bounds_have_planes_of_their_own():
    network, name = refined(nn.Tanh())
    (parent,) = network.nodes[name].parents
    whole = network.intervals[parent]
    half = bounds.Interval(whole.lower, (whole.lower + whole.upper) / 2)
    with torch.no_grad():
        first = network.planes(name, parallel=False)
        network.intervals[parent] = half
        second = network.planes(name, parallel=False)
        wanted = network.functions[name].default_planes(half)
    assert any(not torch.equal(a, b) for a, b in zip(numbers(first), numbers(second), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(numbers(second), numbers(wanted), strict=True))


def test_parallel_planes_are_kept_apart():
    network, name = refined(nn.ReLU())
    with torch.no_grad():
        default, parallel = (network.planes(name, parallel=choice) for choice in (False, True))
    assert torch.equal(parallel.lower_slopes[0], parallel.upper_slopes[0])
    assert not torch.equal(default.lower_slopes[0], default.upper_slopes[0])


def test_gradients_reach_bounds_whose_planes_were_made_without():
    network, name = refined(nn.Tanh())
    (parent,) = network.nodes[name].parents
    interval = network.intervals[parent]
    interval.upper.requires_grad_()
    with torch.no_grad():
        network.planes(name, parallel=False)
    assert network.planes(name, parallel=False).upper_intercept.requires_grad


@pytest.mark.parametrize("bend", [nn.ReLU(), nn.Tanh()])
def test_rounding_moves_lines_apart(bend: nn.Module):
    """Errors of rounding are taken away below and added above."""
    network, name = refined(bend)
    backward = Backward(network)
    with torch.no_grad():
        exact, moved = (backward.lines(name, rounded) for rounded in (False, True))
    assert (moved.lower < exact.lower).all()
    assert (moved.upper > exact.upper).all()
