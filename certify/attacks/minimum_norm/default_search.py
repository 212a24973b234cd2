"""The search that runs by default in each norm: descents from several starts, and what follows them."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from certify.attacks.common.norms import per_row
from certify.attacks.minimum_norm.descent import dense_descent, descend, inward
from certify.attacks.minimum_norm.entry_exchange import exchange
from certify.attacks.minimum_norm.polish import polish
from certify.attacks.minimum_norm.search import Search
from certify.attacks.minimum_norm.surrogate_gradients import leaky, straight_through
from certify.attacks.minimum_norm.trust_region import NEAR_REACH, tighten, walk
from certify.attacks.minimum_norm.without_gradients import search_by_margins, try_without_gradients, walk_by_classes

HOPS = 2  # for each restart, in l_1
BLIND_STEPS, BLIND_PROBES = 10, 50  # of the walk by classes
KEPT = 0.25  # share of the changed entries with which a hop begins
LAST_REACH = (0.2, 0.002)  # of the steps in l_1 that end the search


def find_nearest(search: Search, steps: int, restarts: int) -> None:
    """The default search of each norm."""
    if search.norm == 0:
        _search_in_l0(search, steps, restarts)
    else:
        descend_with_restarts(search, steps, restarts)
    if search.norm == 1:
        _search_on_in_l1(search, steps, restarts)
    if search.norm == 2:
        hop(search, restarts, steps)
    polish(search)


def descend_with_restarts(search: Search, steps: int, restarts: int) -> None:
    """Descents in l_1, l_2 or l_infinity towards different classes, at last from the best point."""
    tried = nn.functional.one_hot(search.labels, search.num_classes).bool()
    for restart in range(restarts):
        # First towards whatever class comes nearest, then towards classes that no restart has reached yet, at last
        # from the best point. Rows without any success start from random points.
        if restart == 0:
            target, start = None, search.x
        elif restart < restarts - 1:
            target, start = search.nearest_boundary(search.best, search.x, tried)[0], search.random_start()
            tried = tried.scatter(1, target[:, None], True)
        else:
            missing = per_row(search.distance.isinf(), search.x)
            target, start = None, torch.where(missing, search.random_point(), search.best)
        if search.norm == 1:
            descend(search, 1.0, target, start, steps)
            if restart == 0 or restart < restarts - 1:
                inward(search, None, search.random_point() if restart else search.x, steps, leak=restart > 0)
        elif search.norm == 2:
            dense_descent(search, target, start, steps, leak=restart > 0)
        else:
            # At last along the gradient: where the margin has a ridge, sign steps jump across it and make no way.
            first = steps // 3 if restart else 0
            with leaky():
                start = descend(search, math.inf, target, start, first)
            descend(search, math.inf, target, start, steps - first, dense=0 < restart == restarts - 1)
        tried = tried.scatter(1, search.reached[:, None], True)
        if restart == 0:
            try_without_gradients(search)
    polish(search)


def _search_in_l0(search: Search, steps: int, restarts: int) -> None:
    """In l_0, two descents, and exchanges of entries of the nearest point and from x towards the likeliest classes."""
    descend(search, 0.0, None, search.x, steps)
    inward(search, None, search.x, steps, leak=False)
    try_without_gradients(search)
    exchange_entries(search, None, search.best, steps)
    for target in search.likeliest(restarts):
        exchange_entries(search, target, search.x, steps)


def _search_on_in_l1(search: Search, steps: int, restarts: int) -> None:
    """In l_1, walks from x towards the likeliest classes, then exchanges and walks around the nearest point."""
    for target in search.likeliest(restarts):
        walk(search, target, search.x, steps)
    exchange_entries(search, None, search.best, steps)
    hop(search, HOPS * restarts, steps)
    exchange_entries(search, None, search.best, steps)
    tighten(search, None, search.best, steps // 2, reach=LAST_REACH)


def exchange_entries(search: Search, target: Tensor | None, start: Tensor, steps: int) -> None:
    """Exchanges of entries from ``start``; in l_1 then the nearest point around where they lead."""
    share = 3 * steps // 10
    end = exchange(search, target, start, share)
    if search.norm == 1:
        tighten(search, None, end, share, reach=NEAR_REACH)


def hop(search: Search, hops: int, steps: int) -> None:
    """Walks from the best points, of which most changed entries, drawn at random, have gone back to x."""
    for _ in range(hops):
        kept = search.streams.uniform(search.x) < KEPT
        walk(search, None, torch.where(kept, search.best, search.x), steps)


def search_blind_rows(search: Search, steps: int) -> None:
    """For rows whose gradients say nothing: with steps passed straight through, and by predictions alone."""
    rows = search.unguided().nonzero().squeeze(1)
    if len(rows) == 0:
        return
    blind = search.part(rows)
    blind.surrogate = straight_through
    blind.blind = torch.ones_like(blind.blind)
    blind.margin_and_gradient(blind.x, None)
    if not blind.blind.all():
        descend_with_restarts(blind, steps, 2)
    blind.surrogate = nullcontext
    if search.norm == 0:
        search_by_margins(blind, steps)
    else:
        try_without_gradients(blind)
        walk_by_classes(blind, BLIND_STEPS, BLIND_PROBES)
    search.put(rows, blind)
    search.more_forward[rows] += blind.forward + blind.more_forward
    search.more_backward[rows] += blind.backward
