"""Hulls of boxes: minima in closed form, and the bounds of networks over them against many points."""

import math
from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.errors import InvalidInput


def boxes(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    lower = torch.rand(*shape, generator=generator(1), dtype=dtype)
    return lower, lower + 0.2 * torch.rand(*shape, generator=generator(2), dtype=dtype)


def corners_of(lower: Tensor, upper: Tensor) -> Tensor:
    """All corners of all boxes of one input, (M, F)."""
    choices = torch.cartesian_prod(*[torch.tensor([False, True])] * lower.shape[1])
    return torch.cat([torch.where(choices, high, low) for low, high in zip(lower, upper, strict=True)])


@pytest.mark.parametrize("joint", [False, True])
def test_a_linear_function_is_least_at_a_corner_of_a_box(joint: bool):
    lower, upper = boxes(3, 4, 5)
    a = torch.randn(3, 6, 5, generator=generator(3), dtype=torch.float64)
    found = bounds.linear_minimum(-a if joint else a, bounds.HullOfBoxes(lower, upper))
    for row in range(3):
        exact = ((-a if joint else a)[row] @ corners_of(lower[row], upper[row]).T).amin(1)
        assert (found[row] <= exact).all()
        assert torch.allclose(found[row], exact, rtol=1e-12)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, math.inf])
def test_a_radius_takes_the_dual_norm_away(norm: float):
    lower, upper = boxes(2, 3, 5)
    a = torch.randn(2, 4, 5, generator=generator(3), dtype=torch.float64)
    plain = bounds.linear_minimum(a, bounds.HullOfBoxes(lower, upper))
    found = bounds.linear_minimum(a, bounds.HullOfBoxes(lower, upper, 0.3, norm))
    dual = {1.0: math.inf, 2.0: 2.0, 3.0: 1.5, math.inf: 1.0}[norm]
    exact = plain - 0.3 * torch.linalg.vector_norm(a, dual, dim=2)
    assert (found <= exact).all()
    assert torch.allclose(found, exact, rtol=1e-9)


def test_the_minimum_is_below_that_in_exact_arithmetic():
    lower, upper = boxes(1, 3, 200, dtype=torch.float32)
    a = torch.randn(1, 20, 200, generator=generator(4)) * 1000
    found = bounds.linear_minimum(a, bounds.HullOfBoxes(lower, upper))[0].tolist()
    for row, least in zip(a[0].tolist(), found, strict=True):
        exact = min(
            sum(Fraction(c) * Fraction(low if c > 0 else high) for c, low, high in zip(row, *sides, strict=True))
            for sides in zip(lower[0].tolist(), upper[0].tolist(), strict=True)
        )
        assert Fraction(least) <= exact


def test_rounding_of_sums_that_cancel_is_taken_away():
    """Entries come in pairs that cancel, in exact arithmetic."""
    half = torch.rand(1, 1, 100, generator=generator(1))
    ends = torch.cat([half, half.flip(2)], 2)
    a = torch.randn(1, 200, 100, generator=generator(4)) * 1000
    found = bounds.linear_minimum(torch.cat([a, -a.flip(2)], 2), bounds.HullOfBoxes(ends, ends))
    assert (found <= 0).all()
    assert (found >= -20).all()  # of sums of 50,000


NETWORKS = {
    "windows": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(4),
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(84, 9), nn.Tanh(), nn.Linear(9, 4)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(84, 4)),
}


CASES = [("linear", "crown"), ("dense", "alpha_crown"), ("windows", "crown_ibp")]
SLOW = [(kind, method) for kind in NETWORKS for method in ("ibp", "fast_lin", "crown", "alpha_crown")]


@pytest.mark.parametrize(("kind", "method"), [*CASES, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_no_point_of_the_set_is_below_the_margins(kind: str, method: str):
    torch.manual_seed(0)
    model = NETWORKS[kind]().double()
    lower, upper = boxes(2, 4, 2, 6, 7)
    lower[:, 1:] = lower[:, :1] + 0.1 * (lower[:, 1:] - 0.5)  # boxes near each other
    upper = lower + 0.02
    model(lower[:, 0])
    region, labels = bounds.HullOfBoxes(lower, upper, 0.01, 2), torch.tensor([1, 2])
    margins = bounds.margin_bounds(model, region, labels, method, steps=3)
    share = torch.rand(200, 2, 4, 1, 1, 1, generator=generator(5), dtype=torch.float64) ** 4
    share = share / share.sum(2, keepdim=True)
    points = (share * torch.where(torch.rand(200, 2, 4, 2, 6, 7, generator=generator(6)) < 0.5, lower, upper)).sum(2)
    step = torch.randn(points.shape, generator=generator(7), dtype=torch.float64)
    points = points + 0.01 * step / step.flatten(2).norm(dim=2)[..., None, None, None]
    with torch.no_grad():
        logits = model(points.flatten(0, 1)).view(200, 2, 4)
    reached = (logits.gather(2, labels.expand(200, 2)[..., None]) - logits).amin(0)
    assert (margins <= reached).all()
    if kind == "linear" and method != "ibp":  # exact up to rounding
        weight = model[1].weight.detach()
        rows = weight[labels][:, None] - weight
        least = bounds.linear_minimum(rows.view(2, 4, 2, 6, 7), region)
        least = least + (model[1].bias[labels][:, None] - model[1].bias).detach()
        assert torch.allclose(margins, least.scatter(1, labels[:, None], 0.0), atol=1e-10)


def test_entries_that_move_together_count():
    """The difference of x and y = x is 0 over the hull, and anything over the box around it."""
    ends = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    found = bounds.crown(model, bounds.HullOfBoxes(ends, ends))
    assert found.upper.abs().max() < 1e-12
    assert bounds.crown(model, bounds.HullOfBoxes(ends, ends, 0.1)).upper.max() == pytest.approx(0.2)


def test_sides_are_checked():
    lower, upper = boxes(1, 2, 3)
    for wrong in ((upper, lower), (lower, upper.float()), (lower[:, 0], upper[:, 0])):
        with pytest.raises(InvalidInput):
            bounds.HullOfBoxes(*wrong)
    with pytest.raises(InvalidInput, match="radius"):
        bounds.HullOfBoxes(lower, upper, -1.0)
