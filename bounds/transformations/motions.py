"""Images sampled by a motion over boxes of its parameters, cut into cells."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bounds.transformations.cells import UNITS, Cells
from bounds.transformations.maps import Maps, Motion
from bounds.transformations.sampling import SampledImages

Moving = Callable[[Tensor, Tensor], Motion]  # of boxes (.., k) of the parameters of a motion


class ParameterGrid:
    """Boxes of parameters, each cut into cells along the parameters that vary.

    Args:
        lower: (B, k) in float64.
        upper: likewise.
        counts: cells along each parameter; 0 for one that does not vary in any of the boxes.
    """

    def __init__(self, lower: Tensor, upper: Tensor, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        self.half = (upper - lower) / 2
        self._steps = []
        for axis, count in enumerate(counts):
            low, high = lower[:, axis, None], upper[:, axis, None]
            share = torch.linspace(0, 1, count + 1, dtype=lower.dtype, device=lower.device)
            self._steps.append(torch.lerp(low, high, share) if count else low)

    def corners(self, axis: int, parameters: int) -> Tensor:
        """A parameter at the corners of cells, (B, 1, .., G, .., 1), to be combined with those of other parameters."""
        return self._shaped(self._steps[axis], axis, parameters)

    def cells(self, axis: int, parameters: int) -> tuple[Tensor, Tensor]:
        """Least and largest values of a parameter in cells, likewise."""
        steps = self._steps[axis]
        low, high = (steps, steps) if steps.shape[1] == 1 else (steps[:, :-1], steps[:, 1:])
        return self._shaped(low, axis, parameters), self._shaped(high, axis, parameters)

    def _shaped(self, x: Tensor, axis: int, parameters: int) -> Tensor:
        shape = [len(x), *[1] * parameters]
        shape[axis + 1] = x.shape[1]
        return x.view(shape)


def sampled(
    images: SampledImages,
    rows: Tensor,
    grid: ParameterGrid,
    moving: Moving,
    places: Sequence[int],
    *,
    slopes: bool = True,
) -> Cells:
    """Images (N, C, H, W) as they are sampled by a motion, for boxes of its parameters.

    Args:
        images: as above.
        rows: (B,), which image each box is for.
        grid: of all parameters.
        moving: the motion, of those parameters that are its own.
        places: of these among all parameters.
        slopes: whether to find the slopes too.
    """
    total = len(grid.counts)
    at = _stacked([grid.corners(axis, total) for axis in places])
    x, y, off = places_of(moving(at, at).value, images.shape)
    values = images.values(rows, x, y)  # (B, C, G.., H W)
    error = off.flatten(1).amax(1) * images.steepest[rows] + UNITS * images.padded.abs().amax()
    found: list[Tensor | None] = [None] * total
    spreads: list[Tensor | None] = [None] * total
    if not slopes:
        return Cells(_last(values), tuple(found), tuple(spreads), error[:, None])
    ends = [_stacked([grid.cells(axis, total)[side] for axis in places]) for side in (0, 1)]
    motion = moving(*ends)
    x, y, off = places_of(motion.value, images.shape)
    differences = images.differences(rows, (x - off, x + off), (y - off, y + off))
    for axis, change in zip(places, motion.slopes, strict=True):
        if grid.counts[axis]:
            half = grid.half[:, axis].view(-1, *[1] * (change.center.ndim - 1))
            speed = Maps(change.center * half, change.radius * half)
            found[axis], spreads[axis] = (_last(part) for part in _rates(differences, speed, images.shape))
    return Cells(_last(values), tuple(found), tuple(spreads), error[:, None])


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*parts), -1)


def _last(x: Tensor) -> Tensor:
    """(B, C, S.., P) as (B, S.., C P)."""
    return x.movedim(1, -2).flatten(-2)


def _pixels(shape: torch.Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """Places of pixels from the centre of the image, (H W,) each."""
    tall, wide = shape[2:]
    y = torch.arange(tall, dtype=like.dtype, device=like.device) - (tall - 1) / 2
    x = torch.arange(wide, dtype=like.dtype, device=like.device) - (wide - 1) / 2
    return x.repeat(tall), y.repeat_interleave(wide)


def _moved(maps: Maps, x: Tensor, y: Tensor, row: int) -> tuple[Tensor, Tensor]:
    """One coordinate of pixels under maps (.., 3, 3), (.., H W), and how far it may be off."""
    (a, b, c), (p, q, r) = (part[..., row, :, None].unbind(-2) for part in maps)
    return a * x + b * y + c, p * x.abs() + q * y.abs() + r


def places_of(maps: Maps, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Places at which the image is sampled, in pixels from the first one, and how far both coordinates may be off."""
    x, y = _pixels(shape, maps.center)
    (to_x, off_x), (to_y, off_y) = (_moved(maps, x, y, row) for row in (0, 1))
    size = max(shape[2:])
    off = torch.maximum(off_x, off_y)
    off = off + UNITS * (size + to_x.abs() + to_y.abs() + off)
    return to_x + (shape[3] - 1) / 2, to_y + (shape[2] - 1) / 2, off


def _rates(differences: Tensor, speed: Maps, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Rates of change of pixels over cells (B, C, T.., H W): the slopes of the image times the speed of the place."""
    x, y = _pixels(shape, speed.center)
    across, across_off, down, down_off = differences.unbind(-1)
    rates, spreads = torch.zeros_like(across), torch.zeros_like(across)
    for row, slope, off in ((0, across, across_off), (1, down, down_off)):
        pace, pace_off = (part[:, None] for part in _moved(speed, x, y, row))
        rates = rates + slope * pace
        spreads = spreads + off * (pace.abs() + pace_off) + slope.abs() * pace_off + UNITS * (slope * pace).abs()
    return rates, spreads
