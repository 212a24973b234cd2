"""Lower bounds that get better the longer neurons are split, where no threshold says when to end."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bounds.circumstances import isolated
from bounds.graph.captured import Graph
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.memory import MEMORY
from bounds.numerics import ieee_arithmetic
from bounds.search.neuron_splits import ROOT_STEPS, STEPS, split_worst
from bounds.search.neurons import spans_of
from bounds.search.problem import Problem, problem_of
from bounds.search.split_bounds import SplitBounds
from bounds.sets.balls import Box, LpBall
from bounds.sets.hulls import HullOfBoxes

AT_ONCE = 16  # parts that are split together


@isolated
@ieee_arithmetic()
def least_of_largest(
    graph: Graph,
    box: Box,
    cases: Sequence[tuple[Tensor, Tensor]],
    *,
    enough: Sequence[float],
    most_parts: int,
    deadline: float = math.inf,
    sound: str = "rounding",
    memory: int = MEMORY,
    ball: LpBall | HullOfBoxes | None = None,
) -> Tensor:
    """Lower bounds (C,) on the largest entry of ``A y - b`` over a box, for each of C pairs of A (M, K) and b (M,).

    Any choice among the M entries bounds the largest; their weights are ascended together with the planes of all
    neurons. Then the part with the least bound is split, again and again.

    Args:
        graph: the captured network, in float64.
        box: (1, *D).
        cases: the pairs, exact in the dtype of the network.
        enough: bounds (C,) beyond which a case is not split any further.
        most_parts: parts to bound, of all cases together, before the search ends.
        deadline: by ``time.monotonic()``, at which it ends too.
        sound: which rounding errors are included, see :func:`bounds.crown`.
        memory: bytes that coefficients may take.
        ball: (1, *D), of which the box is the hull: only its inputs are meant; or a hull of boxes.
    """
    with torch.no_grad():
        problem = problem_of(graph, box, cases, deadline, sound, lambda _: None, memory)
        problem = replace(problem, ball=None if ball is None else ball.double())
        target = problem.offsets.new_tensor(enough)
        refined = RefinedNetwork(Network(graph, problem.region, sound=sound), tighten=True, memory=memory)
        network = refined.refine()
        rows = problem.rows.flatten(0, 1)[None]
        least = torch.fmax(refined.functions(rows), refined.functions(rows, intervals=True))
        first = problem.distances(least)[0].amax(1).nan_to_num(-math.inf, posinf=math.inf)
        left = (~(first > target)).nonzero()[:, 0]
        if not len(left) or not spans_of(network) or most_parts < len(left):
            return first
        better = _split(problem.only(left), network, target[left], most_parts)
        return first.index_put((left,), torch.fmax(first[left], better))


def _split(problem: Problem, network: Network, target: Tensor, most_parts: int) -> Tensor:
    """Bounds (C,) by splits; ``network`` has the intervals of the whole box."""
    bounds = SplitBounds(problem, network)
    done = torch.full_like(target, math.inf)  # least bound of the parts of each case that are not split any more
    found, _ = bounds.bounded(bounds.roots(), ROOT_STEPS)
    parts = len(found)
    while True:
        ends = (found.bound > target[found.case]) | (found.choice[:, 0] < 0)
        done = done.scatter_reduce(0, found.case[ends], found.bound[ends], "amin")
        found = found[~ends]
        if len(found) == 0 or problem.is_late or parts + 2 * min(len(found), AT_ONCE) > most_parts:
            return done.scatter_reduce(0, found.case, found.bound, "amin").nan_to_num(-math.inf, posinf=math.inf)
        order = found.bound.argsort()
        worst, rest = found[order[:AT_ONCE]], found[order[AT_ONCE:]]
        children, _ = bounds.bounded(split_worst(bounds, worst), STEPS)
        children = replace(children, bound=torch.fmax(children.bound, worst.bound.repeat(2)))
        found, parts = rest + children, parts + len(children)
