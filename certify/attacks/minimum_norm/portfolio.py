"""Several attacks on the same search, one after the other, each starting from what the others found."""

import math

import torch
from torch import nn

from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.attacks.minimum_norm.deepfool import deepfool_steps
from certify.attacks.minimum_norm.fast_adaptive_boundary import fast_adaptive_boundary_steps
from certify.attacks.minimum_norm.sparsefool import sparsefool_steps
from certify.attacks.minimum_norm.superdeepfool import superdeepfool_steps
from certify.attacks.search.default_search import (
    LAST_REACH,
    exchange_and_tighten,
    find_nearest,
    restart_from_part,
    search_blind_rows,
)
from certify.attacks.search.descent import descend, descend_through_norms
from certify.attacks.search.driver import MINIMUM_NORM, Stage
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MOST_TARGETS, MinimumNormState
from certify.attacks.search.surrogate_gradients import jittered
from certify.attacks.search.trust_region import NEAR_REACH, tighten, walk

SCATTERED = 200  # random points a little nearer than the best one, a forward pass each
NEARER = 0.999
RANDOM_SEARCHES = 6
RANDOM_REGIONS, JITTERS, JITTER_REACH = 80, 3, (2.0, 2.0)  # how often, how many steps each, and how far they may go
REFINEMENTS = 3
HOPS = 10  # in l_1 and l_2, at each refinement
MOST_ENTRIES = 1000  # that are tried one by one
CROSSINGS = 20  # linearisations of DeepFool and crossings of SparseFool, at most
ROUNDS = 3  # of SuperDeepFool


def portfolio(norm: float, steps: int, restarts: int) -> dict[str, Stage]:
    """The attacks that serve a norm, by name, in the order in which they run."""
    stages: dict[str, Stage] = {}
    stages["descents"] = lambda state: find_nearest(state, steps, restarts)
    stages["without gradients"] = lambda state: search_blind_rows(state, steps)
    if norm <= 1:
        stages["single entries"] = _single_entries
    if norm in MINIMUM_NORM["fast_adaptive_boundary"]:
        stages["fast_adaptive_boundary"] = lambda state: fast_adaptive_boundary_steps(state, steps, restarts)
    if norm in MINIMUM_NORM["sparsefool"]:
        stages["sparsefool"] = lambda state: sparsefool_steps(state, CROSSINGS)
    if norm in MINIMUM_NORM["superdeepfool"]:
        stages["superdeepfool"] = lambda state: superdeepfool_steps(state, ROUNDS)
    if norm == math.inf:
        stages["deepfool"] = lambda state: deepfool_steps(state, state.x, CROSSINGS)
    stages["every class"] = lambda state: _towards_each_class(state, steps)
    stages["random starts"] = lambda state: _from_random_points(state, steps)
    if norm == math.inf:
        stages["random regions"] = lambda state: _through_random_regions(state, steps)
    stages["refinement"] = lambda state: _refine(state, 2 * steps)
    return stages


def _single_entries(state: MinimumNormState) -> None:
    """Every entry at either side of the box, the steepest first: slopes at x hide many of the successes."""
    low, high = (side.flatten(1) for side in state.sides())
    _, gradient = state.margin_and_gradient(state.x, None)
    order = gradient.flatten(1).abs().argsort(1, descending=True)[:, :MOST_ENTRIES]
    for entry in order.split(1, dim=1):
        for side in (low, high):
            state.logits(state.x.flatten(1).scatter(1, entry, side.gather(1, entry)).view_as(state.x))
    polish(state)


def _towards_each_class(state: MinimumNormState, steps: int) -> None:
    """Searches from x: what does not show on the way to the nearest class may do so on the way to another."""
    for target in state.likeliest(MOST_TARGETS):
        if state.norm == 0:
            exchange_and_tighten(state, target, state.x, steps)
        elif state.norm == math.inf:
            descend_through_norms(state, target, state.x, steps // 2)
        else:
            walk(state, target, state.x, steps)


def _from_random_points(state: MinimumNormState, steps: int) -> None:
    """Points scattered around x, then searches from far away, every other one towards a class that none has reached."""
    if state.norm > 0:
        _scatter(state)
    tried = nn.functional.one_hot(state.labels, state.num_classes).bool()
    for index in range(RANDOM_SEARCHES):
        target = None
        if index % 2:
            tried = tried.scatter(1, state.reached[:, None], True)
            target, _, _ = state.nearest_boundary(state.best, state.x, tried)
            tried = tried.scatter(1, target[:, None], True)
        descend_through_norms(state, target, state.random_point(), steps)


def _scatter(state: MinimumNormState) -> None:
    """Random points nearly as far away as the best ones, with few to many changed entries: they find small regions."""
    for _ in range(SCATTERED):
        noise = state.streams.normal(state.x)
        share = state.streams.uniform(state.distance)
        noise = noise * (state.streams.uniform(state.x) < per_row(share, noise))
        size = length(noise, state.norm).clamp(min=torch.finfo(noise.dtype).tiny)
        reach = torch.where(state.distance.isfinite(), state.distance, state.extent(state.norm))
        state.logits(state.inside(state.x + noise * per_row(NEARER * reach / size, noise)))


def _through_random_regions(state: MinimumNormState, steps: int) -> None:
    """From x along the gradients of linear regions drawn at random, and from there to the nearest boundary.

    In l_infinity the nearest boundary is often that of a region in whose direction no other search sets out.
    """
    for _ in range(RANDOM_REGIONS):
        with jittered(state.streams):
            start = tighten(state, None, state.x, JITTERS, reach=JITTER_REACH)
        start = descend(state, math.inf, None, start, 3 * steps // 10, dense=True)
        tighten(state, None, start, steps // 10, reach=NEAR_REACH)


def _refine(state: MinimumNormState, steps: int) -> None:
    """Searches from the best points and around them, with small steps that end in the nearest minimum."""
    for _ in range(REFINEMENTS):
        if state.norm <= 1:
            exchange_and_tighten(state, None, state.best, steps)
            exchange_and_tighten(state, None, state.random_start(), steps)
        if state.norm in (1, 2):
            restart_from_part(state, HOPS, steps // 2)
            tighten(state, None, state.best, steps // 2, reach=LAST_REACH)
        descend(state, state.norm, None, state.best, steps)
        polish(state)
