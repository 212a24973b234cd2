"""Values that an input can hold: attacks compute in float32 or float64, but show the model what it will be given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.numerics import per_row
from bounds.sets.distances import distance


@dataclass(frozen=True)
class Format:
    """The dtype of the inputs, and the steps 1 / ``grid`` on which adversarial inputs lie, anywhere if None."""

    dtype: torch.dtype
    grid: int | None = None

    @property
    def working(self) -> torch.dtype:
        """The dtype in which attacks compute: float32, or float64 for inputs in float64."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def free(self) -> bool:
        """Whether every point that an attack computes is an input as it stands."""
        return self.dtype == self.working and self.grid is None

    def nearest(self, points: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The nearest inputs of the box in the working dtype, (N, *D); entries equal to those of ``x`` stay."""
        if self.free:
            return points
        if self.grid is None:
            return points.to(self.dtype).to(points.dtype)
        grid, step = self.grid, (points.double() * self.grid).round()

        def held(step: Tensor) -> Tensor:
            return (step / grid).to(self.dtype).to(points.dtype)

        value = held(step)
        value = torch.where(value < low, held(step + 1), value)
        value = torch.where(value > high, held(step - 1), value)
        return torch.where((points == x) | (value < low) | (value > high), x, value)

    def within(self, points: Tensor, x: Tensor, radius: Tensor, norm: float) -> Tensor:
        """Inputs next to the points, within the radius (N,) of ``x`` wherever the points are, (N, *D)."""
        if self.free:
            return points
        rounded = points.to(self.dtype).to(points.dtype)
        step = 0.75 * torch.finfo(self.dtype).eps * rounded.abs()  # between half and one and a half steps
        back = (rounded - step * (rounded - x).sign()).to(self.dtype).to(points.dtype)
        back = back.clamp(torch.minimum(x, rounded), torch.maximum(x, rounded))
        nearer = torch.where((rounded - x).abs() > (points - x).abs(), back, rounded)
        nearer = torch.where((nearer - x).abs() > (points - x).abs(), x, nearer)
        return torch.where(per_row(distance(rounded, x, norm) > radius, points), nearer, rounded)


def checked_grid(grid: int | None) -> int | None:
    """The number of steps from 0 to 1, or None."""
    return None if grid is None else checks.at_least("grid", grid, 1)
