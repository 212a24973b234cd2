"""Rows of tables of which few features change: one-hot groups as a whole, levels and numbers within their range."""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.sets.balls import Interval
from bounds.sets.choices import STAYS, Choices, checked_budget, checked_mask, hull_of
from bounds.sets.features import NO_COLUMN, Category, Feature, listed


class _Table(Choices):
    """Features in columns. With a choice, all columns of a feature are off but one, which takes the value.

    Attributes:
        home: (F,) int64, the feature of each column; the number P of features for columns that stay.
        column: (C,) int64, the column of each choice; the number F of columns for a choice without one.
        value: (N, C), that it takes.
        off: (N, F), values of columns whose feature changes to another column; the centre where there is no other.
    """

    home: Tensor
    column: Tensor
    value: Tensor
    off: Tensor

    OF_ROWS: ClassVar[tuple[str, ...]] = (*Choices.OF_ROWS, "value", "off")
    OF_NUMBERS: ClassVar[tuple[str, ...]] = (*Choices.OF_NUMBERS, "value", "off")

    def _take(self, center: Tensor, features: Sequence[Feature], changes: int | Tensor, mask: Tensor | None) -> None:
        """Write the choices of all features in tensors."""
        x = checks.inputs(center).flatten(1)
        count, size = x.shape
        self.center, self.budget = center, checked_budget(changes, center)
        frozen = checked_mask(mask, center).flatten(1)
        found = [listed(feature, x, frozen) for feature in features]
        columns = [column for part in found for column in part.columns]
        if len(set(columns)) < len(columns):
            twice = sorted({column for column in columns if columns.count(column) > 1})
            raise InvalidInput(f"a column must belong to one feature, but {twice} belong to several: name them once")

        def whole(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=x.device)

        self.position = whole([place for place, part in enumerate(found) for _ in part.column])
        self.column = whole([size if each == NO_COLUMN else each for part in found for each in part.column])
        homes = {column: place for place, part in enumerate(found) for column in part.columns}
        self.home = whole([homes.get(column, len(found)) for column in range(size)])
        self.ranges = whole([part.ranged for part in found]).bool()
        self.value = torch.cat([x.new_zeros(count, 0), *(part.value for part in found)], 1)
        self.allowed = torch.cat([frozen.new_zeros(count, 0), *(part.allowed for part in found)], 1)
        self.stays = torch.ones(count, len(found), dtype=torch.bool, device=x.device)
        self.off = x
        for part in found:
            self.off = self.off.index_copy(1, whole(part.columns), part.off)

    def _jump(self) -> Tensor:
        """Distance of the column of each choice from off, (N, C); 0 for choices without a column."""
        there = self.column < self.off.shape[1]
        return torch.where(there, self.value - self.off[:, self.column.clamp(max=self.off.shape[1] - 1)], 0.0)

    def _padded(self, rows: Tensor) -> Tensor:
        """Rows (.., F) with a zero behind, which choices without a column read."""
        return torch.nn.functional.pad(rows, (0, 1))

    def scores(self, rows: Tensor) -> Tensor:
        """Changes of linear functions, see :class:`Choices`."""
        away = (self.off - self.center.flatten(1)).to(rows.dtype)[:, None] * rows
        base = away.new_zeros(*away.shape[:2], self.stays.shape[1] + 1).index_add_(2, self.home, away)
        return base[..., self.position] + self._padded(rows)[..., self.column] * self._jump().to(rows.dtype)[:, None]

    def moves(self, choice: Tensor) -> Tensor:
        """Moves to choices, see :class:`Choices`."""
        away = (self.off - self.center.flatten(1))[:, None] * self._padded((choice != STAYS).to(self.off))[
            ..., self.home
        ]
        jump = self._jump()[:, None].expand(*choice.shape[:2], -1)
        jump = torch.where(choice == STAYS, 0.0, jump.gather(2, choice.clamp(min=0)))
        column = self.column[choice.clamp(min=0)]
        return self._padded(away).scatter_add_(2, column, jump)[..., :-1]

    def points(self, choice: Tensor) -> Tensor:
        """Inputs with choices, see :class:`Choices`."""
        changed = choice != STAYS
        moved = torch.where(torch.nn.functional.pad(changed, (0, 1))[:, self.home], self.off, self.center.flatten(1))
        column = torch.where(changed, self.column[choice.clamp(min=0)], moved.shape[1])
        moved = self._padded(moved).scatter(1, column, self.value.gather(1, choice.clamp(min=0)))
        return moved[:, :-1].reshape(self.center.shape)

    def hull(self) -> Interval:
        """Smallest box around the set."""
        live, x, size = self.live(), self.center.flatten(1), self.home.numel()
        own = torch.zeros_like(x, dtype=torch.int64)
        own = torch.nn.functional.pad(own, (0, 1)).index_add_(1, self.column, live.long())[:, :size]
        others = torch.nn.functional.pad(self.counts(), (0, 1))[:, self.home] > own
        kept = torch.nn.functional.pad(self.stays, (0, 1), value=True)[:, self.home]
        sides = []
        for sign in (1, -1):
            taken = self._padded(torch.full_like(x, torch.inf)).scatter_reduce(
                1, self.column.expand_as(live), torch.where(live, sign * self.value, torch.inf), "amin"
            )[:, :size]
            still = torch.where(kept, sign * x, torch.inf)
            sides.append(
                sign * torch.minimum(torch.minimum(taken, still), torch.where(others, sign * self.off, torch.inf))
            )
        return hull_of(sides[0], sides[1], self.center)

    def spread(self) -> Tensor:
        """The most that terms of scores move each column, see :class:`Choices`."""
        jump = torch.where(self.allowed, self._jump().abs(), 0.0)
        most = self._padded(torch.zeros_like(self.off)).scatter_reduce(1, self.column.expand_as(jump), jump, "amax")
        return most[:, :-1] + (self.off - self.center.flatten(1)).abs()

    def matches(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features that points keep, and that take an allowed choice, see :class:`Choices`."""
        changed, off = points != self.center.flatten(1), points == self.off
        moved = self._per_feature(changed)
        kept = moved[:, :-1] == 0
        sizes = self._per_feature(torch.ones_like(off))
        lit = (sizes - self._per_feature(off))[:, self.position]  # columns that are not off
        here = self._padded(points)[:, self.column]
        dark = torch.nn.functional.pad(off, (0, 1), value=True)[:, self.column]
        hit = (here == self.value) | (self.column == self.home.numel())
        exact = self.allowed & hit & (lit == (~dark).long()) & ~self.ranges[self.position]
        low, high = (side[:, self.position] for side in self._ends())
        in_range = (low <= here) & (here <= high) & self.allowed
        chosen = exact | (in_range & self.ranges[self.position])
        found = torch.zeros_like(self.stays, dtype=torch.int64).index_add_(1, self.position, chosen.long())
        outside = moved[:, -1:] > 0
        return kept, (found > 0) & ~outside

    def contains(self, points: Tensor) -> Tensor:
        """Rows whose other columns stay, and few of whose features change; see :class:`PerturbationSet`."""
        outside = self._per_feature(points.flatten(1) != self.center.flatten(1))[:, -1] > 0
        return super().contains(points) & ~outside

    def _per_feature(self, marked: Tensor) -> Tensor:
        """Number of marked columns of each feature, and of those of none, (N, P + 1)."""
        zeros = torch.zeros(len(marked), self.stays.shape[1] + 1, dtype=torch.int64, device=marked.device)
        return zeros.index_add_(1, self.home, marked.long())

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of allowed choices of each feature, (N, P) each."""
        least, largest = (self.least_of_positions(sign * self.value[:, None])[0][:, 0] for sign in (1, -1))
        return least, -largest

    def splittable(self) -> Tensor:
        """Features that can be told apart further; a range as long as a number lies between its ends."""
        low, high = self._ends()
        middle = low + (high - low) / 2
        narrow = self.ranges & ~self.stays & ~((low < middle) & (middle < high))
        return super().splittable() & ~narrow

    def halved(self, position: Tensor, *, first: bool) -> Self:
        """The sets in which a number takes one half of its range, see :class:`Choices`."""
        mine = (self.position == position[:, None]) & self.ranges[self.position]
        low, high = (side[:, self.position] for side in self._ends())
        far = self.value == (high if first else low)
        return self.altered(value=torch.where(mine & far, low + (high - low) / 2, self.value))

    def pointed(self, shares: Tensor) -> Self:
        """The sets in which each number is one point of its range, see :class:`Choices`."""
        low, high = (side[:, self.position] for side in self._ends())
        point = torch.minimum(low + shares[:, self.position].to(low.dtype) * (high - low), high)
        point = torch.where(self.ranges[self.position] & self.allowed, point, self.value)
        return self.altered(value=point)


class FeatureChanges(_Table):
    """Rows of a table of which at most ``changes`` features change, as the features themselves allow.

    Linear functions have exact minima over it: features change as a whole, and no more than so many of them.

    Args:
        center: (N, *D) floating tensor; columns count its entries in order.
        features: a :class:`Category`, :class:`Levels` or :class:`Numeric` for each feature that may change; all other
            columns stay.
        changes: how many features of one row may change, a number or (N,) integers.
        frozen_features: bool, (N, *D) or broadcasting to one input; True where a column stays as it is. A category that
            is present and frozen stays.

    Raises:
        InvalidInput: rows that no feature allows, such as two categories at once; columns that belong to several
            features or to none of the inputs.
    """

    def __init__(
        self,
        center: Tensor,
        features: Sequence[Feature],
        changes: int | Tensor,
        frozen_features: Tensor | None = None,
    ) -> None:
        self._take(center, checks.several("features", features), changes, frozen_features)


class CategoricalGroups(_Table):
    """Rows of a table of which at most ``changes`` one-hot groups change their category; all other columns stay.

    Args:
        center: (N, *D) floating tensor, with a single 1 and else 0 in each group.
        groups: columns of each group.
        changes: how many groups of one row may change, a number or (N,) integers.
        frozen_features: bool, (N, *D) or broadcasting to one input; True for columns that stay: a present category,
            with which its group stays, or one that may not be chosen.

    Raises:
        InvalidInput: see :class:`FeatureChanges`, which has other features as well.
    """

    def __init__(
        self,
        center: Tensor,
        groups: Sequence[Sequence[int]],
        changes: int | Tensor,
        frozen_features: Tensor | None = None,
    ) -> None:
        features = [Category(columns) for columns in checks.several("groups", groups)]
        self._take(center, features, changes, frozen_features)
