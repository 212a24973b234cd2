"""Leaves, where nothing is left to split: linear programmes give bounds that are exact and hold."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator
from oracles.polygons import cells, minimum, restricted
from oracles.searches import ALONE, box, problem, rectifiers, refined
from oracles.split_domains import exact_bound, random_domains, weighted
from torch import Tensor, nn

from bounds.search.domains import Domains
from bounds.search.leaves import bounded_leaf
from bounds.search.split_bounds import SplitBounds

WHERE = box((-1.0, 1.0), (-0.8, 1.0))


@pytest.fixture(autouse=True)
def without_gradients():
    """As the search runs."""
    with torch.no_grad():
        yield


def prepared(seed: int, offset: float = 0.0, sound: str = "rounding") -> tuple[nn.Sequential, SplitBounds]:
    model, graph = rectifiers(seed)
    given = problem(model, graph, WHERE, [(ALONE, torch.tensor([offset], dtype=torch.float64))], sound=sound)
    return model, SplitBounds(given, refined(given))


def leaf(bounds: SplitBounds, signs: Tensor) -> Domains:
    """The domain in which each neuron is above 0 or below 0."""
    roots = bounds.roots()
    return replace(
        roots,
        low=torch.where(signs > 0, 0.0, -torch.inf)[None],
        high=torch.where(signs > 0, torch.inf, 0.0)[None],
    )


def signs_of(bounds: SplitBounds, seed: int, count: int) -> list[Tensor]:
    """Signs of all neurons at some inputs, each once; and signs that no input has."""
    x = WHERE.lower + (WHERE.upper - WHERE.lower) * torch.rand(count, 2, generator=generator(seed)).double()
    nodes = bounds.problem.graph.bind(x)
    before = torch.cat([nodes[nodes[span.name].parents[0]].value for span in bounds.spans], 1)
    return list(before.sign().unique(dim=0))


@pytest.mark.parametrize("seed", [0, 3])
def test_bounds_of_leaves_are_minima(seed: int):
    """And are attained at the inputs that come with them, which meet all splits."""
    model, bounds = prepared(seed)
    found = cells(model, WHERE.lower, WHERE.upper)
    for signs in signs_of(bounds, seed, 200)[:8]:
        domain = leaf(bounds, signs)
        exact = minimum(restricted(found, domain.low[0], domain.high[0]), ALONE[0])
        better, point = bounded_leaf(bounds, domain)
        assert better.bound.item() <= exact + 1e-9
        assert better.bound.item() > exact - 1e-4 * (1 + abs(exact))
        assert point is not None
        assert (model(point) @ ALONE[0]).item() == pytest.approx(exact, abs=1e-6)


@pytest.mark.slow
def test_leaves_that_no_input_meets_are_proved():
    """One neuron at a time is put on its other side; where nothing is left, and no interval says so, it is proved."""
    model, bounds = prepared(0, offset=100.0)  # which outputs never exceed: only emptiness is a proof
    found, empty = cells(model, WHERE.lower, WHERE.upper), 0
    for signs in signs_of(bounds, 1, 50)[:4]:
        for place in range(len(signs)):
            other = signs.clone()
            other[place] *= -1
            domain, _ = bounds.bounded(leaf(bounds, other), 0)
            cell = restricted(found, domain.low[0] - 1e-3, domain.high[0] + 1e-3)
            better, _ = bounded_leaf(bounds, domain)
            if restricted(found, domain.low[0], domain.high[0]):
                assert not better.bound > 0
            elif not cell:
                empty += 1
                assert better.bound > 0
    assert empty > 5


def test_an_empty_leaf_with_multipliers_of_its_own_is_proved():
    """No input meets its splits; its bound falls from -0.23 to -4.7 where it should be above 0."""
    least = minimum(cells(rectifiers(0)[0], WHERE.lower, WHERE.upper), ALONE[0])
    model, bounds = prepared(0, offset=least - 1e-4)
    domain = leaf(bounds, torch.tensor([-1, -1, 1, 1, -1, -1, 1, 1, 1]))
    assert not restricted(cells(model, WHERE.lower, WHERE.upper), domain.low[0] - 1e-3, domain.high[0] + 1e-3)
    domain, _ = bounds.bounded(domain, 4)
    better, _ = bounded_leaf(bounds, domain)
    assert better.bound > 0


def test_bounds_of_any_domains_hold_that_are_taken_for_leaves():
    """Not all of their neurons are split, and their numbers are not those of the programme."""
    model, bounds = prepared(3)
    domains = random_domains(bounds, 16, splits=3, seed=9)
    found = cells(model, WHERE.lower, WHERE.upper)
    for each in domains.each():
        better, _ = bounded_leaf(bounds, each)
        row, offset = weighted(bounds, better)
        exact = minimum(restricted(found, each.low[0], each.high[0]), row[0]) - offset.item()
        assert better.bound.item() <= exact + 1e-9


def test_what_rounding_takes_from_leaves_is_counted():
    """Against the same numbers in rational arithmetic."""
    _, bounds = prepared(0)
    for signs in signs_of(bounds, 2, 50)[:4]:
        better, _ = bounded_leaf(bounds, leaf(bounds, signs))
        assert Fraction(better.bound.item()) < exact_bound(bounds, better, 0)
