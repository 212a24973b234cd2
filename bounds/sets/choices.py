r"""Inputs of which few parts change, each to one of some values: the base of sets of tables and of texts.

An input consists of positions, such as the features of a table or the words of a text. Each position keeps its value
or takes one of its *choices*, and at most so many positions change. A linear function changes by a *score* with each
choice, and scores of different positions add up. So its minimum over the set is exact,

.. math:: \min_x a \cdot x = a \cdot c - \sum_{p \in \text{top } k} \max(0, -\min_v s_{pv}),

the fall of the k positions that fall most. Some positions may be known to change, as in parts of a set that a search
has cut: these count first.
"""

from abc import abstractmethod
from copy import copy
from typing import ClassVar, Self

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error, underflow
from bounds.sets.balls import Interval, PerturbationSet

STAYS = -1  # as a choice: the position keeps its value


class Choices(PerturbationSet):
    """Inputs of which at most ``budget`` positions take one of their choices; C choices in all, of P positions.

    Attributes:
        center: (N, *D) floating tensor.
        budget: (N,) int64, positions that may change.
        position: (C,) int64, the position of each choice.
        allowed: (N, C) bool, choices that may be taken; those that change nothing are left out.
        stays: (N, P) bool, positions that may keep their values.
        ranges: (P,) bool, positions whose two choices are the ends of a range that is allowed altogether.
    """

    center: Tensor
    budget: Tensor
    position: Tensor
    allowed: Tensor
    stays: Tensor
    ranges: Tensor

    OF_ROWS: ClassVar[tuple[str, ...]] = ("center", "budget", "allowed", "stays")  # tensors with N rows
    OF_NUMBERS: ClassVar[tuple[str, ...]] = ("center",)  # floating tensors

    # --------------------------------------------------------------------------------- what each kind of set defines

    @abstractmethod
    def scores(self, rows: Tensor) -> Tensor:
        """Changes (N, R, C) of linear functions (N, R, F) with each choice."""

    @abstractmethod
    def moves(self, choice: Tensor) -> Tensor:
        """Moves (N, R, F) from the centre to choices (N, R, P) of all positions."""

    @abstractmethod
    def points(self, choice: Tensor) -> Tensor:
        """The inputs (N, *D) with choices (N, P) of all positions, exactly."""

    @abstractmethod
    def spread(self) -> Tensor:
        """The most that terms of scores move each entry, (N, F): what rounding errors are shares of."""

    @abstractmethod
    def matches(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of points that keep their values, and that take an allowed choice, (N, P) each.

        Args:
            points: (N, F) in float64.
        """

    def halved(self, position: Tensor, *, first: bool) -> Self:
        """The sets in which a position (N,), whose choices are a range, takes one half of it; others as they are."""
        return self

    def pointed(self, shares: Tensor) -> Self:
        """The sets in which each range is one point of it, at shares (N, P) of the way; others as they are."""
        return self

    def splittable(self) -> Tensor:
        """Positions (N, P) of which it is open whether they change, or to what: choices or ranges can be told apart."""
        counts = self.counts()
        return torch.where(self.stays, counts > 0, counts > 1)

    # ------------------------------------------------------------------------------------------- what all sets share

    @property
    def changes(self) -> int:
        """The largest number of positions that may change."""
        return int(self.budget.max()) if len(self.budget) else 0

    def altered(self, **tensors: Tensor) -> Self:
        """A copy with other tensors."""
        other = copy(self)
        vars(other).update(tensors)
        return other

    def rows(self, index: Tensor) -> Self:
        """The sets of some inputs, given by their places (B,)."""
        return self.altered(**{name: getattr(self, name)[index] for name in self.OF_ROWS})

    def double(self) -> Self:
        """The set in float64; values are those rounded to the dtype of the centre."""
        return self.altered(**{name: getattr(self, name).double() for name in self.OF_NUMBERS})

    def joined(self, other: Self) -> Self:
        """The sets of both, one after the other."""
        both = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in self.OF_ROWS}
        return self.altered(**both)

    def within(self, budget: Tensor | int) -> Self:
        """The sets with another number of positions that may change, one for all or (N,)."""
        return self.altered(budget=torch.as_tensor(budget, device=self.budget.device).expand(len(self.budget)))

    def room(self) -> Tensor:
        """Positions (N,) that may change besides those that must."""
        return self.budget - (~self.stays).sum(1)

    def live(self) -> Tensor:
        """The choices (N, C) that some input of the set takes."""
        may = ~self.stays | (self.room() > 0)[:, None]
        return self.allowed & may[:, self.position]

    def counts(self) -> Tensor:
        """Number of live choices of each position, (N, P)."""
        zeros = torch.zeros_like(self.stays, dtype=torch.int64)
        return zeros.index_add_(1, self.position, self.live().long())

    def least_of_positions(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The least value of an allowed choice of each position, infinite where there is none; and its place.

        Args:
            values: (N, R, C).
        """
        values = values.masked_fill(~self.allowed[:, None], torch.inf)
        where = self.position.expand(values.shape)
        shape = (*values.shape[:2], self.stays.shape[1])
        least = values.new_full(shape, torch.inf).scatter_reduce(2, where, values, "amin")
        places = torch.arange(values.shape[2], device=values.device).expand(values.shape)
        places = places.masked_fill(values != least.gather(2, where), values.shape[2])
        first = torch.full(shape, values.shape[2], device=values.device).scatter_reduce(2, where, places, "amin")
        return least, first.clamp(max=max(values.shape[2] - 1, 0))

    def lowest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The fall (N, R) of linear functions, as computed, and the choices (N, R, P) at which they are least."""
        least, which = self.least_of_positions(self.scores(rows))
        must = ~self.stays[:, None]
        gain = torch.where(must, 0.0, (-least).clamp(min=0))
        order = gain.argsort(dim=2, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            2, order, torch.arange(gain.shape[2], device=gain.device).expand_as(order)
        )
        taken = (rank < self.room()[:, None, None]) & (gain > 0)
        fall = torch.where(taken, gain, 0.0).sum(2) - torch.where(must, least, 0.0).sum(2)
        return fall, torch.where(taken | must, which, STAYS)

    def largest_fall(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The exact fall, and its rounding errors on top; see :class:`PerturbationSet`."""
        # Differences of values are rounded too, so they are taken in the dtype whose errors are counted.
        wide = self.altered(**{name: getattr(self, name).to(rows.dtype) for name in self.OF_NUMBERS})
        fall, choice = wide.lowest(rows)
        size = (rows.abs() * wide.spread()[:, None]).sum(2)
        error = 2 * accumulated_error(rows.shape[2] + 64, rows.dtype) * size
        return fall + (error + underflow(rows.dtype)), wide.moves(choice)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of all entries at once; bounds use :meth:`largest_fall`, for which signs count."""
        return (slopes * reach).sum(-1), reach

    def contains(self, points: Tensor) -> Tensor:
        """Points that take few enough choices, and keep the rest; see :class:`PerturbationSet`."""
        kept, chosen = self.matches(points.flatten(1))
        kept = kept & self.stays
        return (kept | chosen).all(1) & ((~kept).sum(1) <= self.budget)

    def changed(self, points: Tensor) -> Tensor:
        """Number of positions that points (N, *D) do not keep, (N,) int64."""
        return (~self.matches(points.double().flatten(1))[0]).sum(1)


def checked_budget(changes: int | Tensor, center: Tensor) -> Tensor:
    """Changes of each input, (N,) int64, from one number or (N,)."""
    if not isinstance(changes, Tensor):
        return torch.full((len(center),), checks.at_least("changes", changes, 0), device=center.device)
    checks.rows("changes", changes, len(center))
    if changes.is_floating_point() or changes.dtype == torch.bool or bool((changes < 0).any()):
        raise InvalidInput(
            f"changes must be integers of at least 0, got {changes.dtype}: pass one number, or (N,) of int64"
        )
    return changes.long().to(center.device)


def checked_mask(mask: Tensor | None, center: Tensor) -> Tensor:
    """Frozen entries (N, *D) bool, from a mask of one input or of each of them."""
    if mask is None:
        return torch.zeros_like(center, dtype=torch.bool)
    if not (isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == center.shape):
        checks.frozen_features(mask, center)
    return mask.to(center.device).expand(center.shape)


def hull_of(least: Tensor, largest: Tensor, center: Tensor) -> Interval:
    """An interval in the shape of the centre, from sides (N, F)."""
    return Interval(least.view(center.shape), largest.view(center.shape))
