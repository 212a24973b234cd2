"""Several attacks on the same search, one after the other, each starting from what the others found."""

import math

import torch
from torch import nn

from certify.attacks.common.norms import length, per_row
from certify.attacks.minimum_norm.deepfool import cross
from certify.attacks.minimum_norm.default_search import (
    LAST_REACH,
    exchange_entries,
    find_nearest,
    hop,
    search_blind_rows,
)
from certify.attacks.minimum_norm.descent import descend, inward
from certify.attacks.minimum_norm.driver import Attack
from certify.attacks.minimum_norm.fast_adaptive_boundary import walk_with_restarts
from certify.attacks.minimum_norm.polish import polish
from certify.attacks.minimum_norm.search import MOST_TARGETS, Search
from certify.attacks.minimum_norm.sparsefool import fill
from certify.attacks.minimum_norm.superdeepfool import turn
from certify.attacks.minimum_norm.surrogate_gradients import jittered
from certify.attacks.minimum_norm.trust_region import NEAR_REACH, tighten, walk

SCATTERED = 200  # random points a little nearer than the best one, a forward pass each
NEARER = 0.999
RANDOM_SEARCHES = 6
RANDOM_REGIONS, JITTERS, JITTER_REACH = 80, 3, (2.0, 2.0)  # how often, how many steps each, and how far they may go
REFINEMENTS = 3
HOPS = 10  # in l_1 and l_2, at each refinement
MOST_ENTRIES = 1000  # that are tried one by one
CROSSINGS = 20  # linearisations of DeepFool and crossings of SparseFool, at most
ROUNDS = 3  # of SuperDeepFool


def portfolio(norm: float, steps: int, restarts: int) -> dict[str, Attack]:
    """The attacks that serve a norm, by name, in the order in which they run."""
    stages: dict[str, Attack] = {}
    stages["descents"] = lambda search: find_nearest(search, steps, restarts)
    stages["without gradients"] = lambda search: search_blind_rows(search, steps)
    if norm <= 1:
        stages["single entries"] = _single_entries
    if norm >= 1:
        stages["fast_adaptive_boundary"] = lambda search: walk_with_restarts(search, steps, restarts)
    if norm <= 1:
        stages["sparsefool"] = lambda search: fill(search, CROSSINGS)
    if norm == 2:
        stages["superdeepfool"] = lambda search: turn(search, ROUNDS)
    if norm == math.inf:
        stages["deepfool"] = lambda search: cross(search, search.x, CROSSINGS)
    stages["every class"] = lambda search: _towards_each_class(search, steps)
    stages["random starts"] = lambda search: _from_random_points(search, steps)
    if norm == math.inf:
        stages["random regions"] = lambda search: _through_random_regions(search, steps)
    stages["refinement"] = lambda search: _refine(search, 2 * steps)
    return stages


def _single_entries(search: Search) -> None:
    """Every entry at either side of the box, the steepest first: slopes at x hide many of the successes."""
    low, high = (side.flatten(1) for side in search.sides())
    _, gradient = search.margin_and_gradient(search.x, None)
    order = gradient.flatten(1).abs().argsort(1, descending=True)[:, :MOST_ENTRIES]
    for entry in order.split(1, dim=1):
        for side in (low, high):
            search.logits(search.x.flatten(1).scatter(1, entry, side.gather(1, entry)).view_as(search.x))
    polish(search)


def _towards_each_class(search: Search, steps: int) -> None:
    """Searches from x: what does not show on the way to the nearest class may do so on the way to another."""
    for target in search.likeliest(MOST_TARGETS):
        if search.norm == 0:
            exchange_entries(search, target, search.x, steps)
        elif search.norm == math.inf:
            inward(search, target, search.x, steps // 2)
        else:
            walk(search, target, search.x, steps)


def _from_random_points(search: Search, steps: int) -> None:
    """Points scattered around x, then searches from far away, every other one towards a class that none has reached."""
    if search.norm > 0:
        _scatter(search)
    tried = nn.functional.one_hot(search.labels, search.num_classes).bool()
    for index in range(RANDOM_SEARCHES):
        target = None
        if index % 2:
            tried = tried.scatter(1, search.reached[:, None], True)
            target, _, _ = search.nearest_boundary(search.best, search.x, tried)
            tried = tried.scatter(1, target[:, None], True)
        inward(search, target, search.random_point(), steps)


def _scatter(search: Search) -> None:
    """Random points nearly as far away as the best ones, with few to many changed entries: they find small regions."""
    for _ in range(SCATTERED):
        noise = search.streams.normal(search.x)
        share = search.streams.uniform(search.distance)
        noise = noise * (search.streams.uniform(search.x) < per_row(share, noise))
        size = length(noise, search.norm).clamp(min=torch.finfo(noise.dtype).tiny)
        reach = torch.where(search.distance.isfinite(), search.distance, search.extent(search.norm))
        search.logits(search.inside(search.x + noise * per_row(NEARER * reach / size, noise)))


def _through_random_regions(search: Search, steps: int) -> None:
    """From x along the gradients of linear regions drawn at random, and from there to the nearest boundary.

    In l_infinity the nearest boundary is often that of a region in whose direction no other search sets out.
    """
    for _ in range(RANDOM_REGIONS):
        with jittered(search.streams):
            start = tighten(search, None, search.x, JITTERS, reach=JITTER_REACH)
        start = descend(search, math.inf, None, start, 3 * steps // 10, dense=True)
        tighten(search, None, start, steps // 10, reach=NEAR_REACH)


def _refine(search: Search, steps: int) -> None:
    """Searches from the best points and around them, with small steps that end in the nearest minimum."""
    for _ in range(REFINEMENTS):
        if search.norm <= 1:
            exchange_entries(search, None, search.best, steps)
            exchange_entries(search, None, search.random_start(), steps)
        if search.norm in (1, 2):
            hop(search, HOPS, steps // 2)
            tighten(search, None, search.best, steps // 2, reach=LAST_REACH)
        descend(search, search.norm, None, search.best, steps)
        polish(search)
