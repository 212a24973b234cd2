"""Planes below and above the value of a node, which linear bounds are made of, and what gives them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.rows import Rows
from bounds.sets.balls import Interval


class Planes(NamedTuple):
    """Affine functions of all parents of a node below and above it, entry by entry.

    Attributes:
        lower_slopes: for each parent, of its shape or one that it is expanded to.
        lower_intercept: shaped like the node; None for 0 everywhere.
        upper_slopes: likewise; the same tensors as below where both have the same slopes.
        upper_intercept: shaped like the node.
    """

    lower_slopes: tuple[Tensor, ...]
    lower_intercept: Tensor | None
    upper_slopes: tuple[Tensor, ...]
    upper_intercept: Tensor

    def at(self, rows: Rows) -> "Planes":
        """The planes where coefficients stand."""
        low = tuple(rows.at(slope) for slope in self.lower_slopes)
        same = all(a is b for a, b in zip(self.lower_slopes, self.upper_slopes, strict=True))
        high = low if same else tuple(rows.at(slope) for slope in self.upper_slopes)
        constant = None if self.lower_intercept is None else rows.at(self.lower_intercept)
        return Planes(low, constant, high, rows.at(self.upper_intercept))


def kept_within(numbers: Tensor, low: float, high: float) -> Tensor:
    """Parameters, clamped. Ascents begin at limits, where ``clamp`` has no gradient any more since torch 2.14."""
    clamped = numbers.detach().clamp(low, high)
    return torch.where(numbers == clamped, numbers, clamped)


class NodeFunction(ABC):
    """A node that is not affine, as linear bounds need it: a range, and planes with parameters in them.

    The planes are sound for every choice of the parameters; the choice is a matter of tightness.

    Attributes:
        pace: how far an ascent should move the parameters at a time, 1 for the default share of their limits.
    """

    pace: float = 1.0

    @abstractmethod
    def range_of(self, *parents: Interval) -> Interval:
        """The image of the parents' intervals, rounded outward."""

    @abstractmethod
    def default_parameters(self, *parents: Interval) -> tuple[Tensor, ...]:
        """Parameters of planes that serve best without further knowledge."""

    def limits(self, *parents: Interval) -> tuple[Interval, ...]:
        """For each of the parameters, between which values it is of use."""
        return ()

    @abstractmethod
    def planes(self, parameters: tuple[Tensor, ...], *parents: Interval) -> Planes:
        """Planes with given parameters, which gradients reach."""

    def default_planes(self, *parents: Interval) -> Planes:
        """Planes with the parameters that serve best without further knowledge."""
        return self.planes(self.default_parameters(*parents), *parents)

    def prepared(self, *parents: Interval) -> "Callable[[tuple[Tensor, ...]], Planes]":
        """Planes as a function of the parameters alone, for intervals that stay as they are."""
        return lambda parameters: self.planes(parameters, *parents)

    @abstractmethod
    def unstable(self, *parents: Interval) -> tuple[Tensor, ...]:
        """For each parent, where better bounds on it would help."""

    def parallel(self, *parents: Interval) -> Planes:
        """Planes with the same slopes below and above, where these cost less than the default ones; else those."""
        return self.default_planes(*parents)

    def aligned(self, coefficients: Tensor) -> Tensor:
        """Coefficients (N, R, *shape) of the node, to be multiplied with slopes."""
        return coefficients

    def beside(self, entries: Tensor) -> Tensor:
        """Entries (.., *shape) of a parent, to be multiplied with its slopes."""
        return entries

    def combined(self, products: Tensor) -> Tensor:
        """Values of the node, from products (.., *shape) of one parent with its slopes."""
        return products

    def reduced(self, products: Tensor, shape: torch.Size) -> Tensor:
        """Coefficients of a parent with values of a given shape (N, *shape), from products with its slopes."""
        return products
