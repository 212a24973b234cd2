"""Stated distances are upper bounds of the exact ones, in rational arithmetic."""

import math

import pytest
import torch
from oracles.exact_distances import at_least_exact
from oracles.halfspace import generator

from bounds.sets.distances import distance


@pytest.mark.parametrize("norm", [0, 1, 2, 3, math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_stated_distance_is_at_least_the_exact_one(norm: float, dtype: torch.dtype):
    """And hardly longer. Differences of tiny and large entries are rounded by float64 itself."""
    source = generator(3)
    x = torch.rand(60, 37, generator=source, dtype=torch.float64)
    x[::3] *= 10 ** (20 * torch.rand(20, 37, generator=source, dtype=torch.float64) - 20)
    points = (x + 0.1 * torch.randn(60, 37, generator=source, dtype=torch.float64)).to(dtype)
    x = x.to(dtype)
    stated = distance(points, x, norm)
    assert all(at_least_exact(s, p, q, norm) for s, p, q in zip(stated.tolist(), points, x, strict=True))
    nearest = torch.linalg.vector_norm(points.double() - x.double(), norm, dim=1)
    assert (stated <= nearest * (1 + 3e-14)).all()


def test_one_entry_is_as_long_as_itself_and_extremes_stay_in_range():
    x = torch.zeros(4, 3, dtype=torch.float64)
    points = x.clone()
    points[0, 0], points[1, 0], points[2, :2] = 0.1, 1e-320, 1e-200
    points[3] = 1e200
    for norm in (1, 2, math.inf):
        stated = distance(points, x, norm)
        assert stated[:2].tolist() == [0.1, 1e-320]
        assert all(at_least_exact(s, p, q, norm) for s, p, q in zip(stated.tolist(), points, x, strict=True))
    torch.testing.assert_close(stated.new_tensor([2**0.5 * 1e-200]), distance(points, x, 2)[2:3], rtol=1e-13, atol=0)
