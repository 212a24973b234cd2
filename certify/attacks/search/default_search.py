"""The search that runs by default in each norm: descents from several starts, and what follows them."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bounds.numerics import per_row
from certify.attacks.search.descent import dense_descent, descend, descend_through_norms
from certify.attacks.search.entry_exchange import exchange_entries
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import leaky, straight_through
from certify.attacks.search.trust_region import NEAR_REACH, tighten, walk
from certify.attacks.search.without_gradients import boundary_walk_steps, search_by_margins, try_without_gradients

HOPS = 2  # for each restart, in l_1
BLIND_STEPS, BLIND_PROBES = 10, 50  # of the walk by classes
KEPT = 0.25  # share of the changed entries with which a hop begins
LAST_REACH = (0.2, 0.002)  # of the steps in l_1 that end the search


def find_nearest(state: MinimumNormState, steps: int, restarts: int) -> None:
    """The default search of each norm."""
    if state.norm == 0:
        _search_in_l0(state, steps, restarts)
    else:
        descend_with_restarts(state, steps, restarts)
    if state.norm == 1:
        _search_on_in_l1(state, steps, restarts)
    if state.norm == 2:
        restart_from_part(state, restarts, steps)
    polish(state)


def descend_with_restarts(state: MinimumNormState, steps: int, restarts: int) -> None:
    """Descents in l_1, l_2 or l_infinity towards different classes, at last from the best point."""
    tried = nn.functional.one_hot(state.labels, state.num_classes).bool()
    for restart in range(restarts):
        # First towards whatever class comes nearest, then towards classes that no restart has reached yet, at last
        # from the best point. Rows without any success start from random points.
        if restart == 0:
            target, start = None, state.x
        elif restart < restarts - 1:
            target, start = state.nearest_boundary(state.best, state.x, tried)[0], state.random_start()
            tried = tried.scatter(1, target[:, None], True)
        else:
            missing = per_row(state.distance.isinf(), state.x)
            target, start = None, torch.where(missing, state.random_point(), state.best)
        if state.norm == 1:
            descend(state, 1.0, target, start, steps)
            if restart == 0 or restart < restarts - 1:
                descend_through_norms(
                    state, None, state.random_point() if restart else state.x, steps, leak=restart > 0
                )
        elif state.norm == 2:
            dense_descent(state, target, start, steps, leak=restart > 0)
        else:
            # At last along the gradient: where the margin has a ridge, sign steps jump across it and make no way.
            first = steps // 3 if restart else 0
            with leaky():
                start = descend(state, math.inf, target, start, first)
            descend(state, math.inf, target, start, steps - first, dense=0 < restart == restarts - 1)
        tried = tried.scatter(1, state.reached[:, None], True)
        if restart == 0:
            try_without_gradients(state)
    polish(state)


def _search_in_l0(state: MinimumNormState, steps: int, restarts: int) -> None:
    """In l_0, two descents, and exchanges of entries of the nearest point and from x towards the likeliest classes."""
    descend(state, 0.0, None, state.x, steps)
    descend_through_norms(state, None, state.x, steps, leak=False)
    try_without_gradients(state)
    exchange_and_tighten(state, None, state.best, steps)
    for target in state.likeliest(restarts):
        exchange_and_tighten(state, target, state.x, steps)


def _search_on_in_l1(state: MinimumNormState, steps: int, restarts: int) -> None:
    """In l_1, walks from x towards the likeliest classes, then exchanges and walks around the nearest point."""
    for target in state.likeliest(restarts):
        walk(state, target, state.x, steps)
    exchange_and_tighten(state, None, state.best, steps)
    restart_from_part(state, HOPS * restarts, steps)
    exchange_and_tighten(state, None, state.best, steps)
    tighten(state, None, state.best, steps // 2, reach=LAST_REACH)


def exchange_and_tighten(state: MinimumNormState, target: Tensor | None, start: Tensor, steps: int) -> None:
    """Exchanges of entries from ``start``; in l_1 then the nearest point around where they lead."""
    share = 3 * steps // 10
    end = exchange_entries(state, target, start, share)
    if state.norm == 1:
        tighten(state, None, end, share, reach=NEAR_REACH)


def restart_from_part(state: MinimumNormState, hops: int, steps: int) -> None:
    """Walks from the best points, of which most changed entries, drawn at random, have gone back to x."""
    for _ in range(hops):
        kept = state.streams.uniform(state.x) < KEPT
        walk(state, None, torch.where(kept, state.best, state.x), steps)


def search_blind_rows(state: MinimumNormState, steps: int) -> None:
    """For rows whose gradients say nothing: with steps passed straight through, and by predictions alone."""
    rows = state.unguided().nonzero().squeeze(1)
    if len(rows) == 0:
        return
    with state.part(rows) as blind:
        blind.surrogate = straight_through
        blind.blind = torch.ones_like(blind.blind)
        blind.margin_and_gradient(blind.x, None)
        if not blind.blind.all():
            descend_with_restarts(blind, steps, 2)
        blind.surrogate = nullcontext
        if state.norm == 0:
            search_by_margins(blind, steps)
        else:
            try_without_gradients(blind)
            boundary_walk_steps(blind, BLIND_STEPS, BLIND_PROBES)
