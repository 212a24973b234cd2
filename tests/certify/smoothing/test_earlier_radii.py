"""Earlier bounds against their published values, a second maximiser, and the radius that they cannot exceed."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from oracles.devices import elsewhere

from bounds import InvalidInput
from certify.smoothing.noises.base import Gaussian, Laplace
from certify.smoothing.noises.earlier_radii import lecuyer_laplace_radius, lecuyer_radius, li_radius

P = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64)


def lecuyer_negative(epsilon: float, a: float, b: float) -> float:
    delta = (a - math.exp(2 * epsilon) * b) / (1 + math.exp(epsilon))
    return -epsilon / math.sqrt(2 * math.log(1.25 / delta)) if delta > 0 else 0.0


def li_negative(log_excess: float, a: float, b: float) -> float:
    s = math.exp(log_excess)
    mean = math.exp(-(np.logaddexp(-s * math.log(a), -s * math.log(b)) - math.log(2)) / s)
    return -math.sqrt(max(0.0, -2 / (1 + s) * math.log(1 - a - b + 2 * mean)))


def test_published_values():
    """Sigma = 1 and two classes: four digits that others computed."""
    assert li_radius(P, 1 - P, 1.0).tolist() == pytest.approx([0.2022, 0.4191, 0.6742, 1.0319], abs=5e-5)
    assert lecuyer_radius(P, 1 - P, 1.0).tolist() == pytest.approx([0.0592, 0.1350, 0.2352, 0.3903], abs=5e-5)
    assert lecuyer_laplace_radius(P, 1 - P, 2.0).tolist() == pytest.approx([math.log(a / (1 - a)) for a in P.tolist()])


@pytest.mark.parametrize(
    ("bound", "negative", "bracket"),
    [(lecuyer_radius, lecuyer_negative, (1e-9, 1.0)), (li_radius, li_negative, (math.log(1e-2), math.log(200.0)))],
)
@pytest.mark.parametrize("a", [0.35, 0.55, 0.8, 0.99, 0.9999])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_largest_is_found_and_rounded_down(bound, negative, bracket, a: float, share: float):
    b = min(1 - a, a) * share
    grid = np.linspace(*bracket, 400)
    best = grid[np.argmin([negative(v, a, b) for v in grid])]
    step = grid[1] - grid[0]
    bounds = (max(best - step, bracket[0]), min(best + step, bracket[1]))
    refined = scipy.optimize.minimize_scalar(
        negative, bounds=bounds, args=(a, b), method="bounded", options={"xatol": 1e-10}
    )
    largest = -0.5 * min(refined.fun, negative(best, a, b))
    radius = bound(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64), 0.5).item()
    assert largest * (1 - 1e-4) <= radius <= largest * (1 + 1e-9)


def test_none_exceeds_the_radius_of_the_noise():
    a, b = torch.meshgrid(*[torch.linspace(0, 1, 41, dtype=torch.float64)] * 2, indexing="ij")
    gaussian, laplace = Gaussian(0.7).radius(a, b), Laplace(0.7).radius(a, b)
    for radius in (li_radius(a, b, 0.7), lecuyer_radius(a, b, 0.7)):
        assert (radius <= gaussian).all()
        assert (radius > 0).any()
    assert (lecuyer_laplace_radius(a, b, 0.7) <= laplace).all()
    assert (li_radius(a, b, 0.7)[a <= torch.minimum(b, 1 - a)] == 0).all()


def test_edges():
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for bound in (lecuyer_radius, li_radius, lecuyer_laplace_radius):
        assert 0 < bound(one, zero, 1.0) < math.inf
        assert bound(zero, zero, 1.0) == 0
        assert bound(0.5 * one, 0.5 * one, 1.0) == 0
        assert bound(one[:0], one[:0], 1.0).shape == (0,)
        for wrong in (math.nan, -0.1, 1.1):
            with pytest.raises(InvalidInput, match="p_lower must lie in"):
                bound(wrong * one, zero, 1.0)
            with pytest.raises(InvalidInput, match="p_upper must lie in"):
                bound(one, torch.full_like(one, wrong), 1.0)
        with pytest.raises(InvalidInput, match="must be a finite number above 0"):
            bound(one, zero, 0.0)
        with pytest.raises(InvalidInput, match="p_lower must be a torch tensor"):
            bound(0.9, zero, 1.0)


@pytest.mark.parametrize("bound", [lecuyer_radius, li_radius, lecuyer_laplace_radius])
def test_everything_follows_the_device(bound):
    expected = bound(P, 0.5 * (1 - P), 1.0)
    with elsewhere():
        assert torch.equal(bound(P, 0.5 * (1 - P), 1.0), expected)
