"""Inputs of different classes whose balls share a point: pairs, and larger sets that a packing violates."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bounds.sets.distances import distance
from bounds.sets.pairs import certainly_within, pair_blocks
from bounds.solvers.packing import IntArray
from bounds.statistics.proportions import FloatArray

TOLERANCE = 1e-6  # by which a set must exceed 1, above that of the solver
RIDGE = 1e-12  # relative, by which equal points have weights
OUTSIDE = 1e-9  # of the largest squared distance
TURNS = 3  # of an active set, times its points
STARTS = 1000  # pairs that are extended greedily at a time
MOST = 20_000  # sets of one size that an exhaustive search holds
CELLS = 2**26  # truth values that are held together

BoolArray = NDArray[np.bool_]


class Violated(NamedTuple):
    """Sets that exceed 1.

    Attributes:
        sets: (R, k) int64 for each size k.
        complete: whether there is no other, in case that there are none.
    """

    sets: list[IntArray]
    complete: bool


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Conflicts between inputs of different classes within one radius.

    Attributes:
        x: (N, *D) inputs.
        pairs: (E, 2) int64, inputs whose balls share a point for certain.
        classes: K.
        epsilon: radius of the balls.
        norm: order of their norm.
    """

    x: Tensor
    pairs: IntArray
    classes: int
    epsilon: float
    norm: float

    @property
    def largest(self) -> int:
        """The largest sets that can be decided on.

        Boxes that meet in pairs have a common point (Helly), and so have three balls in l_1, as it is a median space;
        in l_2 the least enclosing ball tells.
        """
        return {1.0: min(3, self.classes), 2.0: self.classes, math.inf: self.classes}.get(self.norm, 2)

    def violated(self, values: FloatArray) -> Violated:
        """Sets of three or more inputs of different classes, with a common point, whose values (N,) exceed 1.

        An input of value 1 has neighbours of value 0 only, so that all others are those in between. Where there are no
        pairs of these, no set exceeds 1.
        """
        chosen = np.flatnonzero((values > TOLERANCE) & (values < 1 - TOLERANCE))
        local = np.full(len(values), -1)
        local[chosen] = np.arange(len(chosen))
        edges = local[self.pairs]
        edges = edges[(edges >= 0).all(1)]
        if self.largest < 3 or len(edges) == 0:
            return Violated([], complete=self.classes < 3 or len(edges) == 0)
        near = np.zeros((len(chosen), len(chosen)), dtype=bool)
        near[edges[:, 0], edges[:, 1]] = near[edges[:, 1], edges[:, 0]] = True
        found = self._greedy(near, values[chosen], edges, chosen)
        if found:
            return Violated(found, complete=False)
        return self._exhaustive(near, values[chosen], edges, chosen)

    def _greedy(self, near: BoolArray, values: FloatArray, edges: IntArray, chosen: IntArray) -> list[IntArray]:
        """Pairs of large values, each extended by the largest value again and again."""
        order = np.argsort(-values[edges].sum(1), kind="stable")[: min(STARTS, max(1, CELLS // len(chosen) // 8))]
        sets, found = edges[order], []
        common = near[sets[:, 0]] & near[sets[:, 1]]
        while len(sets) and sets.shape[1] < self.largest:
            grows = common.any(1)
            sets, common = sets[grows], common[grows]
            best = np.where(common, values, -1.0).argmax(1) if len(sets) else np.zeros(0, dtype=np.int64)
            sets = np.concatenate([sets, best[:, None]], 1)
            fits, _ = self._share_a_point(chosen[sets])
            sets, common = sets[fits], common[fits] & near[best[fits]]
            found.append(_distinct(chosen[sets[values[sets].sum(1) > 1 + TOLERANCE]]))
        return [part for part in found if len(part)]

    def _exhaustive(self, near: BoolArray, values: FloatArray, edges: IntArray, chosen: IntArray) -> Violated:
        """All sets, size by size, up to the first size with one that exceeds 1."""
        sets, complete = np.sort(edges, 1), True
        while len(sets) and sets.shape[1] < self.largest:
            sets, all_of_them = _extended(near, sets)
            fits, decided = self._share_a_point(chosen[sets])
            complete = complete and all_of_them and decided
            sets = sets[fits]
            exceeding = sets[values[sets].sum(1) > 1 + TOLERANCE]
            if len(exceeding):
                return Violated([chosen[exceeding]], complete=False)
        return Violated([], complete=complete and (self.largest >= self.classes or len(sets) == 0))

    def _share_a_point(self, sets: IntArray) -> tuple[BoolArray, bool]:
        """Marks of the sets (R, k) whose parts share points for certain, and whether all others do not."""
        if len(sets) == 0 or self.norm != 2:
            return np.ones(len(sets), dtype=bool), True
        at_once = max(1, CELLS // (8 * sets.shape[1] * self.x[0].numel()))
        parts = [self._in_a_ball(torch.from_numpy(part)) for part in np.array_split(sets, -(-len(sets) // at_once))]
        fits, apart = (torch.cat(answers).cpu().numpy() for answers in zip(*parts, strict=True))
        return fits, bool((fits | apart).all())

    def _in_a_ball(self, sets: Tensor) -> tuple[Tensor, Tensor]:
        """Whether points (R, k) lie in a ball of radius epsilon for certain, and whether they do not, in l_2."""
        points = self.x[sets.to(self.x.device)].flatten(2).double()
        squares = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
        weights = enclosing_weights(squares)
        center = (weights[:, None] @ points).expand_as(points)
        reach = distance(center.flatten(0, 1), points.flatten(0, 1), 2).view(len(points), -1).amax(1)
        least = torch.einsum("ri,rij,rj->r", weights, squares, weights) / 2  # of the squared radius, by duality
        return reach <= self.epsilon, least * (1 - 1e-9) > self.epsilon**2


def conflicts(x: Tensor, index: Tensor, *, epsilon: float, norm: float, memory: int) -> Conflicts:
    """All pairs of inputs (N, *D) of different classes ``index`` (N,) that are at most 2 epsilon apart for certain."""
    found = []
    for rows, columns, apart in pair_blocks(x, None, norm, memory=memory):
        near = certainly_within(apart, 2 * epsilon, x[0].numel())
        near &= (index[rows][:, None] != index[columns]) & (rows[:, None] < columns)
        row, column = near.nonzero(as_tuple=True)
        found.append(torch.stack([rows[row], columns[column]], 1))
    pairs = torch.cat(found).cpu().numpy()
    return Conflicts(x, pairs, len(index.unique()), epsilon, norm)


def enclosing_weights(squares: Tensor) -> Tensor:
    """Weights (R, k) of the points whose mean is the centre of their least enclosing l_2 ball, from squared distances.

    They maximise half of the quadratic form of the squared distances (R, k, k) over weights of sum 1. At a stationary
    point, the point of the most negative weight is dropped, or the one that is farthest outside is taken up. Weights
    that are not the best when the turns end give a ball too, only larger than the least.
    """
    count, size, _ = squares.shape
    scaled = squares / squares.amax((1, 2), keepdim=True).clamp(min=1e-300)
    scaled = scaled - RIDGE * torch.eye(size, dtype=squares.dtype, device=squares.device)
    kept = torch.ones(count, size, dtype=torch.bool, device=squares.device)
    weights = squares.new_zeros(count, size)
    for _ in range(TURNS * size):
        system = squares.new_zeros(count, size + 1, size + 1)
        system[:, :size, :size] = torch.where(kept[:, :, None] & kept[:, None], scaled, 0.0)
        system[:, :size, :size] += torch.diag_embed((~kept).to(squares))
        system[:, :size, size] = system[:, size, :size] = kept.to(squares)
        right = squares.new_zeros(count, size + 1)
        right[:, size] = 1
        solved = torch.linalg.solve(system, right)[:, :size]
        weights = torch.where(kept, solved, 0.0)
        least, place = weights.min(1)
        gain = (scaled @ weights[..., None])[..., 0]
        outside = (gain - gain.masked_fill(~kept, -math.inf).amax(1, keepdim=True)).masked_fill(kept, -math.inf)
        most, farthest = outside.max(1)
        drops, takes = least < 0, (least >= 0) & (most > OUTSIDE)
        if not bool((drops | takes).any()):
            break
        places = torch.arange(size, device=kept.device)
        kept = (kept & ~(drops[:, None] & (places == place[:, None]))) | (
            takes[:, None] & (places == farthest[:, None])
        )
    weights = weights.clamp(min=0)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-300)


def _extended(near: BoolArray, sets: IntArray) -> tuple[IntArray, bool]:
    """Sets with one element more, each behind the others; and whether these are all."""
    found, total = [], 0
    at_once = max(1, CELLS // len(near))
    later = np.arange(len(near))
    for part in np.array_split(sets, -(-len(sets) // at_once)):
        common = np.logical_and.reduce([near[column] for column in part.T]) & (later > part[:, -1:])
        row, element = common.nonzero()
        found.append(np.concatenate([part[row], element[:, None]], 1))
        total += len(row)
        if total > MOST:
            return np.concatenate(found)[:MOST], False
    return np.concatenate(found), True


def _distinct(sets: IntArray) -> IntArray:
    return np.unique(np.sort(sets, 1), axis=0)
