"""The number of inputs that one perturbation can change: branch and bound over which of them it changes.

A part of all perturbations is given by inputs that fall and inputs that stay. A solver proposes multipliers of the
linear bounds; what these prove is computed here, with all rounding errors. So a wrong answer of the solver costs
tightness alone.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from time import monotonic
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from certify.verification.shared.moves import MovedForms

Numbers = NDArray[np.float64]
TOUCHING = 1e-6  # a solver's vertices lie on the border of what it allows, within its own tolerance


@dataclass(frozen=True, eq=False)
class Forms:
    """Linear functions ``slope . d + constant``, of which one of an input has to be at most 0 for the input to fall.

    Attributes:
        slope: (J, F).
        constant: (J,).
        owner: (J,) the input of each, from 0 on.
        norm: of d, 1, 2 or infinity.
        epsilon: its largest length.
    """

    slope: Numbers
    constant: Numbers
    owner: NDArray[np.int64]
    norm: float
    epsilon: float

    @classmethod
    def joined(cls, parts: Sequence[MovedForms], norm: float, epsilon: float) -> Self:
        """The functions of all parts, without those that stay above 0 for every d."""
        slopes, constants, owners, count = [], [], [], 0
        for part in parts:
            slopes.append(part.slope[~part.safe].cpu().numpy())
            constants.append(part.constant[~part.safe].cpu().numpy())
            owners.append(count + (~part.safe).nonzero()[:, 0].cpu().numpy())
            count += len(part.safe)
        if not count:
            return cls(np.zeros((0, 1)), np.zeros(0), np.zeros(0, np.int64), norm, epsilon)
        forms = cls(np.concatenate(slopes), np.concatenate(constants), np.concatenate(owners), norm, epsilon)
        return forms.of(~(forms.constant - forms.reach(forms.slope) > 0))  # what is no number may fall

    def of(self, kept: NDArray[np.bool_]) -> Self:
        """Some of the functions."""
        return type(self)(self.slope[kept], self.constant[kept], self.owner[kept], self.norm, self.epsilon)

    @property
    def inputs(self) -> int:
        """One more than the largest place of an input."""
        return int(self.owner.max(initial=-1)) + 1

    def but(self, excluded: frozenset[int]) -> NDArray[np.bool_]:
        """(J,), all functions but some."""
        return ~np.isin(np.arange(len(self.constant)), list(excluded))

    def reach(self, slope: Numbers) -> Numbers:
        """Largest rise and fall of linear functions (..., F) over all d, rounded up."""
        order = {1.0: np.inf, 2.0: 2.0, math.inf: 1.0}[self.norm]
        length: Numbers = np.linalg.norm(slope, order, axis=-1)
        return self.epsilon * length * (1 + self.error)

    @property
    def most(self) -> Numbers:
        """Largest values (J,) of the functions over all d, rounded up."""
        return (self.constant + self.reach(self.slope)) + self.error * np.abs(self.constant)

    @property
    def error(self) -> float:
        """Relative error of a sum over all functions or all entries."""
        return 4 * (sum(self.slope.shape) + 64) * 2.0**-53


class Leaf(NamedTuple):
    """A part of all perturbations, and what multipliers prove about it.

    Attributes:
        falling: inputs that fall in this part.
        excluded: functions that make no input fall in this part.
        multipliers: (J,) of the functions, at least 0.
        most: inputs that fall, at most.
    """

    falling: frozenset[int]
    excluded: frozenset[int]
    multipliers: Numbers
    most: int


def proved_most(forms: Forms, falling: frozenset[int], excluded: frozenset[int], multipliers: Numbers) -> int:
    r"""The number of inputs that fall in a part, at most, as multipliers prove it.

    Let :math:`b_j = 1` for one function :math:`g_j \le 0` of each input that falls, and 0 for all others. With the
    largest value :math:`M_j` of each, :math:`g_j(d) \le M_j (1 - b_j)`. So for multipliers :math:`\mu_j \ge 0`, the
    number :math:`\sum b_j` is at most :math:`\sum b_j (1 - \mu_j M_j) + \sum \mu_j M_j - \min_d \sum \mu_j g_j(d)`,
    where each input has one b or, unless it falls for certain, none.
    """
    free = forms.but(excluded)
    weight = np.where(free, np.maximum(multipliers, 0.0), 0.0)
    if not np.isfinite(weight).all():
        weight = np.zeros_like(weight)
    most = forms.most
    each = np.full(forms.inputs, -np.inf)
    np.maximum.at(each, forms.owner, np.where(free, 1 - weight * most, -np.inf))
    certain = np.isin(np.arange(forms.inputs), list(falling))
    each = np.where(certain, each, np.maximum(each, 0.0))
    if np.isneginf(each).any():  # an input that falls, and nothing that makes it
        return 0
    least = weight @ forms.constant - forms.reach(weight @ forms.slope)
    total = each.sum() + weight @ most - least
    # Rounding of the weighted slopes, entry by entry, is at most that of the sum of all their reaches.
    sizes = 1 + np.abs(each).sum() + weight @ (np.abs(most) + np.abs(forms.constant) + forms.reach(forms.slope))
    return max(0, math.floor(total + forms.error * sizes)) if math.isfinite(sizes) else forms.inputs


def most_below(forms: Forms, seconds: float) -> tuple[list[Leaf], bool]:
    """Leaves that cover all perturbations, and whether the largest number in them is reached by the functions."""
    if not len(forms.constant):
        return [], True
    end, ticket, reached = monotonic() + seconds, itertools.count(), 0
    open_: list[tuple[int, int, Leaf, Numbers]] = []

    def add(falling: frozenset[int], excluded: frozenset[int], parents: Numbers) -> None:
        nonlocal reached
        found = relaxed(forms, falling, excluded)
        reached = max(reached, fallen(forms, found.move))
        proposed = [(proved_most(forms, falling, excluded, each), each) for each in (found.multipliers, parents)]
        most, best = min(proposed, key=lambda each: each[0])
        heapq.heappush(open_, (-most, next(ticket), Leaf(falling, excluded, best, most), found.shares))

    add(frozenset(), frozenset(), np.zeros(len(forms.constant)))
    done = []
    while open_ and -open_[0][0] > reached and monotonic() < end:
        _, _, leaf, shares = heapq.heappop(open_)
        parts = halves(forms, leaf, shares)
        if not parts:
            done.append(leaf)  # linear bounds and multipliers say no more
        for falling, excluded in parts:
            add(falling, excluded, leaf.multipliers)
    leaves = [*done, *(leaf for _, _, leaf, _ in open_)]
    return leaves, max(leaf.most for leaf in leaves) <= reached


def halves(forms: Forms, leaf: Leaf, shares: Numbers) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Two parts of a part: an input falls or not; where all are decided, it falls by one function or by others."""
    free = forms.but(leaf.excluded)
    undecided = sorted(set(forms.owner[free].tolist()) - leaf.falling)
    if undecided:
        sums = np.bincount(forms.owner, shares, forms.inputs)
        chosen = min(undecided, key=lambda place: float(abs(sums[place] - 0.5)))
        own = frozenset(np.flatnonzero(forms.owner == chosen).tolist())
        return [(leaf.falling | {chosen}, leaf.excluded), (leaf.falling, leaf.excluded | own)]
    several = free & (np.bincount(forms.owner[free], minlength=forms.inputs)[forms.owner] > 1)
    if not several.any():
        return []
    by = min(np.flatnonzero(several).tolist(), key=lambda place: float(abs(shares[place] - 0.5)))
    others = frozenset(np.flatnonzero(forms.owner == forms.owner[by]).tolist()) - {by}
    return [(leaf.falling, leaf.excluded | others), (leaf.falling, leaf.excluded | {by})]


