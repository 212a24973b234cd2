"""Trees of splits, put together from the leaves that a search found, each checked as it comes."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from certify.proofs.leaves import CODES, Goal, Mask, SplitLeaves, decoded, negative_slopes
from certify.proofs.networks.maps import Array
from certify.proofs.trees import CUT, LEAF, NeuronTree, Path


class FoundLeaves(NamedTuple):
    """Numbers of N leaves of one unsafe set; neurons are the T of the network in order.

    Attributes:
        low: (N, T), what splits say of the values in front of functions.
        high: likewise.
        multiplier: (N, T), above 0 of the upper end, below 0 of the lower one.
        weights: (N, M), of rows of the set.
        lower: (N, T), slopes of lines below.
        upper: (N, T), slopes of lines above.
    """

    low: Array
    high: Array
    multiplier: Array
    weights: Array
    lower: Array
    upper: Array


class _Leaf(NamedTuple):
    """One leaf in the numbers of the file."""

    splits: dict[int, tuple[float, float, float]]  # ends and multiplier by neuron
    weights: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]
    slopes: npt.NDArray[np.float32] | None
    smooth: npt.NDArray[np.float32]


@dataclass(eq=False)
class SplitTree:
    """The leaves of one unsafe set that were accepted so far.

    Attributes:
        goal: with this set alone.
    """

    goal: Goal
    _leaves: list[_Leaf] = field(default_factory=list)

    def accept(self, found: FoundLeaves) -> Mask:
        """Take up the leaves whose numbers, as the file holds them, prove them; which these are, (N,)."""
        least = negative_slopes(self.goal.network)
        kinked = ~np.isnan(least)
        found = _stored(found)
        room = np.where(least < 1, 1 - least, 1.0)[kinked]
        wanted = found.lower[:, kinked]
        codes = np.clip(np.rint((wanted - least[kinked]) / room * CODES), 0, CODES).astype(np.uint8)
        lower = found.lower.copy()
        lower[:, kinked] = decoded(codes, least[kinked])
        coarse = self._proved(found._replace(lower=lower))
        lower[:, kinked] = np.clip(wanted, least[kinked].astype(np.float32), 1.0)
        fine = coarse.copy()
        if (~coarse).any():
            fine[~coarse] = self._proved(FoundLeaves(*(part[~coarse] for part in found._replace(lower=lower))))
        for row in np.flatnonzero(coarse | fine):
            split = np.flatnonzero(np.isfinite(found.low[row]) | np.isfinite(found.high[row]))
            values = zip(*(part[row, split].tolist() for part in found[:3]), strict=True)
            slopes = None if coarse[row] else lower[row, kinked].astype(np.float32)
            smooth = np.stack([found.lower[row, ~kinked], found.upper[row, ~kinked]]).astype(np.float32)
            splits = dict(zip(split.tolist(), values, strict=True))
            self._leaves.append(_Leaf(splits, found.weights[row].astype(np.float32), codes[row], slopes, smooth))
        return coarse | fine

    def _proved(self, found: FoundLeaves) -> Mask:
        point = np.where(found.multiplier > 0, found.high, found.low)
        lost = found.multiplier * np.where(np.isfinite(point), point, 0.0)
        low, high, multiplier, weights, lower, upper = found
        bound, empty = self.goal.weighted(SplitLeaves(low, high, multiplier, lost, weights, lower, upper))
        return (bound > 0) | empty

    def tree(self) -> NeuronTree | None:
        """The tree that these are the leaves of, None if they are not all of one."""
        kind, neurons, points, ordered = list[int](), list[int](), list[float](), list[tuple[_Leaf, Path]]()
        waiting: list[tuple[list[_Leaf], Path]] = [(self._leaves, ())]
        while waiting:
            leaves, path = waiting.pop()
            if len(leaves) == 1 and _ends(leaves[0]) <= set(path):
                kind.append(LEAF)
                ordered.append((leaves[0], path))
                continue
            found = _separated(leaves, path)
            if found is None:
                return None
            neuron, point, below, above = found
            kind.append(CUT)
            neurons.append(neuron)
            points.append(point)
            waiting += [(above, (*path, (neuron, -1, point))), (below, (*path, (neuron, 1, point)))]
        kinked = ~np.isnan(negative_slopes(self.goal.network))
        fine = [leaf.slopes for leaf, _ in ordered if leaf.slopes is not None]
        exact = np.cumsum([leaf.slopes is not None for leaf, _ in ordered]) - 1
        return NeuronTree(
            kind=np.array(kind, np.uint8),
            neuron=np.array(neurons, np.int32),
            point=np.array(points, np.float64),
            multipliers=np.array([each for leaf, path in ordered for each in _multipliers(leaf, path)], np.float32),
            weights=np.stack([leaf.weights for leaf, _ in ordered]),
            codes=np.stack([leaf.codes for leaf, _ in ordered]),
            exact=np.where([leaf.slopes is not None for leaf, _ in ordered], exact, -1).astype(np.int32),
            slopes=np.stack(fine) if fine else np.zeros((0, int(kinked.sum())), np.float32),
            smooth=np.stack([leaf.smooth for leaf, _ in ordered]),
        )


def _stored(found: FoundLeaves) -> FoundLeaves:
    """The numbers as the file holds them; without multipliers of ends that no split says."""
    low, high, *numbers = found
    multiplier, weights, lower, upper = (each.astype(np.float32).astype(np.float64) for each in numbers)
    said = np.where(multiplier > 0, np.isfinite(high), np.isfinite(low))
    return FoundLeaves(low, high, np.where(said, multiplier, 0.0), weights, lower, upper)


def _ends(leaf: _Leaf) -> set[tuple[int, int, float]]:
    """The tightest splits of a leaf, as steps of a path."""
    sides = ((neuron, side, end) for neuron, ends in leaf.splits.items() for side, end in ((-1, ends[0]), (1, ends[1])))
    return {step for step in sides if np.isfinite(step[2])}


def _separated(leaves: list[_Leaf], path: Path) -> tuple[int, float, list[_Leaf], list[_Leaf]] | None:
    """A split that every leaf lies on one side of, and the leaves of both sides.

    The first split of the tree that these are the leaves of is such a one. With any other, the leaves of a side are
    those of the tree that the same splits make of this side, so that the way on never ends early.
    """
    shared = set(leaves[0].splits).intersection(*(leaf.splits for leaf in leaves[1:])) if leaves else set()
    for neuron in shared:
        ends = [leaf.splits[neuron][:2] for leaf in leaves]
        for point in {end for pair in ends for end in pair if np.isfinite(end)}:
            if any(step[0] == neuron and step[2] == point for step in path):
                continue
            below = [leaf for leaf, end in zip(leaves, ends, strict=True) if end[1] <= point]
            above = [leaf for leaf, end in zip(leaves, ends, strict=True) if end[0] >= point]
            if below and above and len(below) + len(above) == len(leaves):
                return neuron, point, below, above
    return None


def _multipliers(leaf: _Leaf, path: Path) -> list[float]:
    """The multiplier of each split on the way to a leaf: that of a neuron belongs to its tightest end."""
    found = []
    for neuron, side, point in path:
        low, high, multiplier = leaf.splits[neuron]
        met = (side > 0 and multiplier > 0 and point == high) or (side < 0 and multiplier < 0 and point == low)
        found.append(abs(multiplier) if met else 0.0)
    return found
