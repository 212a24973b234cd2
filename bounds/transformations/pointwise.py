"""Functions of each entry of an image alone, over cells: an offset, a factor, a power, the range of pixels."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bounds.checks import Limit
from bounds.transformations.cells import UNITS, Cells
from bounds.transformations.motions import ParameterGrid


class Along:
    """One parameter over the cells of some functions: its values at corners (.., 1), and its range in cells."""

    def __init__(self, grid: ParameterGrid, axis: int) -> None:
        total = len(grid.counts)
        self.axis = axis
        self.varies = grid.counts[axis] > 0
        self.corners = grid.corners(axis, total).unsqueeze(-1)
        self.low, self.high = (end.unsqueeze(-1) for end in grid.cells(axis, total))
        self.half = grid.half[:, axis].view(-1, *[1] * (total + 1))

    def added(self, cells: Cells, low: Tensor, high: Tensor) -> Cells:
        """The functions with their derivatives with respect to this parameter, which lie between two numbers."""
        if not self.varies:
            return cells
        slope, spread = (low + high) / 2 * self.half, (high - low) / 2 * self.half
        spread = spread + UNITS * (slope.abs() + spread)
        return replace(
            cells, slopes=_put(cells.slopes, self.axis, slope), spreads=_put(cells.spreads, self.axis, spread)
        )


def _put(parts: Sequence[Tensor | None], axis: int, part: Tensor) -> tuple[Tensor | None, ...]:
    return (*parts[:axis], part, *parts[axis + 1 :])


def ranges(cells: Cells) -> tuple[Tensor, Tensor]:
    """Least and largest values of the functions over cells."""
    return cells.least(), -cells.opposite().least()


def chained(cells: Cells, low: Tensor, high: Tensor) -> Cells:
    """The functions with their slopes times numbers between two of at least 0."""
    middle, radius = (low + high) / 2, (high - low) / 2
    slopes: list[Tensor | None] = []
    spreads: list[Tensor | None] = []
    for slope, spread in zip(cells.slopes, cells.spreads, strict=True):
        if slope is None or spread is None:
            slopes.append(None)
            spreads.append(None)
            continue
        slopes.append(slope * middle)
        wider = spread * (middle + radius) + slope.abs() * radius
        spreads.append(wider + UNITS * (wider + slope.abs() * middle))
    return replace(cells, slopes=tuple(slopes), spreads=tuple(spreads))


def brightened(cells: Cells, along: Along) -> Cells:
    """A parameter added to all entries."""
    least, most = ranges(cells)
    values = cells.values + along.corners
    error = cells.error + UNITS * (values.abs().amax() + along.corners.abs().amax())
    slack = error.view(-1, *[1] * (least.ndim - 1))
    found = replace(
        cells, values=values, error=error, floor=least + along.low - slack, ceiling=most + along.high + slack
    )
    one = torch.ones_like(least + along.low)
    return along.added(found, one, one)


def contrasted(cells: Cells, along: Along) -> Cells:
    """All entries times a parameter of at least 0."""
    least, most = ranges(cells)
    found = chained(cells, along.low, along.high)
    size = along.corners.amax()
    error = cells.error * size + UNITS * (cells.values.abs().amax() * size)
    slack = error.view(-1, *[1] * (least.ndim - 1))
    floor = torch.minimum(least * along.low, least * along.high) - slack
    ceiling = torch.maximum(most * along.low, most * along.high) + slack
    found = replace(found, values=cells.values * along.corners, error=error, floor=floor, ceiling=ceiling)
    return along.added(found, least + 0 * along.low, most + 0 * along.low)


def gamma_corrected(cells: Cells, along: Along) -> Cells:
    """All entries, which are at least 0, to the power of a parameter above 0."""
    least, most = (end.clamp(min=0) for end in ranges(cells))
    base, powers = cells.values.clamp(min=0), (along.low, along.high)
    corners = torch.stack(torch.broadcast_tensors(*[end.pow(p - 1) for p in powers for end in (least, most)]))
    found = chained(cells, along.low * corners.amin(0), along.high * corners.amax(0))
    # |x^p - y^p| is at most |x - y|^p for p up to 1, and the slope times |x - y| above.
    largest = base.amax().clamp(min=1)
    error = cells.error.pow(along.corners.amin().clamp(max=1)) + cells.error * along.corners.amax() * largest.pow(
        along.corners.amax()
    )
    error = error + UNITS * (1 + along.corners.amax()) * largest.pow(along.corners.amax())
    slack = error.view(-1, *[1] * (least.ndim - 1))
    floor = torch.minimum(least.pow(along.low), least.pow(along.high)) - slack
    ceiling = torch.maximum(most.pow(along.low), most.pow(along.high)) + slack
    found = replace(found, values=base.pow(along.corners), error=error, floor=floor, ceiling=ceiling)
    # x^p log x grows with p; with x it falls down to exp(-1 / p), and grows from there.
    turn = torch.minimum(torch.maximum(torch.exp(-1 / along.low), least), most)
    low = _power_log(turn, along.low)
    high = torch.maximum(_power_log(least, along.high), _power_log(most, along.high))
    unit = UNITS * (1 + low.abs() + high.abs())
    return along.added(found, low - unit, high + unit)


def _power_log(x: Tensor, power: Tensor) -> Tensor:
    return torch.where(x > 0, x.pow(power) * x.clamp(min=torch.finfo(x.dtype).tiny).log(), 0.0)


def clipped(cells: Cells, low: Tensor | None, high: Tensor | None) -> Cells:
    """All entries moved into the range of pixels, whose sides have the shape (E,)."""
    if low is None and high is None:
        return cells
    least, most = ranges(cells)
    below = least < low if low is not None else torch.zeros_like(least, dtype=torch.bool)
    above = most > high if high is not None else torch.zeros_like(most, dtype=torch.bool)
    gone = torch.zeros_like(below)
    if low is not None:
        gone = gone | (most <= low)
    if high is not None:
        gone = gone | (least >= high)
    found = chained(cells, (~(below | above)).to(least.dtype), (~gone).to(least.dtype))
    return replace(
        found,
        values=cells.values.clamp(low, high),
        floor=least.clamp(low, high),
        ceiling=most.clamp(low, high),
    )


def noisy(cells: Cells, radius: float, low: Tensor | None, high: Tensor | None) -> tuple[Cells, Cells]:
    """The functions less and plus a number, within the range of pixels: what noise in l-infinity can make of them."""
    if radius == 0:
        return cells, cells
    error = cells.error + UNITS * (cells.values.abs().amax() + radius)
    sides = []
    for shift in (-radius, radius):
        floor = None if cells.floor is None else cells.floor + shift - error.view(-1, *[1] * (cells.floor.ndim - 1))
        ceiling = (
            None if cells.ceiling is None else cells.ceiling + shift + error.view(-1, *[1] * (cells.values.ndim - 1))
        )
        moved = replace(cells, values=cells.values + shift, error=error, floor=floor, ceiling=ceiling)
        sides.append(clipped(moved, low, high))
    return sides[0], sides[1]


def side_of(limit: Limit, shape: torch.Size, like: Tensor) -> Tensor | None:
    """A side of the range of pixels, one number for each entry of an image, (E,)."""
    if limit is None:
        return None
    return torch.as_tensor(limit, dtype=like.dtype, device=like.device).expand(shape).reshape(-1)