def fallen(forms: Forms, move: Numbers) -> int:
    """Inputs of which some function is at most 0, up to rounding, at a perturbation that is drawn into the ball."""
    length = float(np.linalg.norm(move, forms.norm))
    move = move * min(1.0, forms.epsilon / length) if length > 0 else move
    value, size = forms.slope @ move + forms.constant, np.abs(forms.constant) + forms.reach(forms.slope)
    return len(np.unique(forms.owner[value <= TOUCHING * size]))


class Relaxed(NamedTuple):
    """The solution of the relaxed programme.

    Attributes:
        multipliers: (J,).
        shares: (J,), how far each function makes its input fall.
        move: (F,), the perturbation.
    """

    multipliers: Numbers
    shares: Numbers
    move: Numbers


def relaxed(forms: Forms, falling: frozenset[int], excluded: frozenset[int]) -> Relaxed:
    """The programme of a part, in which an input may fall by shares.

    Rows are scaled to a largest value of 1, and the perturbation to a length of 1.
    """
    free = forms.but(excluded)
    part, multipliers, shares = forms.of(free), np.zeros(len(free)), np.zeros(len(free))
    if not free.any():
        return Relaxed(multipliers, shares, np.zeros(forms.slope.shape[1]))
    scale = np.maximum(np.abs(part.most), 1e-12)
    places = np.arange(forms.inputs)
    programme = _Programme(
        slope=part.slope * (forms.epsilon / scale[:, None]),
        most=part.most / scale,
        room=(part.most - part.constant) / scale,
        owners=np.equal.outer(places, part.owner).astype(float),
        certain=np.isin(places, list(falling)).astype(float),
    )
    found = (_in_a_round_ball if forms.norm == 2 else _in_a_polytope)(programme, forms.norm)
    if found is None:
        return Relaxed(multipliers, shares, np.zeros(forms.slope.shape[1]))
    multipliers[free] = np.maximum(np.nan_to_num(found.multipliers), 0.0) / scale
    shares[free] = np.nan_to_num(found.shares)
    return Relaxed(multipliers, shares, forms.epsilon * np.nan_to_num(found.move))


