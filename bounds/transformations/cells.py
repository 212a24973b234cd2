r"""Functions of few parameters over boxes that are cut into cells: values at the corners, slopes in between.

A box of parameters is :math:`[-1, 1]^k` here. In a cell, a function with the values a and b at both ends of an edge of
length d and slopes in :math:`[m, M]` is at least a where :math:`m \ge 0`, b where :math:`M \le 0`, and else

.. math:: \frac{a M - b m + m M d}{M - m},

the value at which the steepest lines from both ends meet. It suffices that the function is Lipschitz and that its
slopes lie there almost everywhere. With more parameters, edges give bounds on faces, and these give bounds on cells.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

UNITS = 64 * torch.finfo(torch.float64).eps
NOTHING = 1e-150  # added to the radii of slopes, so that quotients keep their digits


@dataclass(frozen=True, eq=False)
class Cells:
    """Functions of k parameters, E of them for each of B boxes.

    Attributes:
        values: (B, G_1, .., G_k, E), at the corners of cells; ``G_j`` is 1 where a parameter does not matter yet.
        slopes: centres of the slopes over cells, k of (B, G_1 - 1, .., G_k - 1, E) each; None where the function does
            not depend on a parameter yet.
        spreads: radii of these.
        error: (B, 1), how far values may be off.
        floor: lower bounds of the function over cells, or None.
        ceiling: upper bounds.
    """

    values: Tensor
    slopes: tuple[Tensor | None, ...]
    spreads: tuple[Tensor | None, ...]
    error: Tensor
    floor: Tensor | None = None
    ceiling: Tensor | None = None

    @property
    def parameters(self) -> int:
        """The number k."""
        return len(self.slopes)

    def opposite(self) -> "Cells":
        """The negative of the functions."""
        slopes = tuple(None if slope is None else -slope for slope in self.slopes)
        floor = None if self.ceiling is None else -self.ceiling
        ceiling = None if self.floor is None else -self.floor
        return replace(self, values=-self.values, slopes=slopes, floor=floor, ceiling=ceiling)

    def least(self, tilt: Tensor | None = None) -> Tensor:
        """Lower bounds over each cell of the functions, less ``tilt @ parameters``; rounding and errors included.

        Args:
            tilt: (B, k, E), or None for 0.
        """
        values, size = self.values, self.values.abs().amax(tuple(range(1, self.values.ndim)), keepdim=True)
        for axis in range(self.parameters):
            if tilt is not None and values.shape[axis + 1] > 1:
                values = values - self._along(tilt, axis) * self._positions(axis)
        corners, faces = [values], size
        for axis in range(self.parameters):
            corners = [part for side in corners for part in _ends(side, axis + 1)]
        for axis in range(self.parameters)[::-1]:
            pairs = list(zip(corners[::2], corners[1::2], strict=True))
            slope, spread = self.slopes[axis], self.spreads[axis]
            if slope is None or spread is None:
                corners = [one for one, _ in pairs]
                continue
            slope = slope if tilt is None else slope - self._along(tilt, axis)
            spread = spread * (1 + UNITS) + UNITS * slope.abs() + NOTHING
            width = 2.0 / (self.values.shape[axis + 1] - 1)
            corners = [_least_between(*pair, slope - spread, slope + spread, width) for pair in pairs]
            faces = faces + width * (slope.abs() + spread)
        (found,) = corners
        error = self.error.view(-1, *[1] * (found.ndim - 1))
        found = found - error - UNITS * (faces + (0.0 if tilt is None else self._reach(tilt)))
        if self.floor is None:
            return found
        # Where a slope is not known, the range of the function is, and the tilt is largest at a corner of the box.
        other = self.floor if tilt is None else self.floor - self._reach(tilt) * (1 + UNITS)
        return torch.where(found.isnan(), other, torch.maximum(found, other))

    def slope(self) -> Tensor:
        """Slopes (B, k, E) of a linear function below, as high at the middle of the box as the corners allow."""
        sizes = self.values.shape[1:-1]
        found = [self.values.new_zeros(len(self.values), self.values.shape[-1]) for _ in sizes]
        moving = [axis for axis, size in enumerate(sizes) if size > 1]
        for axis in moving:
            first, last = (self.values.select(axis + 1, end) for end in (0, -1))
            found[axis] = (last - first).flatten(1, -2).mean(1) / 2 if first.ndim > 2 else (last - first) / 2
        for axis in moving * (1 if len(moving) == 1 else 2):
            rest = self.values
            for other in moving:
                if other != axis:
                    rest = rest - found[other].view(len(rest), *[1] * len(sizes), -1) * self._positions(other)
            others = [place + 1 for place in range(len(sizes)) if place != axis]
            found[axis] = _supporting(rest.amin(others) if others else rest)
        return torch.stack(found, 1)

    def _positions(self, axis: int) -> Tensor:
        """Places of the corners along a parameter, from -1 to 1."""
        count = self.values.shape[axis + 1]
        shape = [1] * self.values.ndim
        shape[axis + 1] = count
        return torch.linspace(-1, 1, count, dtype=self.values.dtype, device=self.values.device).view(shape)

    def _along(self, tilt: Tensor, axis: int) -> Tensor:
        """The tilt along one parameter, to be combined with values or slopes."""
        return tilt[:, axis].view(len(tilt), *[1] * self.parameters, -1)

    def _reach(self, tilt: Tensor) -> Tensor:
        """Length that the tilt goes within the box, (B, 1, .., 1, E)."""
        return tilt.abs().sum(1).view(len(tilt), *[1] * self.parameters, -1)


def _ends(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The values at the beginnings and ends of the edges along an axis."""
    count = x.shape[axis]
    return (x, x) if count == 1 else (x.narrow(axis, 0, count - 1), x.narrow(axis, 1, count - 1))


