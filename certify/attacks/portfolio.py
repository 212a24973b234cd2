"""Several attacks on the same search, one after the other, each starting from what the others found."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from certify.attacks.deepfool import cross
from certify.attacks.descent import descend, descend_with_restarts, hop, inward
from certify.attacks.entries import add_entries, swap_entries
from certify.attacks.fast_adaptive_boundary import walk_with_restarts
from certify.attacks.geometry import length, per_row
from certify.attacks.polish import polish, revert
from certify.attacks.search import MOST_TARGETS, Search
from certify.attacks.sparsefool import fill
from certify.attacks.superdeepfool import turn
from certify.attacks.witnesses import Attack

SCATTERED = 200  # random points a little nearer than the best one, a forward pass each
NEARER = 0.999
RANDOM_SEARCHES = 6
REFINEMENTS = 2
HOPS = 10  # in l_1, before each refinement
MOST_ENTRIES = 1000  # that are tried one by one
CROSSINGS = 20  # linearisations of DeepFool and crossings of SparseFool, at most
SWAPS = 10  # of entries, for each class
ROUNDS = 3  # of SuperDeepFool


def portfolio(norm: float, steps: int, restarts: int) -> dict[str, Attack]:
    """The attacks that serve a norm, by name, in the order in which they run."""
    stages: dict[str, Attack] = {}
    stages["descents"] = lambda search: descend_with_restarts(search, steps, restarts)
    if norm == 0:
        stages["single entries"] = _single_entries
        stages["swaps"] = _swap
    if norm >= 1:
        stages["fast_adaptive_boundary"] = lambda search: walk_with_restarts(search, steps, restarts)
    if norm <= 1:
        stages["sparsefool"] = lambda search: fill(search, CROSSINGS)
    if norm == 2:
        stages["superdeepfool"] = lambda search: turn(search, ROUNDS)
    if norm == math.inf:
        stages["deepfool"] = lambda search: cross(search, search.x, CROSSINGS)
    if norm > 0:
        stages["every class"] = lambda search: _towards_each_class(search, steps // 2)
    stages["random starts"] = lambda search: _from_random_points(search, steps)
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


def _classes(search: Search) -> Iterator[Tensor]:
    """The likeliest other classes of each row, (N,), one after the other."""
    ranked = search.logits(search.x).scatter(1, search.labels[:, None], -math.inf)
    yield from ranked.topk(min(MOST_TARGETS, search.num_classes - 1), dim=1).indices.T


def _swap(search: Search) -> None:
    """Searches entry by entry towards all classes in turn, and swaps of entries of what they lead to."""
    for target in _classes(search):
        add_entries(search, target)
        revert(search)
        swap_entries(search, SWAPS)


def _towards_each_class(search: Search, steps: int) -> None:
    """Searches from x through dead neurons, of which some may come to life on the way to one class alone."""
    for target in _classes(search):
        inward(search, target, search.x, steps)


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
        noise = torch.empty_like(search.x).normal_(generator=search.generator)
        share = torch.empty_like(search.distance).uniform_(generator=search.generator)
        noise = noise * (torch.empty_like(search.x).uniform_(generator=search.generator) < per_row(share, noise))
        size = length(noise, search.norm).clamp(min=torch.finfo(noise.dtype).tiny)
        reach = torch.where(search.distance.isfinite(), search.distance, search.extent(search.norm))
        search.logits(search.inside(search.x + noise * per_row(NEARER * reach / size, noise)))


def _refine(search: Search, steps: int) -> None:
    """Descents from the best points, with the small steps that end in the nearest minimum."""
    for _ in range(REFINEMENTS):
        if search.norm == 1:
            hop(search, HOPS, steps // 2)
            descend(search, 1.0, None, search.best, steps, dense=True)
        descend(search, search.norm, None, search.best, steps)
        polish(search)
