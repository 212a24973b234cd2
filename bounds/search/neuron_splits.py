"""Branch and bound on neurons: where a function bends is split from where it does not, until bounds prove all parts.

References:
    Bunel et al. (2020), Branch and bound for piecewise linear neural network verification, arXiv:1909.06588; De Palma
    et al. (2021), Improved branch and bound for neural network verification via Lagrangian decomposition,
    arXiv:2104.06718 (the choice among few neurons by bounds of their children).
"""

import time

import torch
from torch import Tensor

from bounds.linear.network import Network
from bounds.search.domains import Domains
from bounds.search.leaves import bounded_leaf
from bounds.search.neurons import can_be_split, split_points
from bounds.search.problem import Problem, SearchResult
from bounds.search.recording import only_record_is_open, still_open
from bounds.search.split_bounds import SplitBounds

AT_ONCE = 64  # domains that are split together
ROOT_STEPS, STEPS, LEAF_STEPS = 40, 4, 60  # of ascent
LONGEST = 0.05  # share of the time that is left which domains that are split together may take


def split_neurons(problem: Problem, root: Network) -> SearchResult:
    """Search by splitting neurons, the least proved domain first; ``root`` has the intervals of the whole box."""
    bounds, at_once = SplitBounds(problem, root), AT_ONCE
    found, corners = bounds.bounded(bounds.roots(), ROOT_STEPS)
    domains = len(found)
    found = still_open(bounds, found)
    while True:
        began = time.monotonic()
        if (witness := problem.check(corners)) is not None:
            return SearchResult("counterexample", witness, domains, "neuron splits")
        is_full = len(found) * found.memory > problem.waiting
        if len(found) == 0 or ((problem.is_late or is_full) and only_record_is_open(problem, found)):
            return SearchResult("proved", None, domains, "neuron splits")
        if problem.is_late:
            return SearchResult("timeout", None, domains, "", f"{len(found)} domains are left")
        if is_full:
            return SearchResult("unknown", None, domains, "", f"{len(found)} domains wait, the most that fit")
        order = found.bound.argsort()
        worst, rest = found[order[:at_once]], found[order[at_once:]]
        ends = worst.choice[:, 0] < 0
        if bool(ends.any()):
            leaves, _ = bounds.bounded(worst[ends], LEAF_STEPS)  # which mostly finds that no input meets all splits
            leaves = still_open(bounds, leaves)
            again = leaves.choice[:, 0] >= 0
            rest = rest + leaves[again]
            for leaf in leaves[~again].each():
                proved, point = bounded_leaf(bounds, leaf)
                if len(still_open(bounds, proved)) == 0:
                    continue
                if point is not None and (witness := problem.check(point)) is not None:
                    return SearchResult("counterexample", witness, domains, "neuron splits")
                halves = _split_widest(bounds, leaf)
                if halves is None and only_record_is_open(problem, proved):
                    continue
                if halves is None:
                    reason = "a domain with no neuron left to split is not proved"
                    return SearchResult("unknown", None, domains, "", reason)
                rest = rest + still_open(bounds, halves)
                domains += len(halves)
            found = rest + worst[~ends]
            continue
        children = split_worst(bounds, worst)
        children, corners = bounds.bounded(children, STEPS)
        domains += len(children)
        found = rest + still_open(bounds, children)
        if time.monotonic() - began > LONGEST * (problem.deadline - began):
            at_once = max(1, at_once // 2)


def _split_widest(bounds: SplitBounds, leaf: Domains) -> Domains | None:
    """Both sides of a neuron that does not bear on the bound of a domain, but may once weights change."""
    network, _ = bounds.view(leaf)
    widths = []
    for span in bounds.spans:
        (interval,) = network.parents(span.name)
        width = (interval.upper - interval.lower).clamp(max=torch.finfo(torch.float32).max)
        widths.append(torch.where(can_be_split(network, span), width, 0.0).flatten(1))
    width, neuron = torch.cat(widths, 1).max(1)
    if not bool(width > 0):
        return None
    points = _points(bounds, network)
    halves, _ = bounds.bounded(leaf.children(neuron, points.gather(1, neuron[:, None])[:, 0]), STEPS)
    return halves


def _points(bounds: SplitBounds, network: Network) -> Tensor:
    """The points (N, total) to split all neurons at."""
    return torch.cat([split_points(network, span).flatten(1) for span in bounds.spans], 1)


def split_worst(bounds: SplitBounds, worst: Domains) -> Domains:
    """The children of the best of few splits of each domain, judged by their bounds without any ascent."""
    count = len(worst)
    network, _ = bounds.view(worst)
    points = _points(bounds, network)
    tried = worst.choice.clamp(min=0)
    most = tried.shape[1]
    index = torch.arange(count, device=tried.device).repeat_interleave(most)
    neuron = tried.flatten()
    children = worst[index].children(neuron, points[index, neuron])
    below, above = bounds.guessed(children).view(2, count, most)
    gain = torch.minimum(below, above) + 1e-3 * torch.maximum(below, above).clamp(max=1e6)
    gain = gain.masked_fill(worst.choice < 0, -torch.inf)
    chosen = tried.gather(1, gain.argmax(1, keepdim=True))[:, 0]
    rows: Tensor = torch.arange(count, device=tried.device)
    return worst.children(chosen, points[rows, chosen])