def _least_between(a: Tensor, b: Tensor, low: Tensor, high: Tensor, width: float) -> Tensor:
    """The least value on edges with values a and b at the ends and slopes between ``low`` and ``high``."""
    meeting = (a * high - b * low + low * high * width) / (high - low)
    least = torch.minimum(torch.minimum(a, b), meeting)
    return torch.where(low >= 0, a, torch.where(high <= 0, b, least))


def _supporting(values: Tensor) -> Tensor:
    """Slopes (B, E) of the line below values (B, G, E) at even places in [-1, 1] that is highest in the middle."""
    count = values.shape[1]
    places = torch.linspace(-1, 1, count, dtype=values.dtype, device=values.device)
    half = count // 2
    left, right, far, near = values[:, :half], values[:, count - half :], -places[:half], places[count - half :]
    middle = values[:, half] if count % 2 else torch.full_like(values[:, 0], torch.inf)
    for place in range(half):  # chords that span the middle
        share = (near / (near + far[place]))[:, None]
        middle = torch.minimum(middle, torch.lerp(right, left[:, place, None], share).amin(1))
    rise = (middle[:, None] - left) / far[:, None]  # a line through the middle, below all values on either side
    fall = (right - middle[:, None]) / near[:, None]
    return (rise.amax(1) + fall.amin(1)) / 2


def tubes(lower: Cells, upper: Cells) -> tuple[Tensor, Tensor]:
    """Sides (B, V, E) of boxes at the 2^m corners of the m parameters that matter, whose hull holds the functions.

    Corners are in the order of binary numbers, the first parameter having the lowest digit.
    """
    sides = []
    for cells in (lower, upper.opposite()):
        tilt = cells.slope()
        inner = tuple(range(1, cells.parameters + 1))
        offset = cells.least(tilt).amin(inner)
        moving = [axis for axis in range(cells.parameters) if cells.slopes[axis] is not None]
        signs = tilt.new_tensor(
            [
                [1.0 if corner >> place & 1 else -1.0 for place in range(len(moving))]
                for corner in range(1 << len(moving))
            ]
        )
        along = torch.stack([tilt[:, axis] for axis in moving], 1) if moving else tilt[:, :0]
        boxes = offset[:, None] + torch.einsum("vm,bme->bve", signs, along)
        sides.append(boxes - UNITS * (offset.abs() + tilt.abs().sum(1))[:, None])
    return sides[0], torch.maximum(-sides[1], sides[0])
