"""Bounds of domains against the same numbers in exact rational arithmetic: rounding falls on the safe side."""

from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator
from oracles.searches import Case, box, problem, rectifiers, refined
from oracles.split_domains import exact_bound, random_domains
from torch import Tensor

from bounds.search.split_bounds import SplitBounds

WHERE = box((-1.0, 1.0), (-0.8, 1.0))
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True)
def without_gradients():
    """As the search runs."""
    with torch.no_grad():
        yield


def made(seed: int, sound: str, cases: list[Case]) -> SplitBounds:
    model, graph = rectifiers(seed, 0.2 * (seed % 2))
    given = problem(model, graph, WHERE, cases, sound=sound)
    return SplitBounds(given, refined(given))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def excess(bounds: SplitBounds, seed: int, count: int = 10) -> list[Fraction]:
    """How far bounds lie above what their numbers give without rounding."""
    domains = random_domains(bounds, count, splits=3, seed=seed)
    found, _ = bounds.bounded(domains, 0)
    possible = found.bound.isfinite().nonzero()[:, 0].tolist()
    assert possible
    return [Fraction(found.bound[i].item()) - exact_bound(bounds, domains, i) for i in possible]


def test_no_bound_is_above_what_its_numbers_give():
    """In real arithmetic the same numbers come out, so that the oracle says what it should."""
    rounded, plain = [], []
    for seed in range(3):
        cases = [(drawn(seed, 2, 2), drawn(10 + seed, 2))]
        rounded += excess(made(seed, "rounding", cases), seed)
        plain += excess(made(seed, "real", cases), seed)
    assert max(rounded) < 0
    assert min(rounded) > -1e4 * EPS
    assert max(abs(part) for part in plain) < 1e4 * EPS


def test_what_rounding_takes_from_weighted_rows_is_counted():
    """Large inequalities cancel: their weighted sum is small, and lost digits are all that is left of it."""
    worst = []
    for seed in range(8):
        large, small = 1e6 * drawn(70 + seed, 1, 2), drawn(20 + seed, 3, 2)
        rows = torch.cat([large, 1.7 * large, -2.7 * large]) + small  # a third of each
        bounds = made(0, "rounding", [(rows, drawn(30 + seed, 3))])
        roots = bounds.roots()
        found, _ = bounds.bounded(roots, 0)
        worst.append(Fraction(found.bound.item()) - exact_bound(bounds, roots, 0))
    assert max(worst) < 0
    assert min(worst) > -1e3 * 1e6 * EPS


def test_what_rounding_takes_from_offsets_is_counted():
    """They cancel likewise, and with the bound of the outputs."""
    worst = []
    for seed in range(6):
        offsets = torch.tensor([1e8, -1e8, 1e8 / 3, -1e8 / 3], dtype=torch.float64) + drawn(40 + seed, 4)
        bounds = made(0, "rounding", [(drawn(50 + seed, 4, 2), offsets)])
        roots = bounds.roots()
        found, _ = bounds.bounded(roots, 0)
        worst.append(Fraction(found.bound.item()) - exact_bound(bounds, roots, 0))
    assert max(worst) <= 0


def test_what_rounding_takes_from_multipliers_is_counted():
    """Large ones, whose products with the points of splits cancel."""
    worst = []
    for seed in range(4):
        bounds = made(seed, "rounding", [(drawn(seed, 1, 2), drawn(seed, 1))])
        domains = random_domains(bounds, 8, splits=4, seed=60 + seed)
        domains.multiplier.mul_(1e7)
        found, _ = bounds.bounded(domains, 0)
        possible = found.bound.isfinite().nonzero()[:, 0].tolist()
        worst += [Fraction(found.bound[i].item()) - exact_bound(bounds, domains, i) for i in possible]
    assert len(worst) > 10
    assert max(worst) < 0


def test_distances_are_rounded_down():
    given = made(0, "rounding", [(drawn(0, 2, 2), 1 / drawn(1, 2))]).problem
    bounds = drawn(2, 5, 2) * 1e3
    found = given.distances(bounds)[:, 0]
    exact = [
        [Fraction(a.item()) - Fraction(b.item()) for a, b in zip(row, given.offsets[0], strict=True)] for row in bounds
    ]
    assert all(Fraction(found[i, j].item()) < exact[i][j] for i in range(5) for j in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_no_bound_of_any_domain_is_above_what_its_numbers_give(seed: int):
    for scale in (1e-6, 1.0, 1e6):
        bounds = made(seed, "rounding", [(scale * drawn(seed, 3, 2), scale * drawn(10 + seed, 3))])
        assert max(excess(bounds, seed, 30)) < 0
