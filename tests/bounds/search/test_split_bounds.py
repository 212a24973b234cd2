"""Bounds of domains against exact minima over the inputs that meet their splits, for whatever numbers they carry."""

from dataclasses import replace

import pytest
import torch
from oracles.halfspace import generator
from oracles.polygons import Cell, cells, minimum, restricted
from oracles.searches import box, problem, rectifiers, refined
from oracles.split_domains import random_domains, weighted
from torch import Tensor, nn

from bounds.search.domains import Domains
from bounds.search.split_bounds import SplitBounds
from bounds.sets.balls import Box

WHERE = box((-1.0, 1.0), (-0.8, 1.0))
SINGLE = 1e-5  # relative, of what is found in float32


@pytest.fixture(autouse=True)
def without_gradients():
    """As the search runs."""
    with torch.no_grad():
        yield


def prepared(seed: int, *, slope: float = 0.0, sets: int = 2) -> tuple[nn.Sequential, SplitBounds]:
    """Two unsafe sets of two inequalities each."""
    model, graph = rectifiers(seed, slope)
    draw = generator(50 + seed)
    cases = [
        (torch.randn(2, 2, generator=draw, dtype=torch.float64), torch.randn(2, generator=draw, dtype=torch.float64))
        for _ in range(sets)
    ]
    given = problem(model, graph, WHERE, cases)
    return model, SplitBounds(given, refined(given))


def parts(model: nn.Sequential, domains: Domains) -> list[list[Cell]]:
    """The cells of each domain."""
    found = cells(model, WHERE.lower, WHERE.upper)
    return [restricted(found, low, high) for low, high in zip(domains.low, domains.high, strict=True)]


def slack(bounds: SplitBounds, model: nn.Sequential, domains: Domains, found: Tensor) -> Tensor:
    """How far bounds lie below the least weighted distances over the inputs of their domains."""
    rows, offsets = weighted(bounds, domains)
    least = [minimum(own, row) for own, row in zip(parts(model, domains), rows, strict=True)]
    return (torch.tensor(least, dtype=torch.float64) - offsets - found).nan_to_num(torch.inf)  # of no input, anything


def in_front(bounds: SplitBounds, where: Box) -> tuple[dict[str, Tensor], Tensor]:
    """Values of all nodes at the corner of boxes, and those in front of all functions (N, total)."""
    nodes = bounds.problem.graph.bind(where.lower)
    values = {name: node.value for name, node in nodes.items()}
    return values, torch.cat([values[nodes[span.name].parents[0]].flatten(1) for span in bounds.spans], 1)


# ------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_values_of_inputs_that_meet_the_splits_lie_in_the_intervals_of_a_view(slope: float):
    _, bounds = prepared(3, slope=slope)
    domains = random_domains(bounds, 24, splits=2, seed=1)
    network, possible = bounds.view(domains)
    x = WHERE.lower + (WHERE.upper - WHERE.lower) * torch.rand(2000, 2, generator=generator(2), dtype=torch.float64)
    values, before = in_front(bounds, Box(x, x))
    met = 0
    for i in range(len(domains)):
        inside = ((domains.low[i] <= before) & (before <= domains.high[i])).all(1)
        met += int(inside.sum())
        assert possible[i] or not inside.any()
        for name, interval in network.intervals.items():
            value = values[name][inside]
            assert ((interval.lower[i] - 1e-12 <= value) & (value <= interval.upper[i] + 1e-12)).all(), name
    assert met > 5000


def test_a_view_takes_splits_into_account():
    """In front of functions and behind them; and of a domain that is impossible, this is seen."""
    _, bounds = prepared(3)
    domains = random_domains(bounds, 24, splits=3, seed=4)
    network, possible = bounds.view(domains)
    for span in bounds.spans:
        (before,), behind = network.parents(span.name), network.intervals[span.name]
        assert ((before.lower >= span.of(domains.low)) & (before.upper <= span.of(domains.high))).all()
        image = network.functions[span.name].range_of(before)
        assert ((behind.lower >= image.lower) & (behind.upper <= image.upper)).all()
    crossed = replace(domains, low=domains.low.clone(), high=domains.high.clone())
    crossed.low[5, 2], crossed.high[5, 2] = 0.25, 0.125
    _, still = bounds.view(crossed)
    assert possible[5]
    assert not still[5]
    assert still[6] == possible[6]
    found, _ = bounds.bounded(crossed, 0)
    assert found.bound[5] == torch.inf


