"""Complete search of small networks of rectifiers by a mixed-integer programme, for what branch and bound leaves open.

Where few inputs feed many unstable neurons, planes above neurons in the space of the inputs say far more than those
that see each neuron alone: of a layer of a hundred neurons, a hundred programmes decide what a hundred thousand splits
leave open.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bounds.circumstances import isolated
from bounds.graph.captured import Graph
from bounds.numerics import ieee_arithmetic
from bounds.operations.affine import AFFINE
from bounds.operations.functions import FUNCTIONS, Tables
from bounds.operations.node import Node, entries
from bounds.search.problem import Check, Problem, SearchResult, problem_of
from bounds.sets.balls import Box, LpBall
from bounds.solvers.admission import propagated
from bounds.solvers.encoding import RELU_OPERATIONS, Encoding, is_unstable
from bounds.solvers.milp import BranchAndBound

UNSTABLE = 150  # neurons, at most
WEIGHTS = 20_000  # inputs times unstable neurons, at most
NEURONS = 4_000  # of all layers, beyond which nobody counts the unstable ones


def is_small(graph: Graph, box: Box) -> bool:
    """Whether a network consists of affine operations and rectifiers, and of few enough of them to be looked at."""
    nodes = graph.bind(box.double().center)
    if any(node.operation not in ("input", *RELU_OPERATIONS, *AFFINE) for node in nodes.values()):
        return False
    neurons = sum(entries(node.value) for node in _rectifiers(nodes))
    return 0 < neurons <= NEURONS and box.center.numel() <= WEIGHTS


@isolated
@ieee_arithmetic()
@torch.no_grad()
def encoded(graph: Graph, ball: Box | LpBall) -> Encoding | None:
    """The programme of a small network on a box or an l1 ball (1, *D); None where it has too many unstable neurons."""
    ball = ball.double()
    network = propagated(graph, ball, Tables(AFFINE, FUNCTIONS))
    before = [network.intervals[node.parents[0]] for node in _rectifiers(network.nodes)]
    unstable = sum(int(is_unstable(interval).sum()) for interval in before)
    if unstable > UNSTABLE or unstable * ball.center.numel() > WEIGHTS:
        return None
    encoding = Encoding(network, ball, tighten=False)
    return None if encoding.curved else encoding  # by a slope outside of [0, 1]


def _rectifiers(nodes: Mapping[str, Node]) -> list[Node]:
    return [node for node in nodes.values() if node.operation in RELU_OPERATIONS]


@isolated
@ieee_arithmetic()
@torch.no_grad()
def search_by_programmes(
    graph: Graph, encoding: Encoding, cases: Sequence[tuple[Tensor, Tensor]], *, deadline: float, check: Check
) -> SearchResult:
    """Prove that no input of the encoded box leads to outputs with ``A y <= b`` for any case, or find such an input."""
    hull = encoding.ball.hull()
    problem = problem_of(graph, Box(hull.lower, hull.upper), cases, deadline, "rounding", check)
    domains = 0
    for rows, offsets in zip(problem.rows, problem.offsets, strict=True):
        found = _case(problem, encoding, rows, offsets)
        domains += found.domains
        if found.status != "proved":
            return SearchResult(found.status, found.counterexample, domains, found.decided_by, found.reason)
    return SearchResult("proved", None, domains, "mixed-integer programme")


def _case(problem: Problem, encoding: Encoding, rows: Tensor, offsets: Tensor) -> SearchResult:
    """The search for inputs of one unsafe set."""
    whole, form = encoding.largest(rows, offsets)
    search = BranchAndBound(whole, math.inf, problem.deadline)
    witness: Tensor | None = None

    def value(point: Tensor) -> float:
        nonlocal witness
        if witness is None:
            witness = problem.check(whole.input(point))
        return float((rows @ whole.value(point) - offsets).max())

    def settled(bound: float, reached: float) -> bool:
        return witness is not None or problem.is_late

    bound, _ = search.minimum(form, value, settled, target=0.0)
    if witness is not None:
        return SearchResult("counterexample", witness, search.solved, "mixed-integer programme")
    if bound > 0:
        return SearchResult("proved", None, search.solved, "mixed-integer programme")
    if problem.is_late:
        return SearchResult("timeout", None, search.solved, "", "branches of a mixed-integer programme are left")
    return SearchResult("unknown", None, search.solved, "", "a mixed-integer programme ended between proof and witness")
