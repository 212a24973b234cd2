"""Intervals, and the base of all perturbation sets: what it tells the bounding methods."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from bounds.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Interval:
    """Entry-wise bounds: every entry lies between ``lower`` and ``upper``, tensors of one shape."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, center: Tensor, radius: Tensor, error: float) -> "Interval":
        """The centre and ``radius`` to both sides, with a relative error of both numbers and of these operations."""
        if error == 0:
            return cls(center - radius, center + radius)
        radius = torch.add(radius, center.abs(), alpha=error)
        return cls(torch.sub(center, radius, alpha=1 + error), torch.add(center, radius, alpha=1 + error))

    def halves(self, error: float) -> tuple[Tensor, Tensor]:
        """The centre, and how far both ends are from it, with a relative error of the centre.

        What rounding did to both is covered once the distance is raised by a few units of rounding, and if the error
        is more than these.
        """
        center = torch.lerp(self.lower, self.upper, 0.5)
        radius = self.upper - center
        return center, torch.add(radius, center.abs(), alpha=error) if error else radius

    def __and__(self, other: "Interval") -> "Interval":
        """The intersection of two intervals that are both known to hold."""
        return Interval(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))


class PerturbationSet(ABC):
    """Inputs around a centre, one set for each of N inputs: the base of all sets, also of one's own.

    A set of one's own has a ``center`` and defines :meth:`hull` and :meth:`largest_gain`. These are enough for the
    bounds; :func:`certify.verify`, which leaves out rows that are decided, needs :meth:`rows` as well. Attacks, which
    look for inputs in the set, need :meth:`rows` and :meth:`contains`.

    Attributes:
        center: (N, *D) floating tensor, a point of each hull.
    """

    if TYPE_CHECKING:  # at run time a property here would be the default of a dataclass field of this name

        @property
        def center(self) -> Tensor:
            """A point of each hull, (N, *D)."""

    @abstractmethod
    def hull(self) -> "Interval":
        """A box around the set, (N, *D) each: every bound rests on it, so it must not be too small."""

    @abstractmethod
    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """The largest ``slopes @ t`` for moves ``0 <= t <= reach`` that the set allows, and a move that attains it.

        A perturbed input is the centre plus or minus such a move, entry by entry on the side that is asked for. A set
        that is not symmetric returns what no side exceeds. A gain that is too large is sound; it may fall below the
        true one by the relative error of ``F + 64`` rounded operations, which the caller makes up for. The move serves
        gradients alone.

        Args:
            slopes: (N, R, F), at least 0.
            reach: (N, R, F), room within the hull in the direction of each move.

        Returns:
            The gain (N, R) and the move (N, R, F), in the dtype of the slopes.
        """

    def largest_fall(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Largest fall of linear functions below their values at the centre, and a move to where they fall so far.

        It rests on :meth:`largest_gain` unless a set says better. Sets whose entries move together do: for them the
        signs of coefficients count. A fall that is too large is sound, as a gain is.

        Args:
            rows: (N, R, F), coefficients.

        Returns:
            The fall (N, R) and the move (N, R, F) from the centre, in the dtype of the coefficients.
        """
        hull = self.hull()
        center, lower, upper = (x.flatten(1)[:, None].to(rows.dtype) for x in (self.center, hull.lower, hull.upper))
        gain, move = self.largest_gain(rows.abs(), torch.where(rows > 0, center - lower, upper - center))
        return gain, -rows.sign() * move

    def rows(self, index: Tensor) -> Self:
        """The sets of some inputs, given by their places (B,).

        Raises:
            InvalidInput: a set of one's own that does not define it.
        """
        raise InvalidInput(
            f"{type(self).__name__} must define rows(index) where sets are taken apart: return one with tensors of N "
            f"rows indexed"
        )

    def contains(self, points: Tensor) -> Tensor:
        """Whether each point lies in the set of its row, (N,) bool: a point that rounding leaves in doubt does not.

        Args:
            points: (N, *D) in float64, one for each set.

        Raises:
            InvalidInput: a set of one's own that does not define it.
        """
        raise InvalidInput(
            f"{type(self).__name__} must define contains(points) where adversarial inputs are looked for in it: return "
            f"(N,) bool, True for points in the set"
        )

    def without_box(self) -> "PerturbationSet":
        """A set that contains this one and is cheaper to find minima over; itself if there is none."""
        return self

    def double(self) -> "PerturbationSet":
        """The set in float64, in which bounds lose the least to rounding; itself if it defines no such set."""
        return self

    @property
    def is_box(self) -> bool:
        """Whether its entries move independently of each other, so that it is its hull."""
        return False


def tells_members(ball: PerturbationSet) -> bool:
    """Whether a set says which points lie in it, so that inputs can be looked for there."""
    return type(ball).contains is not PerturbationSet.contains
