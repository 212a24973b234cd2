"""Entries and nodes whose intervals no backward pass can improve, so that none is spent on them."""

import torch
from torch import Tensor

from bounds.linear.network import Network
from bounds.linear.passes.corners import has_thin_corners
from bounds.operations.moved_windows import joined
from bounds.operations.transposes import divided, multiplied, permuted, reshaped, subtracted, summed
from bounds.relaxations.base import NodeFunction
from bounds.relaxations.multivariate import Within
from bounds.relaxations.scalar import ScalarFunction

SEPARATE = (divided, multiplied, reshaped, subtracted, summed)  # transposes of operations entry by entry
MOVED = (reshaped, permuted, joined)  # transposes of operations that have every entry once behind them, at most


class SettledEntries:
    """Entries whose intervals are as tight as backward passes with the same planes would make them.

    These are the entries that such a pass has bounded; values of functions of one variable of such entries, since no
    line reaches into the range of its function; and entries that are moved about.

    Args:
        network: the network.
        tighten: whether there are backward passes at all.
        parallel: as of :class:`bounds.linear.refined.RefinedNetwork`, like all that follow.
        steps: likewise.
        depth: likewise.
    """

    def __init__(
        self, network: Network, *, tighten: bool, parallel: bool = False, steps: int = 0, depth: int | None = None
    ) -> None:
        self.tighten = tighten
        self._network = network
        self._parallel, self._steps, self._depth = parallel, steps, depth
        self._bounded: dict[str, Tensor | bool] = {}

    def add(self, name: str, entries: Tensor | bool) -> None:
        """Take note of entries (N, *shape) of a node, or of all."""
        self._bounded[name] = entries

    def of(self, name: str) -> Tensor | bool:
        """Such entries of a node, (N, *shape); or whether all or none are known to be."""
        if name in self._bounded:
            return self._bounded[name]
        node, network = self._network.nodes[name], self._network
        if name in network.functions:
            alone = isinstance(network.functions[name], ScalarFunction | Within)
            return self.of(node.parents[0]) if alone else False
        if node.operation == "input":
            return True
        if not network.rules[name].exact:
            return False
        parts = [self.of(parent) for parent in node.parents]
        if all(isinstance(part, bool) for part in parts):
            return all(parts)
        values = [network.nodes[parent].value for parent in node.parents]
        marks = (torch.zeros_like(value) + part for value, part in zip(values, parts, strict=True))
        return node.function(*marks) != 0

    def rows(self, network: Network, index: Tensor) -> "SettledEntries":
        """Knowledge of some inputs (B,), of which another network has the intervals."""
        part = SettledEntries(
            network, tighten=self.tighten, parallel=self._parallel, steps=self._steps, depth=self._depth
        )
        for name, entries in self._bounded.items():
            if isinstance(entries, bool):
                part.add(name, entries)
            elif network.nodes[name].batch == 0:
                part.add(name, entries[index])
        return part

    def unmoved(self, before: "SettledEntries | None") -> set[str]:
        """Nodes whose intervals passes would find again as those before have left them; None if there were none."""
        _, exact = near_the_input(self._network)
        known = SettledEntries(self._network, tighten=False)
        for name in exact:
            known.add(name, True)
        passed = before is not None and self._depth == before._depth
        found: set[str] = set()
        for name, node in self._network.nodes.items():
            turned = name in self._network.functions and self._turns(self._network.functions[name], before)
            if found.issuperset(node.parents) and not turned and (passed or known.of(name) is True):
                found.add(name)
        return found

    def _turns(self, function: NodeFunction, before: "SettledEntries | None") -> bool:
        """Whether passes take other planes of a function than those before did."""
        own = type(function).parallel is not NodeFunction.parallel
        return self._steps > 0 or (own and (before is None or self._parallel != before._parallel))


def near_the_input(network: Network) -> tuple[set[str], set[str]]:
    """Nodes that no function parts from the input; nodes whose intervals are their ranges.

    The latter have at most one entry of the input behind each entry, or one affine operation in front of a box. Over a
    hull of thin boxes these are also nodes whose intervals at corners are those of backward passes with any planes.
    """
    straight: set[str] = set()
    separate: set[str] = set()
    exact: set[str] = set()
    for name, node in network.nodes.items():
        if name not in network.functions and straight.issuperset(node.parents):
            straight.add(name)
        alone = len(node.parents) == 1 and separate.issuperset(node.parents)
        if node.operation == "input" or (alone and name in straight and network.rules[name].transpose in SEPARATE):
            separate.add(name)
        if name in separate or (alone and network.ball.is_box):
            exact.add(name)
    if has_thin_corners(network):
        exact |= straight | _behind_one_function(network, straight)
    return straight, exact


def _behind_one_function(network: Network, straight: set[str]) -> set[str]:
    """Nodes with one function between them and the input, and at most one affine operation that mixes entries behind.

    Forward and backward bounds of these have the same coefficients: there is nothing to be added up on the way.
    """
    bent: set[str] = set()
    mixed: set[str] = set()
    for name, node in network.nodes.items():
        if name in network.functions:
            if straight.issuperset(node.parents):
                bent.add(name)
        elif name not in straight and len(node.parents) == 1:
            separate = network.rules[name].transpose in SEPARATE
            if bent.issuperset(node.parents):
                (bent if separate else mixed).add(name)
            elif separate and mixed.issuperset(node.parents):
                mixed.add(name)
    return bent | mixed


def known_by_intervals(network: Network) -> set[str]:
    """Nodes that passes which end at the first functions bound as intervals do: functions, and nodes as follows.

    Each of their entries is a sum of entries of functions, or of an input that is a box, every one of which it meets on
    one way alone. That is known of nodes with one operation that mixes entries, at most, on all ways to the functions
    before them, if no function stands behind two of these ways.
    """
    sources: dict[str, frozenset[str]] = {}  # of nodes where every entry is such a sum
    single: set[str] = set()  # nodes of which no entry of a source is in two entries
    for name, node in network.nodes.items():
        if name in network.functions or (node.operation == "input" and network.ball.is_box):
            sources[name] = frozenset([name])
            single.add(name)
        elif node.parents and all(parent in sources for parent in node.parents):
            parts = [sources[parent] for parent in node.parents]
            if sum(map(len, parts)) > len(frozenset().union(*parts)):
                continue
            transpose = network.rules[name].transpose
            alike = all(network.nodes[parent].value.shape == node.value.shape for parent in node.parents)
            separate = transpose in MOVED or (transpose in SEPARATE and alike)
            if separate or single.issuperset(node.parents):
                sources[name] = frozenset().union(*parts)
            if separate and single.issuperset(node.parents):
                single.add(name)
    return set(sources)
