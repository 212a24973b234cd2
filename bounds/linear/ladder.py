"""Linear bounds by several methods in turn, from cheap to tight, each from the intervals of the one before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bounds.circumstances import isolated
from bounds.graph.captured import Graph
from bounds.linear.forward import forward_intervals, pays_before_backward
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.linear.settled import SettledEntries
from bounds.memory import MEMORY
from bounds.numerics import converted_down, ieee_arithmetic
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.relaxations.relu import ReLURelaxation
from bounds.rows import label_margins
from bounds.sets.balls import Interval, PerturbationSet


class Rung(NamedTuple):
    """One way to refine a network.

    Attributes:
        method: whose bounds are complete with it.
        options: of :class:`RefinedNetwork`.
        forward: whether forward bounds give the intervals.
    """

    method: str
    options: Mapping[str, Any]
    forward: bool = False

    def refined(
        self, network: Network, intervals: Mapping[str, Interval], memory: int, before: SettledEntries | None = None
    ) -> RefinedNetwork:
        """The network with intervals that meet given ones, of earlier rungs; and what the passes of these settled."""
        if self.forward:
            found = forward_intervals(network)
            both = {name: network.meet(interval, found[name]) for name, interval in intervals.items()}
            return RefinedNetwork(network, start=both or found, memory=memory)
        if not (self.options.get("tighten") and intervals):
            return RefinedNetwork(network, start=intervals or None, memory=memory, **self.options)
        unmoved = SettledEntries(network, **self.options).unmoved(before)
        again = frozenset(network.order) - unmoved
        return RefinedNetwork(network, start=intervals, again=again, memory=memory, before=before, **self.options)


def rungs(
    network: Network,
    method: str,
    *,
    steps: int = 20,
    intermediate: bool = True,
    depth: int | None = None,
    memory: int = MEMORY,
) -> list[Rung]:
    """The ways to refine a network up to a method: all cheaper ones come first.

    With a depth, which is for networks whose full passes cost too much, ``"crown"`` comes right after ``"crown_ibp"``.
    """
    found = [Rung("crown_ibp", {})]
    if method in ("ibp", "crown_ibp"):
        return found
    if depth is not None:
        return [*found, Rung(method, {"tighten": True, "depth": depth})]
    parallel = any(isinstance(function, ReLURelaxation) for function in network.functions.values())
    if pays_before_backward(network, memory):
        found.append(Rung("fast_lin", {}, forward=True))
    if parallel:
        found.append(Rung("fast_lin", {"tighten": True, "parallel": True}))
    if method != "fast_lin" or not parallel:
        found.append(Rung(method if method == "fast_lin" else "crown", {"tighten": True}))
    if method == "alpha_crown":
        found.append(Rung(method, {"steps": steps}))
        if intermediate:
            found.append(Rung(method, {"tighten": True, "steps": steps}))
    return found


def refinements(network: Network, ladder: list[Rung], memory: int = MEMORY) -> Iterator[RefinedNetwork]:
    """The network as each rung refines it; what the one before leaves unstable is bounded anew."""
    intervals: Mapping[str, Interval] = {}
    before: SettledEntries | None = None
    for rung in ladder:
        part = rung.refined(network, intervals, memory, before)
        yield part
        intervals = part.refine().intervals
        before = part.settled if part.tighten else before


def row_bounds(
    network: Network,
    rows: Tensor,
    method: str,
    *,
    steps: int,
    intermediate: bool = True,
    depth: int | None = None,
    memory: int,
    target: float = torch.inf,
) -> Tensor:
    """Lower bounds (N, R) of linear functions (N, R, K) of the outputs, by a method and all cheaper ones.

    An input is not ascended if all its rows but those of zeros are above the target.
    """
    ladder = rungs(network, method, steps=steps, intermediate=intermediate, depth=depth, memory=memory)
    parts = refinements(network, ladder, memory)
    if method == "ibp":
        return next(parts).functions(rows, intervals=True)
    least = best_of(list(islice(parts, sum("steps" not in rung.options for rung in ladder))), rows)
    for part in parts:
        settled = ((least > target) | (rows == 0).all(2)).all(1, keepdim=True)
        if bool(settled.all()):
            break
        least = torch.where(settled, least, torch.maximum(least, part.functions(rows, target=target)))
    return least


def best_of(parts: Sequence[RefinedNetwork], rows: Tensor) -> Tensor:
    """Lower bounds (N, R) of linear functions (N, R, K) of the outputs by rungs of a ladder, from the first one on."""
    *others, last = parts
    others = [part for part in others if not last.same_bounds(part)]
    return torch.maximum(parts[0].functions(rows, intervals=True), last.functions(rows, others=others))


def margin_rows(network: Network, labels: Tensor) -> Tensor:
    """The functions ``logit_label - logit_k`` of the outputs, for :meth:`RefinedNetwork.functions`, (N, K, K)."""
    return label_margins(network.nodes["output"].value, labels)


class Settled(NamedTuple):
    """Margins of the inputs that cheaper methods left open.

    Attributes:
        method: the last one that they rest on.
        places: (B,) of these inputs.
        margins: (B, K), 0 at the label.
    """

    method: str
    places: Tensor
    margins: Tensor


@isolated
@ieee_arithmetic()
def margins_in_turn(
    graph: Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str,
    *,
    steps: int = 20,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
    hopeful: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Settled]:
    """Margins by each method in turn up to one, of the inputs for which none before has all of them above 0.

    Args:
        graph: the captured network.
        ball: N perturbation sets, with their :meth:`PerturbationSet.rows`.
        labels: (N,) classes.
        method: the last one.
        steps: as for :func:`bounds.margin_bounds`, like all that follow.
        table: likewise.
        functions: likewise.
        sound: likewise.
        memory: likewise.
        hopeful: whether inputs (B,) with their least margins (B,) by a method that looks at more than intervals are
            worth the next one; all are if None.
    """
    with torch.no_grad():
        tables = Tables(table, functions)
        network = Network(graph, ball, tables, sound)
        rows = margin_rows(network, labels)
        places = torch.arange(len(rows), device=rows.device)
        intervals: Mapping[str, Interval] = {}
        before: SettledEntries | None = None
        least = rows.new_full(rows.shape[:2], -torch.inf)
        found = []
        for rung in rungs(network, method, steps=steps, memory=memory):
            part = rung.refined(network, intervals, memory, before)
            if not intervals:
                least = torch.maximum(least, part.functions(rows, intervals=True))
            least = torch.maximum(least, part.functions(rows, target=0.0))
            label = (rows == 0).all(2)
            found.append(Settled(rung.method, places, converted_down(least.masked_fill(label, 0.0), ball.center.dtype)))
            left = ~((least > 0) | label).all(1)
            if hopeful is not None and rung.method != "crown_ibp":
                left = left & hopeful(places, least.masked_fill(label, torch.inf).amin(1))
            open_rows = left.nonzero()[:, 0]
            if len(open_rows) == 0:
                break
            intervals = part.refine().intervals
            before = part.settled if part.tighten else before
            if len(open_rows) < len(places):
                network = Network(graph, ball.rows(places[open_rows]), tables, sound)
                intervals = of_rows(intervals, network, open_rows)
                before = before.rows(network, open_rows) if before is not None and intervals else None
                rows, places, least = rows[open_rows], places[open_rows], least[open_rows]
        return found


def of_rows(intervals: Mapping[str, Interval], network: Network, rows: Tensor) -> Mapping[str, Interval]:
    """Intervals of some inputs (B,); none where a node mixes inputs with other dimensions."""
    found = {}
    for name, node in network.nodes.items():
        if node.batch not in (0, None):
            return {}
        one = intervals[name]
        found[name] = one if node.batch is None else Interval(one.lower[rows], one.upper[rows])
    return found