def test_children_hold_what_their_parent_holds():
    """Every input of a domain is in one of both halves, and only the points of the split are in both."""
    _, bounds = prepared(0)
    domains = random_domains(bounds, 6, splits=1, seed=3)
    neuron = torch.tensor([0, 1, 2, 4, 6, 8])
    point = torch.tensor([0.0, -0.25, 0.5, 0.0, 0.125, 0.0])
    both = domains.children(neuron, point)
    assert len(both) == 12
    values = torch.randn(4000, bounds.total, generator=generator(6)) * 2
    values[0] = 0.0
    for i in range(6):
        parent, below, above = (
            ((each.low[at] <= values) & (values <= each.high[at])).all(1)
            for each, at in ((domains, i), (both, i), (both, 6 + i))
        )
        here = values[:, neuron[i]]
        assert (below == (parent & (here <= point[i]))).all()
        assert (above == (parent & (here >= point[i]))).all()
    assert all((a[:6] == b).all() for a, b in zip(both.tensors()[3:], domains.tensors()[3:], strict=True))


# ------------------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("wild", [False, True], ids=["within-limits", "wild"])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_any_numbers_give_a_bound(slope: float, wild: bool):
    """Also multipliers of the wrong sign or where nothing was split, and parameters beyond their limits."""
    model, bounds = prepared(3, slope=slope)
    domains = random_domains(bounds, 60, splits=2, seed=5, wild=wild)
    found, _ = bounds.bounded(domains, 0)
    left = slack(bounds, model, domains, found.bound)
    assert (left > -1e-9).all()
    assert left.isfinite().sum() > 20


def test_bounds_after_an_ascent_hold_and_are_larger():
    """Of neurons that were split, multipliers gain much."""
    model, bounds = prepared(0)
    domains = random_domains(bounds, 30, splits=2, seed=6)
    start, _ = bounds.bounded(domains, 0)
    possible = start.bound.isfinite()
    for steps in (1, 5, 20):
        found, _ = bounds.bounded(domains, steps)
        assert (found.bound >= start.bound - SINGLE * (1 + start.bound.abs())).all()
        assert (slack(bounds, model, found, found.bound) > -1e-9).all()
    assert (found.bound > start.bound + 0.1)[possible].float().mean() > 0.8


def test_an_ascent_that_begins_near_the_best_numbers_loses_nothing():
    """Its first steps are large, and lead away from them."""
    _, bounds = prepared(0)
    found, _ = bounds.bounded(random_domains(bounds, 30, splits=2, seed=6), 60)
    start, _ = bounds.bounded(found, 0)
    for steps in (1, 2):
        again, _ = bounds.bounded(found, steps)
        assert (again.bound >= start.bound - SINGLE * (1 + start.bound.abs())).all()


def test_numbers_that_are_kept_give_the_bound_that_was_found_with_them():
    _, bounds = prepared(0)
    found, _ = bounds.bounded(random_domains(bounds, 12, splits=2, seed=6), 10)
    again, _ = bounds.bounded(found, 0)
    assert torch.allclose(again.bound, found.bound, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 4])
def test_a_batch_gives_what_single_domains_give(steps: int):
    """Ascents in float32 part a little on their way, since sums are taken in another order."""
    _, bounds = prepared(3)
    domains = random_domains(bounds, 10, splits=2, seed=8)
    domains.low[4], domains.high[4], domains.multiplier[4] = -torch.inf, torch.inf, 0.0  # one without splits
    together, corners = bounds.bounded(domains, steps)
    for i in range(len(domains)):
        alone, corner = bounds.bounded(domains[torch.tensor([i])], steps)
        assert torch.allclose(alone.bound, together.bound[i : i + 1], rtol=0, atol=1e-4 if steps else 1e-9)
        assert steps or torch.equal(corner[0], corners[i])


def test_corners_are_where_an_affine_network_is_least():
    """All neurons are stable: the bound is the minimum, and is attained at the corner that comes with it."""
    model, graph = rectifiers(2)
    where = box((0.5, 0.500001), (-0.5, -0.499999))
    rows = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    given = problem(model, graph, where, [(rows, torch.zeros(1, dtype=torch.float64))])
    bounds = SplitBounds(given, refined(given))
    found, corners = bounds.bounded(bounds.roots(), 0)
    with torch.no_grad():
        value = model(corners) @ rows[0]

    assert float((value - found.bound).abs()) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.combinations) for seed in range(2, 8))])
def test_any_numbers_of_any_network_give_a_bound(seed: int):
    for slope in (0.0, 0.3):
        model, bounds = prepared(20 + seed, slope=slope)
        for splits in (0, 1, 4):
            for wild in (False, True):
                domains = random_domains(bounds, 100, splits=splits, seed=seed, wild=wild)
                for steps in (0, 3, 30):
                    found, _ = bounds.bounded(domains, steps)
                    numbers = domains if steps == 0 else found
                    assert (slack(bounds, model, numbers, found.bound) > -1e-9).all()
