"""Complete search for an input that leads into an unsafe set, or for the proof that there is none.

References:
    Bunel et al. (2020), Branch and bound for piecewise linear neural network verification, arXiv:1909.06588; Wang et
    al. (2021), Beta-CROWN: efficient bound propagation with per-neuron split constraints, arXiv:2103.06624.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bounds.circumstances import isolated
from bounds.graph.captured import Graph
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.memory import MEMORY, WAITING
from bounds.numerics import ieee_arithmetic
from bounds.search.input_splits import split_inputs
from bounds.search.neuron_splits import split_neurons
from bounds.search.neurons import spans_of
from bounds.search.problem import Check, Problem, SearchResult, problem_of
from bounds.search.recording import Record
from bounds.sets.balls import Box, LpBall

FEW_INPUTS = 16  # up to which boxes are cut
STEPS_BEFORE = 20  # of ascent for the intervals that all domains share
COST_OF_ASCENT = 200  # most time that such an ascent may take, in units of bounds without one, with room to spare


@isolated
@ieee_arithmetic()
def search(
    graph: Graph,
    box: Box,
    cases: Sequence[tuple[Tensor, Tensor]],
    *,
    deadline: float,
    sound: str = "rounding",
    check: Check,
    memory: int = MEMORY,
    waiting: int = WAITING,
    ball: LpBall | None = None,
    record: Record | None = None,
) -> SearchResult:
    """Prove that no input of a box leads to outputs with ``A y <= b`` for any of the cases, or find such an input.

    With a ball (1, *D), of which the box is the hull, only its inputs are meant.
    """
    with torch.no_grad():
        problem = problem_of(graph, box, cases, deadline, sound, check, memory)
        problem = replace(problem, waiting=waiting, ball=None if ball is None else ball.double(), record=record)
        began = time.monotonic()
        first = root_bounds(problem)
        if isinstance(first, SearchResult):
            return first
        problem, network = first
        if problem.box.lower.numel() <= FEW_INPUTS or not spans_of(network):
            return split_inputs(problem)
        is_short = (time.monotonic() - began) * COST_OF_ASCENT < deadline - time.monotonic()
        if is_short and record is None:  # a record derives all intervals anew, without any ascent
            network = RefinedNetwork(network, tighten=True, steps=STEPS_BEFORE, memory=memory).refine()
        return _with_boxes(problem, split_neurons(problem, network))


def _with_boxes(problem: Problem, found: SearchResult) -> SearchResult:
    """The result of a search that goes on by cutting boxes where it ran out of neurons."""
    if found.status != "unknown" or problem.is_late:
        return found
    again = split_inputs(problem)
    return replace(again, domains=found.domains + again.domains)


def root_bounds(problem: Problem) -> SearchResult | tuple[Problem, Network]:
    """The end, if bounds of the whole box prove all; or what is left, and the network with its intervals."""
    network = Network(problem.graph, problem.region, sound=problem.sound)
    refined = RefinedNetwork(network, tighten=True, memory=problem.memory)
    network = refined.refine()
    rows = problem.rows.flatten(0, 1)[None]
    least = torch.maximum(refined.functions(rows), refined.functions(rows, intervals=True))
    left = ~(problem.distances(least)[0] > 0).any(1)
    if problem.record is not None and not left.all():
        left[~left] = ~problem.record.takes_sets(problem, (~left).nonzero()[:, 0])
    if not left.any():
        return SearchResult("proved", None, 1, "bounds")
    return problem.only(left.nonzero()[:, 0]), network
