"""Trees of cuts, found with the bounds of the checker, so that every leaf that is written is accepted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from certify.proofs.bounding import Planes
from certify.proofs.checking import rows_at_once
from certify.proofs.leaves import Goal
from certify.proofs.networks.maps import Array
from certify.proofs.trees import CLIP_HIGH, CLIP_LOW, CUT, LEAF, InputTree

MOST_NODES = 2**21
FLAT = 1e-2  # share of the steepest slope that counts for all inputs, so that each is cut in the end
WORTH = 0.1  # share of a side that a clip must take away: each costs the bounds of one more box


@dataclass(eq=False)
class _Nodes:
    """A tree that grows."""

    kind: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    point: list[float] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)

    def add(self) -> int:
        """A leaf."""
        self.kind.append(LEAF)
        self.place.append(0)
        self.point.append(0.0)
        self.children.append([])
        return len(self.kind) - 1

    def split(self, node: int, kind: int, place: int, point: float) -> list[int]:
        """The children that a leaf gets."""
        self.kind[node], self.place[node], self.point[node] = kind, place, point
        self.children[node] = [self.add() for _ in range(2 if kind == CUT else 1)]
        return self.children[node]

    def tree(self) -> InputTree:
        """All nodes in order."""
        order, waiting = list[int](), [0]
        while waiting:
            order.append(waiting.pop())
            waiting += reversed(self.children[order[-1]])
        kind = np.array(self.kind, np.uint8)[order]
        inner = np.array(order)[kind != LEAF].astype(np.int64)
        return InputTree(kind, np.array(self.place, np.int32)[inner], np.array(self.point)[inner])


def cut_tree(goal: Goal, is_late: Callable[[], bool], *, cuts: bool = True) -> InputTree | None:
    """A tree of cuts that proves all sets of a goal, None if the time or the room is over.

    Args:
        goal: the sets.
        is_late: whether the time is over.
        cuts: whether the box may be cut at all.
    """
    nodes = _Nodes()
    at_once = rows_at_once(goal.network, max(node.size for node in goal.network.nodes))
    waiting = [(nodes.add(), *goal.box)]
    while waiting:
        if is_late() or len(nodes.kind) > MOST_NODES:
            return None
        some = waiting[-at_once:]
        del waiting[-at_once:]
        low, high = np.stack([each[1] for each in some]), np.stack([each[2] for each in some])
        found = goal.planes(low, high)
        left = np.flatnonzero(~goal.proved(found.least))
        if len(left) and not cuts:
            return None
        places = [some[each][0] for each in left]
        low, high = low[left], high[left]
        found = Planes(*(part[left] for part in found))
        if (low >= high).all(1).any():
            return None  # a point that is not proved
        places = _clip(goal, nodes, places, found, low, high)
        direction = _directions(goal, found, high - low)
        for row, (node, place) in enumerate(zip(places, direction.tolist(), strict=True)):
            point = float(low[row, place] / 2 + high[row, place] / 2)
            below, above = nodes.split(node, CUT, place, point)
            middle_high, middle_low = high[row].copy(), low[row].copy()
            middle_high[place] = middle_low[place] = point
            waiting += [(below, low[row], middle_high), (above, middle_low, high[row])]
    return nodes.tree()


def _directions(goal: Goal, found: Planes, width: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    """The input to cut next, by the slopes of the best row of the worst set."""
    starts = np.cumsum([0, *(len(each.offsets) for each in goal.sets)])
    each = [found.least[:, start:end] for start, end in pairwise(starts)]
    worst = np.stack([part.max(1) for part in each], 1).argmin(1)
    row = np.stack([part.argmax(1) for part in each], 1)[np.arange(len(worst)), worst] + starts[worst]
    steep = np.abs(found.slopes[np.arange(len(worst)), row])
    score = (steep + FLAT * steep.max(1, keepdims=True)) * width
    return np.asarray(np.where(score.max(1) > 0, score.argmax(1), width.argmax(1)))


def _clip(goal: Goal, nodes: _Nodes, places: list[int], found: Planes, low: Array, high: Array) -> list[int]:
    """Clip boxes (N, F) in place where planes exclude enough of them; the nodes of what is left of each."""
    ends = _possible(goal, found, low, high)
    for kind, (own, end) in zip((CLIP_LOW, CLIP_HIGH), ((low, ends[0]), (high, ends[1])), strict=True):
        for place in range(low.shape[1]):
            width = high[:, place] - low[:, place]
            worth = np.abs(end[:, place] - own[:, place]) > WORTH * width
            if not worth.any():
                continue
            point = np.clip(end[:, place], low[:, place], high[:, place])
            lost = low.copy(), high.copy()
            lost[kind == CLIP_LOW][:, place] = point
            taken = worth & (width > 0) & goal.excluded(found, *lost)
            for row in np.flatnonzero(taken):
                (places[row],) = nodes.split(places[row], kind, place, float(point[row]))
            own[taken, place] = point[taken]
    return places


def _possible(goal: Goal, found: Planes, low: Array, high: Array) -> tuple[Array, Array]:
    """Ends (N, F) of what planes leave of boxes: a row holds no further from its best corner than its bound allows."""
    least, highest = np.full_like(low, np.inf), np.full_like(high, -np.inf)
    start = 0
    for each in goal.sets:
        rows = slice(start, start + len(each.offsets))
        start = rows.stop
        slopes = found.slopes[:, rows]
        far = np.maximum(-found.least[:, rows], 0.0)[..., None] / np.abs(slopes) * (1 + 1e-9)
        far = np.nan_to_num(far, nan=np.inf)
        below = np.where(slopes < 0, high[:, None] - far, -np.inf).max(1)
        above = np.where(slopes > 0, low[:, None] + far, np.inf).min(1)
        open_ = np.asarray((found.least[:, rows] <= 0).all(1))[:, None]
        least = np.where(open_, np.minimum(least, below), least)
        highest = np.where(open_, np.maximum(highest, above), highest)
    return np.maximum(least, low), np.minimum(highest, high)
