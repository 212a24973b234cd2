"""Networks and sets that programmes can take: refused in one line, or captured and propagated."""

import torch

from bounds.errors import InvalidInput, UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.operations.functions import Tables
from bounds.operations.node import entries
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.scalar import ScalarFunction
from bounds.sets.balls import LpBall, PerturbationSet, perturbation_set

ENTRIES = 20_000  # of all nodes together, at most


def propagated(graph: Graph, ball: PerturbationSet, tables: Tables) -> Network:
    """The network over one perturbation set, with proved bounds of each node.

    Raises:
        UnsupportedLayer: a function of several entries that is no maximum.
    """
    network = RefinedNetwork(Network(graph, ball, tables, pooled=False), tighten=True).refine()
    for name, function in network.functions.items():
        if not isinstance(function, ScalarFunction | Maximum):
            node = network.nodes[name]
            raise UnsupportedLayer(
                f"{node.operation} is a function of several entries, for which convex relaxations have no rule; it "
                f"stands at {node.origin}. Use bounds.crown"
            )
    return network


def followed(model: Source | Graph, ball: PerturbationSet) -> Graph:
    """The graph of a network, once set and size are found fit.

    Raises:
        InvalidInput: a set that is no box and no ball of norm 1 or infinity, no float64, a network that is too large.
        UnsupportedLayer: a network that cannot be captured.
    """
    perturbation_set(ball)
    if not ball.is_box and l1_ball_of(ball) is None:
        got = f"an LpBall of norm {ball.norm:g}" if isinstance(ball, LpBall) else f"a {type(ball).__name__}"
        raise InvalidInput(
            f"ball must be a Box or an LpBall of norm 1 or infinity, got {got}: use one around it, or bounds.crown"
        )
    if ball.center.dtype != torch.float64:
        raise InvalidInput(f"ball must be in float64, got {ball.center.dtype}: convert its tensors with .double()")
    graph = capture(model, ball.center)
    size = sum(entries(node.value) for node in graph.bind(ball.center[:1]).values())
    if size > ENTRIES:
        raise InvalidInput(
            f"convex relaxations take networks of at most {ENTRIES} values per input, got {size}: use bounds.crown"
        )
    return graph


def l1_ball_of(ball: PerturbationSet) -> LpBall | None:
    """An l_1 ball, which is a polyhedron though no box; or None."""
    return ball if isinstance(ball, LpBall) and ball.norm == 1 else None
