"""Trees of proofs: how boxes and neurons are split, so that all parts together are the whole.

A tree is written from its root downward, each node before its children, the part below a point before the part above.
A tree that ends too early leaves a part without a proof and is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from certify.proofs.errors import Refused
from certify.proofs.leaves import SplitLeaves, decoded
from certify.proofs.networks.maps import Array

LEAF, CUT, CLIP_LOW, CLIP_HIGH = range(4)


@dataclass(frozen=True, eq=False)
class InputTree:
    """Cuts of a box.

    Attributes:
        kind: of each node. A cut has two children; a clip has one, the box without what the planes of the box exclude
            that the first of several clips in a row began with.
        place: input of each cut and clip.
        point: likewise.
    """

    kind: npt.NDArray[np.uint8]
    place: npt.NDArray[np.int32]
    point: Array


class Clip(NamedTuple):
    """A part of a box that its planes must exclude."""

    base: tuple[Array, Array]
    low: Array
    high: Array


class Parts(NamedTuple):
    """The leaves of a tree as boxes, and the clips on the way to them."""

    leaves: list[tuple[Array, Array]]
    clips: list[Clip]


def parts_of(tree: InputTree, low: Array, high: Array) -> Parts:
    """The leaves and clips of a tree, each of which has to be proved.

    Raises:
        Refused: the tree is not whole, or cuts a box where it is not.
    """
    found = Parts([], [])
    steps = _steps(tree.place, tree.point)
    waiting: list[tuple[Array, Array, tuple[Array, Array] | None]] = [(low, high, None)]
    for number, kind in enumerate(tree.kind.tolist()):
        if not waiting:
            raise Refused("the tree goes on behind its end", f"node {number}")
        low, high, base = waiting.pop()
        if kind == LEAF:
            found.leaves.append((low, high))
            continue
        place, point = next(steps, (-1, 0.0))
        if kind > CLIP_HIGH or not 0 <= place < len(low) or not low[place] <= point <= high[place]:
            raise Refused(f"input {place} cannot be cut at {point}", f"node {number}")
        below, above = (low, _changed(high, place, point)), (_changed(low, place, point), high)
        if kind == CUT:
            waiting += [(*above, None), (*below, None)]
            continue
        kept, lost = (above, below) if kind == CLIP_LOW else (below, above)
        base = (low, high) if base is None else base
        found.clips.append(Clip(base, *lost))
        waiting.append((*kept, base))
    if waiting:
        raise Refused(f"{len(waiting)} parts of the box have no leaf", f"node {len(tree.kind)}")
    return found


def _steps(places: npt.NDArray[np.int32], points: Array) -> Iterator[tuple[int, float]]:
    """Places and points of cuts in order."""
    if len(places) != len(points):
        raise Refused(f"there are {len(places)} places of cuts, but {len(points)} points")
    return zip(places.tolist(), points.tolist(), strict=True)


def _changed(side: Array, place: int, point: float) -> Array:
    side = side.copy()
    side[place] = point
    return side


@dataclass(frozen=True, eq=False)
class NeuronTree:
    """Splits of neurons, and the numbers of L leaves.

    Attributes:
        kind: of each node, a leaf or a cut.
        neuron: of each cut, counted through all functions of the network in order.
        point: likewise.
        multipliers: of the splits from the root to each leaf, one leaf after the other; at least 0.
        weights: (L, M), of the inequalities of the unsafe set; at least 0.
        codes: (L, P), slopes below the P neurons with a kink, in eight bits.
        exact: (L,), row of ``slopes`` to be used for a leaf instead of the codes; -1 for none.
        slopes: (E, P), likewise, between the slopes of the function.
        smooth: (L, 2, S), slopes below and above the other S neurons.
    """

    kind: npt.NDArray[np.uint8]
    neuron: npt.NDArray[np.int32]
    point: Array
    multipliers: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]
    exact: npt.NDArray[np.int32]
    slopes: npt.NDArray[np.float32]
    smooth: npt.NDArray[np.float32]


Path = tuple[tuple[int, int, float], ...]  # neuron, side (1 for at most the point, -1 for at least), point


def paths_of(tree: NeuronTree, neurons: int) -> list[Path]:
    """The splits from the root to each leaf.

    Raises:
        Refused: the tree is not whole, or splits what is no neuron.
    """
    found: list[Path] = []
    steps = _steps(tree.neuron, tree.point)
    waiting: list[Path] = [()]
    for number, kind in enumerate(tree.kind.tolist()):
        if not waiting:
            raise Refused("the tree goes on behind its end", f"node {number}")
        path = waiting.pop()
        if kind == LEAF:
            found.append(path)
            continue
        neuron, point = next(steps, (-1, 0.0))
        if kind != CUT or not 0 <= neuron < neurons or not np.isfinite(point):
            raise Refused(f"neuron {neuron} cannot be split at {point}", f"node {number}")
        waiting += [(*path, (neuron, -1, point)), (*path, (neuron, 1, point))]
    if waiting:
        raise Refused(f"{len(waiting)} sides of splits have no leaf", f"node {len(tree.kind)}")
    return found


def leaves_of(tree: NeuronTree, least: Array, at_once: int) -> Iterator[tuple[int, SplitLeaves]]:
    """The leaves with their numbers, some at a time, and the place of the first of them.

    Args:
        tree: checked by :func:`require_sound_numbers`.
        least: (T,), the least slope below each neuron, NaN where every slope may be.
        at_once: number of leaves.
    """
    paths = paths_of(tree, len(least))
    require_sound_numbers(tree, paths, least)
    kinked = ~np.isnan(least)
    begins = np.cumsum([0, *map(len, paths)])
    for first in range(0, len(paths), at_once):
        rows = slice(first, first + at_once)
        some = paths[rows]
        low = np.full((len(some), len(least)), -np.inf)
        multiplier, lost, high = np.zeros_like(low), np.zeros_like(low), -low
        for leaf, path in enumerate(some):
            for step, (neuron, side, point) in enumerate(path):
                ends = high if side > 0 else low
                ends[leaf, neuron] = side * min(side * ends[leaf, neuron], side * point)
                value = side * float(tree.multipliers[begins[first + leaf] + step])
                if value and multiplier[leaf, neuron]:
                    raise Refused(f"neuron {neuron} has two multipliers", f"leaf {first + leaf}")
                if value:
                    multiplier[leaf, neuron], lost[leaf, neuron] = value, value * point
        lower, upper = np.zeros_like(low), np.zeros_like(low)
        lower[:, kinked] = decoded(tree.codes[rows], least[kinked])
        chosen = tree.exact[rows]
        for leaf in np.flatnonzero(chosen >= 0).tolist():
            lower[leaf, kinked] = tree.slopes[chosen[leaf]]
        lower[:, ~kinked], upper[:, ~kinked] = tree.smooth[rows, 0], tree.smooth[rows, 1]
        yield first, SplitLeaves(low, high, multiplier, lost, tree.weights[rows].astype(np.float64), lower, upper)


def require_sound_numbers(tree: NeuronTree, paths: list[Path], least: Array) -> None:
    """Refuse numbers of other shapes, or that no proof may have."""
    leaves, kinked = len(paths), ~np.isnan(least)
    shapes = {
        "multipliers": (tree.multipliers.shape, (sum(map(len, paths)),)),
        "codes": (tree.codes.shape, (leaves, int(kinked.sum()))),
        "exact": (tree.exact.shape, (leaves,)),
        "slopes": (tree.slopes.shape[1:], (int(kinked.sum()),)),
        "smooth": (tree.smooth.shape, (leaves, 2, int((~kinked).sum()))),
        "weights": (tree.weights.shape[:1], (leaves,)),
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise Refused(f"{name} have the shape {found}, not {expected}")
    if not (tree.multipliers >= 0).all() or not np.isfinite(tree.multipliers).all():
        raise Refused("a multiplier is below 0 or not finite")
    bad = ~((tree.weights >= 0).all(1) & np.isfinite(tree.weights).all(1))
    if bad.any():
        raise Refused("a weight is below 0 or not finite", f"leaf {int(bad.argmax())}")
    if not ((tree.slopes >= least[kinked].astype(np.float32)) & (tree.slopes <= 1)).all():
        raise Refused("a slope is outside of what its function allows")
    if not np.isfinite(tree.smooth).all() or not ((tree.exact >= -1) & (tree.exact < len(tree.slopes))).all():
        raise Refused("a slope is not finite, or is missing")
