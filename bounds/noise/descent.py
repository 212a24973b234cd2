"""Gradient ascent on a margin inside a ball whose radius follows each input.

The radius shrinks while the boundary is passed and grows while it is not (in the manner of Rony et al. 2019,
arXiv:1811.09600, and Pintor et al. 2021, arXiv:2102.12827). Boxes, subspaces and norms are the business of a
:class:`Terrain`.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bounds.numerics import per_row

PATIENCE = 2  # failures in a row after which a descent goes back to its nearest success
SHRINK = (0.2, 0.001)  # share by which a radius changes, at the first and at the last step


class Terrain(ABC):
    """The terrain of a descent: the margin, the norm of its balls, and the places (N, *D) that it may go to.

    Attributes:
        rates: length of a step, at the first and at the last one, in units of what ``step`` returns.
    """

    rates: tuple[float, float]

    @abstractmethod
    def margin_and_gradient(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The margin (N,), above 0 behind the boundary, and its gradient (N, *D)."""

    @abstractmethod
    def size(self, places: Tensor) -> Tensor:
        """Distance of the places from the input, (N,)."""

    @abstractmethod
    def first_radius(self, places: Tensor, margin: Tensor, gradient: Tensor) -> Tensor:
        """Distance at which the linearised margin is 0, (N,)."""

    @abstractmethod
    def step(self, places: Tensor, gradient: Tensor, radius: Tensor, nearest: Tensor) -> Tensor:
        """A step uphill on the scale of the radius, (N, *D)."""

    @abstractmethod
    def into_ball(self, places: Tensor, radius: Tensor) -> Tensor:
        """Places of that ball, (N, *D)."""

    def allowed_radius(self, radius: Tensor, reach: Tensor) -> Tensor:
        """The next radius, given the distance of the nearest success."""
        return radius


def descend(terrain: Terrain, start: Tensor, steps: int) -> Tensor:
    """The nearest success of each row on the way from ``start``, or where the way ends, (N, *D)."""
    places, nearest = start, start
    radius = reach = torch.full_like(terrain.size(start), math.inf)
    failures = torch.zeros_like(reach)
    for step in range(steps):
        margin, gradient = terrain.margin_and_gradient(places)
        size, success = terrain.size(places), margin > 0
        if step == 0:
            radius = terrain.first_radius(places, margin, gradient)
        closer = success & (size < reach)
        reach = torch.where(closer, size, reach)
        nearest = torch.where(per_row(closer, places), places, nearest)
        # A row that keeps failing goes back to its nearest success.
        failures = torch.where(success, 0, failures + 1)
        lost = (failures > PATIENCE) & reach.isfinite()
        failures = torch.where(lost, 0, failures)
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        change, rate = (last + (first - last) * decay for first, last in (SHRINK, terrain.rates))
        grown = radius * (1 + change * (2 - reach.isfinite().to(radius)))
        radius = torch.where(success, reach * (1 - change), torch.minimum(grown, reach))
        radius = terrain.allowed_radius(radius, reach)
        stepped = places + rate * terrain.step(places, gradient, radius, nearest)
        places = terrain.into_ball(torch.where(per_row(lost, places), nearest, stepped), radius)
    return torch.where(per_row(reach.isfinite(), places), nearest, places)
