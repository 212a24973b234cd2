"""Balls within boxes, and the least values of linear functions on them, with every rounding error on the safe side."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from certify.proofs.networks.functions import UNIT
from certify.proofs.networks.maps import Array

SURELY = 2.0**-30  # relative, by which a distance may be off
HALVINGS = 24  # of the price of a sphere, of which every one gives a bound


@dataclass(frozen=True, eq=False)
class Ball:
    """Inputs of a box whose distance from a centre is at most a radius.

    Attributes:
        centre: (F,), between the sides.
        radius: at least 0.
        norm: order of the distance, from 1 and finite; 0 counts changed entries.
        low: (F,), sides of the box; an entry without room between them does not move.
        high: likewise.
    """

    centre: Array
    radius: float
    norm: float
    low: Array
    high: Array

    def least(self, slopes: Array) -> Array:
        """Lower bounds (N, R) of linear functions ``slopes @ x``, slopes (N, R, F), on the ball.

        How far a function falls from the centre is a linear programme, or one with a sphere, whose dual bounds it
        whatever its multiplier: only sums of products that are at least 0 are computed.
        """
        room = np.where(slopes > 0, self.centre - self.low, self.high - self.centre)
        steep = np.where(room > 0, np.abs(slopes), 0.0)
        if self.norm == 0:
            fall = -np.sort(-steep * room, axis=2)[..., : int(self.radius)].sum(2)
        else:
            fall = np.minimum((steep * room).sum(2), self.radius * _dual(steep, self.norm))
        if self.norm == 1:
            fall = np.minimum(fall, self._in_diamond(steep, room))
        elif self.norm == 2:
            fall = np.minimum(fall, self._in_sphere(steep, room))
        error = 2 * (slopes.shape[2] + 64) * UNIT
        size = np.abs(slopes) @ np.abs(self.centre)
        found: Array = slopes @ self.centre - fall * (1 + error) - error * size - 2.0**-900
        return found

    def misses(self, low: Array, high: Array) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Find boxes (N, F) that hold no input of the ball for certain, (N,)."""
        gap = np.maximum(np.maximum(low - self.centre, self.centre - high), 0.0) * (1 - 2 * UNIT)
        if self.norm == 0:
            return np.asarray((gap > 0).sum(1) > self.radius)
        largest = gap.max(1, initial=0.0)
        scaled = gap / np.where(largest > 0, largest, 1.0)[:, None]
        distance = largest * (scaled**self.norm).sum(1) ** (1 / self.norm)
        return np.asarray(distance * (1 - SURELY) > self.radius)

    def _in_diamond(self, steep: Array, room: Array) -> Array:
        """Falls where the sizes of all changes sum up to the radius, by the price of a unit of them."""
        order = np.argsort(-steep, axis=2, kind="stable")
        spent = np.take_along_axis(room, order, 2).cumsum(2)
        last = np.minimum((spent < self.radius).sum(2), steep.shape[2] - 1)
        price = np.take_along_axis(np.take_along_axis(steep, order, 2), last[..., None], 2)
        found: Array = self.radius * price[..., 0] + (room * np.maximum(steep - price, 0.0)).sum(2)
        return found

    def _in_sphere(self, steep: Array, room: Array) -> Array:
        """Falls where the squares of all changes sum up to that of the radius, by the price of a unit of them."""
        high = np.linalg.norm(steep, axis=2) / max(self.radius, 2.0**-500) + 2.0**-500
        low = np.zeros_like(high)
        best: Array = np.full_like(high, np.inf)
        price = high
        for _ in range(HALVINGS):
            change = np.minimum(steep / price[..., None], room)
            gained = (change * (steep - price[..., None] * change / 2)).sum(2)
            best = np.minimum(best, gained + price / 2 * self.radius**2)
            far = (change**2).sum(2) > self.radius**2
            low, high = np.where(far, price, low), np.where(far, high, price)
            price = low / 2 + high / 2 + 2.0**-500
        return best


def _dual(steep: Array, norm: float) -> Array:
    """Norms (N, R) that meet the radius in Hölder's inequality."""
    if norm == 1:
        found: Array = steep.max(2, initial=0.0)
        return found
    largest = steep.max(2, initial=0.0)
    order = norm / (norm - 1)
    if order > 64:  # powers would vanish; the norm of order 64 is not smaller
        order = 64.0
    scaled = steep / np.where(largest > 0, largest, 1.0)[..., None]
    error = 2.0**-40 if norm != 2 else 2.0**-50  # of powers
    return np.asarray(largest * (scaled**order).sum(2) ** (1 / order) * (1 + error)) + math.ulp(0.0)