class _Programme(NamedTuple):
    """Largest sum of shares with ``slope @ d + most * share <= room``, and shares of an input that sum to 1 at most."""

    slope: Numbers  # (J, F)
    most: Numbers  # (J,)
    room: Numbers  # (J,)
    owners: Numbers  # (inputs, J), 1 at the functions of each input
    certain: Numbers  # (inputs,), least sum of shares

    @property
    def price(self) -> float:
        """The cost of an input that should fall and does not: so there is always a solution, with multipliers."""
        return 2.0 * len(self.owners)


def _in_a_polytope(programme: _Programme, norm: float) -> Relaxed | None:
    """The solution over d of l-infinity or l1 length 1."""
    from scipy.optimize import linprog

    slope, (count, entries) = programme.slope, programme.slope.shape
    block = slope if norm == math.inf else np.hstack([slope, -slope])  # in l1, of the positive and negative parts
    length = np.zeros((0 if norm == math.inf else 1, block.shape[1] + count))
    length[:, : block.shape[1]] = 1.0
    unmoved = np.zeros((len(programme.owners), block.shape[1]))
    inputs = len(unmoved)
    length = np.hstack([length, np.zeros((len(length), inputs))])
    rows = [
        np.hstack([block, np.diag(programme.most), np.zeros((count, inputs))]),
        np.hstack([unmoved, programme.owners, np.zeros((inputs, inputs))]),
        np.hstack([unmoved, -programme.owners, -np.eye(inputs)]),
        length,
    ]
    limits = [programme.room, np.ones(len(unmoved)), -programme.certain, np.ones(len(length))]
    lowest = -1.0 if norm == math.inf else 0.0
    sides = [(lowest, 1.0)] * block.shape[1] + [(0.0, 1.0)] * (count + inputs)
    aim = np.concatenate([np.zeros(block.shape[1]), -np.ones(count), np.full(inputs, programme.price)])
    found = linprog(aim, np.vstack(rows), np.concatenate(limits), bounds=sides, method="highs-ds")
    if found.x is None:
        return None
    move = found.x[:entries] if norm == math.inf else found.x[:entries] - found.x[entries : 2 * entries]
    return Relaxed(-found.ineqlin.marginals[:count], found.x[block.shape[1] : block.shape[1] + count], move)


def _in_a_round_ball(programme: _Programme, norm: float) -> Relaxed | None:
    """The solution over d of l2 length 1."""
    cp: Any = import_module("cvxpy")  # it names its functions in ways that type checkers do not follow

    move, share = cp.Variable(programme.slope.shape[1]), cp.Variable(len(programme.most))
    fall = programme.slope @ move + cp.multiply(programme.most, share) <= programme.room
    missing = cp.Variable(len(programme.owners))
    inputs = [programme.owners @ share <= 1, programme.owners @ share + missing >= programme.certain, missing >= 0]
    aim = cp.sum(share) - programme.price * cp.sum(missing)
    whole = cp.Problem(cp.Maximize(aim), [fall, share >= 0, *inputs, cp.norm(move, norm) <= 1])
    try:
        whole.solve(solver=cp.CLARABEL)
    except cp.error.SolverError:
        return None
    if fall.dual_value is None or share.value is None:
        return None
    return Relaxed(fall.dual_value, share.value, move.value)
