"""A network with intervals of all its nodes, improved by backward passes, and linear bounds on its outputs."""

from collections.abc import Mapping, Sequence, Set
from functools import reduce
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.linear.alpha import optimized
from bounds.linear.network import Network
from bounds.linear.passes.backward import Backward
from bounds.linear.passes.corners import corner_intervals
from bounds.linear.passes.side_by_side import SideBySide
from bounds.linear.settled import SettledEntries, known_by_intervals, near_the_input
from bounds.memory import MEMORY, in_chunks, keep_freed_memory
from bounds.operations.node import entries
from bounds.operations.transposes import convolved, divided, linear, multiplied, reshaped, subtracted, summed
from bounds.rows import DenseRows, UnitRows, wanted_first
from bounds.sets.balls import Interval, PerturbationSet

# Rows that share a window cost less: so many more of them are bounded rather than each on its own.
MORE_ROWS = 1.6
ALIKE = (convolved, divided, linear, multiplied, reshaped, subtracted, summed)  # those that serve a row for all inputs


class RefinedNetwork:
    """A network with intervals of all its nodes, improved by backward passes, and linear bounds that rest on them.

    :meth:`refine` finds the intervals, in a copy: those of the network that is handed in stay as they are.

    Args:
        network: the network.
        start: intervals of all nodes that hold, as an earlier refinement found them. They are kept, except behind
            nodes with a known interval.
        again: nodes whose intervals at the start are to be improved further, and with them all nodes behind.
        known: intervals that hold besides, by node, as those of one side of a neuron. The bounds then speak of inputs
            of the set for which these nodes lie in them.
        tighten: improve intervals by backward passes wherever a function is unstable.
        parallel: planes with the same slopes below and above.
        steps: of ascent for the planes of each bound.
        depth: functions that backward passes of inner nodes go through before they end at intervals; None for all.
        memory: bytes for coefficients.
        before: what was settled when ``start`` was found, for nodes that are not improved again.
    """

    def __init__(
        self,
        network: Network,
        *,
        start: Mapping[str, Interval] | None = None,
        known: Mapping[str, Interval] = MappingProxyType({}),
        again: Set[str] = frozenset(),
        tighten: bool = False,
        parallel: bool = False,
        steps: int = 0,
        depth: int | None = None,
        memory: int = MEMORY,
        before: SettledEntries | None = None,
    ) -> None:
        self.network = network.without_intervals()
        self.start = start
        self.known = known
        self.again = again
        self.tighten = tighten
        self.steps = steps
        self.depth = depth
        self.memory = memory
        self.backward = Backward(self.network, parallel=parallel)
        self.settled = SettledEntries(self.network, tighten=tighten, parallel=parallel, steps=steps, depth=depth)
        self._before = before

    def refine(self) -> Network:
        """The network with its intervals; they are found once."""
        network = self.network
        if network.intervals:
            return network
        keep_freed_memory()
        changed: set[str] = set()  # nodes with another interval than at the start, and those behind them
        straight, exact = near_the_input(network)
        exact |= known_by_intervals(network) if self.depth == 0 else set()
        corners = corner_intervals(network) if self.start is None else {}
        for name in exact:
            self.settled.add(name, True)
        for name in network.order:
            if name in self.known or not changed.isdisjoint(network.nodes[name].parents):
                changed.add(name)
            if self.start is not None and name not in changed:
                network.accept(name, self.start[name])
                if name not in self.again:
                    if self._before is not None and name not in exact:
                        self.settled.add(name, self._before.of(name))
                    continue
            else:
                network.propagate(name)
                for given in ({} if network.follows(name) else self.start or {}, self.known, corners):
                    if name in given:
                        network.intervals[name] = network.meet(network.intervals[name], given[name])
            before = network.intervals[name]
            if name not in exact:
                self._improve(name, straight)
            if network.intervals[name] is not before:
                changed.add(name)
        return network

    def _improve(self, name: str, straight: set[str]) -> None:
        """Tighten the interval of a node where backward passes may know more than intervals."""
        network = self.network
        if not (network.consumers(name) or name == "output") or network.nodes[name].batch != 0:
            return
        # Of an affine image of a ball that is no box, intervals know little and backward bounds all.
        if name in straight and not network.ball.is_box:
            if name not in self.again:  # the bounds at the start are these
                self._tighten_all(name)
            self.settled.add(name, True)
        elif self.tighten and name != "output":
            self._tighten(name)

    def output(self, others: Sequence["RefinedNetwork"] = ()) -> Interval:
        """Linear bounds (N, K) on the outputs, where intervals are not tighter; and by others before, if there are any.

        Others are cheaper refinements of the same network, from whose intervals these ones come.
        """
        network, count = self.refine(), len(others) + 1
        backward = self._with(others) if others else self.backward
        if backward is None:
            return reduce(network.meet, [part.output() for part in (*others, self)])
        value, size = network.nodes["output"].value, len(network.ball.center)
        index = torch.arange(value.numel() // max(1, size), device=value.device).expand(count * size, -1)
        index = index[:1] if value.ndim == 2 else index  # the same rows for all inputs
        linear = self._of_entries("output", index, backward.region, backward=backward)
        if others:
            lower, upper = (end.view(count, size, -1) for end in (linear.lower, linear.upper))
            linear = Interval(lower.amax(0), upper.amin(0))
        interval = network.intervals["output"]
        return network.meet(linear, Interval(*(end.reshape(size, -1) for end in (interval.lower, interval.upper))))

    def functions(
        self,
        rows: Tensor,
        *,
        target: float = torch.inf,
        intervals: bool = False,
        others: Sequence["RefinedNetwork"] = (),
    ) -> Tensor:
        """Lower bounds (N, R) of linear functions (N, R, K) of the outputs; with ``intervals``, from these alone.

        Others as for :meth:`output`: the best bound of all counts.
        """
        value = self.refine().nodes["output"].value
        values = rows.reshape(*rows.shape[:2], *value.shape[1:])
        backward = self._with(others) if others else self.backward
        if others and backward is None:
            found = [part.functions(rows) for part in (*others, self)]
            return torch.stack(found).amax(0)
        assert backward is not None

        def bound(part: slice) -> Tensor:
            own = values[:, part]
            if self.steps:
                region = self.network.ball
                return optimized(
                    self.backward, "output", DenseRows(own), region, steps=self.steps, both=False, target=target
                )
            start = DenseRows(own.repeat(backward.copies, *[1] * (own.ndim - 1)) if others else own)
            least = backward.bounds("output", start, backward.region, intervals=intervals)
            return least.view(backward.copies, -1, start.count).amax(0) if others else least

        at_once = lambda: self._rows_at_once(backward=backward, sides=1)  # noqa: E731
        return torch.cat(list(in_chunks(bound, values.shape[1], at_once)), 1)

    def same_bounds(self, other: "RefinedNetwork") -> bool:
        """Whether another refinement has the same intervals and planes, as where nothing was left to be improved."""
        own, theirs = self.refine().intervals, other.refine().intervals
        same = all(interval is theirs[name] for name, interval in own.items())
        return same and self.backward.parallel == other.backward.parallel and self.steps == other.steps

    def _with(self, others: Sequence["RefinedNetwork"]) -> SideBySide | None:
        """Passes of others and of this one at once, if they can be made so."""
        together = [part.backward for part in (*others, self)]
        return SideBySide(together) if SideBySide.serves(together) else None

    def _tighten_all(self, name: str) -> None:
        """Replace the interval of a node that no function parts from the input by linear bounds.

        Where their coefficients are the same for all inputs, one row of these serves all.
        """
        network, interval = self.network, self.network.intervals[name]
        shape = interval.lower.shape[1:]
        index = torch.arange(shape.numel(), device=interval.lower.device)
        channels = shape[0] if len(shape) == 3 else 1  # rows of one place in a map share their window
        index = index.view(channels, -1).T.reshape(1, -1)
        index = index if self._alike(name) else index.expand(len(interval.lower), -1)
        groups = [channels] * (index.shape[1] // channels)
        found = self._of_entries(name, index, network.ball.without_box(), groups)
        ends = (end.unflatten(1, (-1, channels)).transpose(1, 2) for end in (found.lower, found.upper))
        better = Interval(*(end.reshape(interval.lower.shape) for end in ends))
        network.intervals[name] = network.meet(interval, better)

    def _alike(self, name: str) -> bool:
        """Whether a pass from a node to the input may have one row of coefficients for all inputs."""
        node = self.network.nodes[name]
        while node.operation != "input":
            if len(node.parents) != 1 or self.network.rules[node.name].transpose not in ALIKE:
                return False
            node = self.network.nodes[node.parents[0]]
        return True

    def _tighten(self, name: str) -> None:
        """Replace an interval by linear bounds where a function of it is unstable."""
        network, interval = self.network, self.network.intervals[name]
        settled = self.settled.of(name)
        if settled is True:
            return
        wanted = reduce(torch.logical_or, (self._unstable(name, key) for key in network.consumers(name)))
        wanted = wanted & ~(interval.upper <= interval.lower)
        wanted = wanted if settled is False else wanted & ~settled
        index, groups = _places(wanted)
        if index.numel() == 0:
            return
        # The box of valid inputs is in the interval already, and costs much to combine with a round ball.
        better = self._of_entries(name, index, network.ball.without_box(), groups)
        if index.shape[0] == wanted.shape[0]:
            lower, upper = (end.reshape(len(end), -1) for end in (interval.lower, interval.upper))
            better = Interval(lower.scatter(1, index, better.lower), upper.scatter(1, index, better.upper))
        found = network.meet(interval, Interval(*(end.view(wanted.shape) for end in (better.lower, better.upper))))
        # Others were bounded for the company of the inputs that they came with: bounds of an input rest on it alone.
        network.intervals[name] = Interval(
            torch.where(wanted, found.lower, interval.lower), torch.where(wanted, found.upper, interval.upper)
        )
        self.settled.add(name, wanted if settled is False else wanted | settled)

    def _unstable(self, name: str, consumer: str) -> Tensor:
        """Entries of a node whose bounds are worth having for a function of it."""
        network = self.network
        parents = network.nodes[consumer].parents
        for parent in parents:
            if parent not in network.intervals:  # another parent comes later: all may matter
                return torch.ones_like(network.intervals[name].lower, dtype=torch.bool)
        unstable = network.functions[consumer].unstable(*network.parents(consumer))
        own = (part for part, parent in zip(unstable, parents, strict=True) if parent == name)
        return reduce(torch.logical_or, own)

    def _of_entries(
        self,
        name: str,
        index: Tensor,
        region: PerturbationSet,
        groups: Sequence[int] = (1,),
        backward: Backward | None = None,
    ) -> Interval:
        """Linear bounds (N, R) on the entries of a node with the given places (N, R) in a row.

        They come in groups of a place, all with room for as many as the first has. Of those with fewer, which come
        later, the rest has no bounds where that spares something.
        """
        value, backward, group = self.network.nodes[name].value, backward or self.backward, groups[0]
        index = index.expand(len(value), -1) if self.steps else index  # each row ascends on its own
        places = index.unflatten(1, (-1, group)) if group > 1 else index

        def bound(part: slice) -> Interval:
            size = groups[part.start] if group > 1 else 1
            own = places[:, part, :size].flatten(1) if group > 1 else places[:, part]
            start = UnitRows(own, tuple(value.shape[1:]), value, size)
            if self.steps:
                found = optimized(self.backward, name, start, region, steps=self.steps, both=True)
            else:
                depth = None if name == "output" else self.depth
                found = backward.bounds(name, start, region, both=True, depth=depth)
            lower, upper = found[:, : start.count], found[:, start.count :]
            if size < group:
                lower, upper = (
                    F.pad(end.unflatten(1, (-1, size)), (0, group - size), value=-torch.inf).flatten(1)
                    for end in (lower, upper)
                )
            return Interval(lower, -upper)

        at_once = lambda: max(1, self._rows_at_once(name, backward) // group)  # noqa: E731
        parts = list(in_chunks(bound, places.shape[1], at_once))
        if len(parts) == 1:
            return parts[0]
        return Interval(torch.cat([part.lower for part in parts], 1), torch.cat([part.upper for part in parts], 1))

    def _rows_at_once(self, name: str = "output", backward: Backward | None = None, sides: int = 2) -> int:
        """The number of rows to bound at once; the widest node before counts until it is known what rows need.

        Rows of both bounds are two, from the first function on whose lines are not parallel.
        """
        network, backward = self.network, backward or self.backward
        before = network.order[: network.order.index(name) + 1]
        widest = backward.widest.get(name) or max(entries(network.nodes[key].value) for key in before)
        value = network.nodes[name].value
        tensors = 16 if self.steps else 8  # of the size of the coefficients of one node, at the same time
        sides = 1 if backward.parallel else sides
        rows = tensors * sides * backward.copies * max(1, len(value))
        return max(1, self.memory // (rows * widest * value.element_size()))


def _places(wanted: Tensor) -> tuple[Tensor, list[int]]:
    """Entries (N, R) of a row that include all that are wanted, (N, *shape), in groups of one place.

    Each group has as many entries as the first one, of which so many as is said count, fewer and fewer.

    Where these are all entries, in order, one row (1, R) of them serves all inputs.

    Inputs with fewer such entries have others bounded as well. In a map, rows of one place share their window: they
    are taken together unless that means many more of them.
    """
    flat = wanted.reshape(len(wanted), -1)  # a node may be one number
    most = int(flat.sum(1).max()) if flat.numel() else 0
    if most == flat.shape[1] and wanted.ndim != 4:
        return torch.arange(most, device=wanted.device)[None], [1]
    if wanted.ndim == 4 and most:
        here = wanted.flatten(2)  # (N, C, places)
        counts, place = here.sum(1).sort(dim=1, descending=True, stable=True)
        groups = [count for count in counts.amax(0).tolist() if count]
        if len(groups) * groups[0] <= MORE_ROWS * most:
            place = place[:, : len(groups)]
            channel = wanted_first(
                here.transpose(1, 2).gather(1, place[..., None].expand(-1, -1, here.shape[1])), groups[0]
            )
            return (channel * here.shape[2] + place[..., None]).flatten(1), groups
    return wanted_first(flat, most), [1]
