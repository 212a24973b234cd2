"""Stated distances are upper bounds of the exact ones, in rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from certify import attacks
from certify.attacks.common.distances import distance
from certify.attacks.common.projections import pull_within


def at_least_exact(stated: float, points: Tensor, x: Tensor, norm: float) -> bool:
    """Whether a stated distance is at least the exact one: powers are compared, so that nothing is rounded."""
    sizes = [abs(Fraction(a) - Fraction(b)) for a, b in zip(points.tolist(), x.tolist(), strict=True)]
    if norm == 0:
        return Fraction(stated) >= sum(size != 0 for size in sizes)
    if norm == math.inf:
        return Fraction(stated) >= max(sizes)
    return Fraction(stated) ** int(norm) >= sum(size ** int(norm) for size in sizes)


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


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_what_is_pulled_within_a_radius_is_stated_within(norm: float):
    source = generator(4)
    x = torch.rand(40, 3000, generator=source)
    points = x + 0.1 * torch.randn(40, 3000, generator=source)
    radius = 0.3 * distance(points, x, norm)
    pulled = pull_within(points, x, radius, norm)
    assert (distance(pulled, x, norm) <= radius).all()
    assert (distance(pulled, x, norm) >= radius * (1 - 3e-6)).all()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_witnesses_and_universal_perturbations_state_upper_bounds(norm: float):
    model = torch.nn.Linear(50, 3).requires_grad_(False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 50, generator=generator()))
        model.bias.zero_()
    x = torch.rand(20, 50, generator=generator(1))
    y = model(x).argmax(1)
    witness = attacks.deepfool(model, x, y, norm=max(norm, 2)) if norm > 1 else attacks.sparsefool(model, x, y, norm=1)
    rows = witness.found.nonzero().squeeze(1).tolist()
    assert len(rows) > 10
    assert all(at_least_exact(float(witness.distance[i]), witness.adversarial[i], x[i], norm) for i in rows)
    found = attacks.universal_perturbation(model, x, norm=norm, epsilon=0.5, steps=3, restarts=1, generator=generator())
    assert at_least_exact(found.size, found.perturbation, torch.zeros(50), norm)
    assert found.size <= 0.5
