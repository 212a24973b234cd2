"""Contrast and brightness in closed form: as high in the middle as any line below can be, and no wider than cells."""

import math

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds.transformations.affine import Entries, clipped_tubes
from bounds.transformations.cells import tubes
from bounds.transformations.motions import ParameterGrid
from bounds.transformations.pipelines import Pipeline
from bounds.transformations.pointwise import noisy
from bounds.transformations.sampling import SampledImages


def pixels() -> Tensor:
    x = 1.5 * torch.rand(1, 40, generator=generator(1), dtype=torch.float64) - 0.25
    return torch.cat([x.clamp(0, 1), torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64)], 1)


@pytest.mark.parametrize("noise", [0.0, 0.07])
def test_lines_are_as_high_in_the_middle_as_the_convex_hull(noise: float):
    """Brightness alone: the hull is that of a fine grid, the least of all chords across the middle."""
    x, one = pixels(), torch.ones(1, 1, dtype=torch.float64)
    u = Entries.of(x, (one, one), (-0.3 * one, 0.2 * one))
    zero, full = torch.zeros(x.shape[1], dtype=torch.float64), torch.ones(x.shape[1], dtype=torch.float64)
    lower, upper = (side.mean(1) for side in clipped_tubes(u, noise, zero, full, (1,)))
    t = torch.linspace(-1, 1, 401, dtype=torch.float64)[:, None]
    f = (x - 0.05 + 0.25 * t).clamp(0, 1)
    shares = t[200:] / (t[200:] - t[:201].mT).clamp(min=1e-9)  # of the left end of a chord, (right, left)
    chords = [(1 - shares[..., None]) * side[200:, None] + shares[..., None] * side[None, :201]
              for side in ((f - noise).clamp(min=0), -(f + noise).clamp(max=1))]  # fmt: skip
    below, above = chords[0].amin((0, 1)), -chords[1].amin((0, 1))
    assert torch.allclose(lower[0], below, atol=3e-3)
    assert torch.allclose(upper[0], above, atol=3e-3)


def test_closed_forms_are_no_wider_than_cells():
    x = pixels()
    images = SampledImages(x.view(1, 1, 1, -1), "zeros")
    low, high = torch.tensor([[0.7, -0.2]], dtype=torch.float64), torch.tensor([[1.4, 0.1]], dtype=torch.float64)
    grid = ParameterGrid(low, high, [6, 6])
    cells = Pipeline(contrast=0, brightness=1).cells(images, torch.tensor([0]), grid, 0.0, 1.0)
    sides = torch.zeros(x.shape[1], dtype=torch.float64), torch.ones(x.shape[1], dtype=torch.float64)
    wide = tubes(*noisy(cells, 0.02, *sides))
    u = Entries.of(x, (low[:, :1], high[:, :1]), (low[:, 1:], high[:, 1:]))
    narrow = clipped_tubes(u, 0.02, *sides, (0, 1))
    assert ((narrow[1] - narrow[0]).mean(1) <= (wide[1] - wide[0]).mean(1) + 1e-9).all()
    assert (narrow[1] >= narrow[0]).all()


def test_without_limits_entries_are_exact():
    x = pixels() * math.pi
    one = torch.ones(1, 1, dtype=torch.float64)
    lower, upper = clipped_tubes(Entries.of(x, (0.5 * one, 2 * one), (-one, one)), 0.0, None, None, (0, 1))
    corners = torch.stack([c * x[0] + b for b in (-1, 1) for c in (0.5, 2)])
    assert ((lower[0] <= corners) & (corners <= upper[0])).all()
    assert float((upper - lower).max()) < 1e-12
