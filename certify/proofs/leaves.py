"""Leaves of proofs: whether bounds of a part of the problem show that no unsafe input lies in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from certify.proofs.balls import Ball
from certify.proofs.bounding import Intervals, Planes, Shift, gamma, intervals, planes
from certify.proofs.errors import Refused
from certify.proofs.networks.functions import LEAST, UNIT, Function, Lines, Relu
from certify.proofs.networks.maps import Array
from certify.proofs.networks.networks import Network
from certify.proofs.properties import UnsafeSet

Mask = npt.NDArray[np.bool_]
CODES = 255  # of slopes that are written in eight bits


@dataclass(frozen=True, eq=False)
class Goal:
    """Unsafe sets with one box, and the network that must not reach them.

    Attributes:
        network: of which something is proved.
        sets: with one box.
        ball: that inputs lie in as well; None for all inputs of the box.

    Raises:
        Refused: a set without inequalities, which every output meets.
    """

    network: Network
    sets: Sequence[UnsafeSet]
    ball: Ball | None = None

    def __post_init__(self) -> None:
        if any(len(each.offsets) == 0 for each in self.sets):
            raise Refused("an unsafe set holds every output")

    @property
    def box(self) -> tuple[Array, Array]:
        """Sides (F,) of the box."""
        return self.sets[0].low, self.sets[0].high

    def share(self, other: "Goal") -> None:
        """Take the intervals of the whole box from another goal with the same box."""
        if other is not self:
            self.__dict__["root"] = other.root

    @cached_property
    def root(self) -> Intervals:
        """Intervals of all nodes on the whole box."""
        low, high = self.box
        return intervals(self.network, low[None], high[None], self.ball)

    @cached_property
    def offsets(self) -> Array:
        """Offsets (R,) of all rows."""
        return np.concatenate([each.offsets for each in self.sets])

    @cached_property
    def _rows(self) -> dict[int, Array]:
        """Coefficients (R, F) of all rows, by node."""
        rows = {0: np.concatenate([each.on_inputs for each in self.sets])}
        last = len(self.network.nodes) - 1
        rows[last] = np.concatenate([each.on_outputs for each in self.sets])
        return rows if rows[0].any() else {last: rows[last]}

    def planes(self, low: Array, high: Array) -> Planes:
        """Functions of the input below the excess of each row on boxes (N, F)."""
        known = intervals(self.network, low, high, self.ball)
        rows = {node: np.broadcast_to(each, (len(low), *each.shape)) for node, each in self._rows.items()}
        found = planes(self.network, known, rows)
        least = _less(found.least, self.offsets)
        if self.ball is not None:
            least[self.ball.misses(low, high)] = np.inf  # where there is nothing to prove
        return Planes(found.slopes, _less(found.constant, self.offsets), least)

    def proved(self, least: Array) -> Mask:
        """Whether each set has a row that no input meets, (N,), by lower bounds (N, R) of their excess."""
        starts = np.cumsum([0, *(len(each.offsets) for each in self.sets[:-1])])
        return np.asarray(np.logical_or.reduceat(least > 0, starts, 1).all(1))

    def excluded(self, found: Planes, low: Array, high: Array) -> Mask:
        """Whether planes of larger boxes exclude each of the boxes (N, F)."""
        low, high = low[:, None], high[:, None]
        terms = np.where(found.slopes > 0, found.slopes * low, found.slopes * high)
        size = np.abs(terms).sum(2) + np.abs(found.constant)
        least = found.constant + terms.sum(2) - 2 * gamma(terms.shape[2] + 8) * size - LEAST * terms.shape[2]
        return self.proved(least)

    def weighted(self, leaves: "SplitLeaves") -> tuple[Array, Mask]:
        """Lower bounds (N,) of the weighted excess of the only set on what splits leave, and which leaves are empty."""
        root, network = self.root, self.network
        lines, shifts, start = dict[int, Lines](), dict[int, Shift](), 0
        empty: Mask = np.zeros(len(leaves.weights), dtype=bool)
        for place in network.functions:
            (parent,), function, end = network.nodes[place].parents, network.nodes[place].function, 0
            end = start + network.nodes[place].size
            low = np.maximum(root.low[parent], leaves.low[:, start:end])
            high = np.minimum(root.high[parent], leaves.high[:, start:end])
            empty = np.logical_or(empty, (low > high).any(1))
            assert isinstance(function, Function)  # by which they are found
            slopes = leaves.lower[:, start:end], leaves.upper[:, start:end]
            if isinstance(function, Relu):
                slopes = function.with_lower(low, high, slopes[0])
            lines[place] = function.lines(low, high, slopes)
            multiplier, lost = leaves.multiplier[:, start:end], leaves.lost[:, start:end]
            shifts[place] = Shift(multiplier, lost.sum(1), np.abs(lost).sum(1))
            start = end
        share = leaves.weights[:, None]
        rows = {node: share @ each for node, each in self._rows.items()}
        least = planes(network, root, rows, lines=lines, shifts=shifts).least[:, 0]
        size = leaves.weights @ np.abs(self.offsets)
        for node, each in self._rows.items():
            size = size + (leaves.weights @ np.abs(each) * root.reach(node)).sum(1)
        offset = leaves.weights @ self.offsets
        error = 4 * gamma(sum(each.size for each in self._rows.values()) + 8) * (size + np.abs(least))
        return least - offset - error, empty


class SplitLeaves(NamedTuple):
    """Parts of one unsafe set by splits of neurons; all of T neurons in the order of the network.

    Attributes:
        low: (N, T), what splits say of values in front of functions; -inf where nothing.
        high: likewise.
        multiplier: (N, T), above 0 of the upper end, below 0 of the lower one.
        lost: (N, T), products of multipliers and these ends.
        weights: (N, M), of the rows of the set, at least 0.
        lower: (N, T), slopes of the lines below; of ReLU where its sign is not known.
        upper: likewise, of the lines above; of no use for ReLU.
    """

    low: Array
    high: Array
    multiplier: Array
    lost: Array
    weights: Array
    lower: Array
    upper: Array


def negative_slopes(network: Network) -> Array:
    """For each neuron (T,) the least slope of the line below, NaN where every slope may be."""
    found = [np.zeros(0)]
    for place in network.functions:
        node = network.nodes[place]
        slope = node.function.negative_slope if isinstance(node.function, Relu) else np.nan
        found.append(np.full(node.size, slope))
    return np.concatenate(found)


def decoded(codes: npt.NDArray[np.uint8], least: Array) -> Array:
    """Slopes between the least one and 1, from eight bits."""
    return least + codes / CODES * (1 - least)


def _less(bound: Array, offset: Array) -> Array:
    """At most the difference."""
    found: Array = bound - offset - 4 * UNIT * (np.abs(bound) + np.abs(offset))
    return found
