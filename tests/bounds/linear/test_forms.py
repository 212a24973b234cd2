import itertools
import math

import pytest
import torch
from oracles.halfspace import generator
from torch import nn

import bounds
from bounds.linear.forms import margin_forms
from bounds.rows import label_margins


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "deep":
        layers = [part for _ in range(9) for part in (nn.Linear(6, 6), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(6, 3)).eval()
    return nn.Sequential(nn.Linear(6, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


BALLS = {
    "linf": lambda x: bounds.LpBall(x, 0.1, math.inf),
    "l2": lambda x: bounds.LpBall(x, 0.2, 2, None, None),
    "l1 in a box": lambda x: bounds.LpBall(x, 0.4, 1),
    "two entries": lambda x: bounds.SparseBall(x, 2),
    "hull of boxes": lambda x: bounds.HullOfBoxes(*corners(x), 0.01),
}


def corners(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sides of three boxes for each of N inputs, far from the corners of their hull."""
    lower = x.unsqueeze(1) + 0.3 * torch.randn(len(x), 3, 6, generator=generator(3)).double()
    return lower, lower + 0.02


def inside(name: str, x: torch.Tensor, count: int) -> torch.Tensor:
    """Points of a ball, its border among them, (count, N, 6)."""
    noise = 2 * torch.rand(count, *x.shape, generator=generator(2)).double() - 1
    if name == "linf":
        return (x + 0.1 * noise).clamp(0, 1)
    if name == "l2":
        return x + 0.2 * noise / noise.norm(dim=-1, keepdim=True)
    if name == "hull of boxes":
        share = torch.rand(count, len(x), 3, 1, generator=generator(4)).double()
        share[: count // 3] = torch.eye(3).double()[torch.arange(count // 3) % 3, None, :, None]
        mixed = (share / share.sum(2, keepdim=True) * corners(x)[0]).sum(2)
        return mixed + 0.02 * (noise > 0) + 0.01 * noise
    if name == "l1 in a box":
        return (x + 0.4 * noise / noise.abs().sum(-1, keepdim=True)).clamp(0, 1)
    return torch.where(noise.abs().argsort(-1).argsort(-1) < 2, (noise + 1) / 2, x)


@pytest.mark.parametrize("kind", ["smooth", pytest.param("deep", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", BALLS)
def test_forms_lie_below_and_have_the_bounds_of_the_method(kind: str, name: str):
    model = network(kind).double()
    x = torch.rand(4, 6, generator=generator()).double()
    rows = torch.randn(4, 5, 3, generator=generator(1)).double()
    form = bounds.linear_forms(model, BALLS[name](x), rows)
    points = inside(name, x, 400)
    values = torch.einsum("nrk,snk->snr", rows, model(points.flatten(0, 1)).unflatten(0, points.shape[:2]))
    below = torch.einsum("nrd,snd->snr", form.slope, points) + form.constant
    assert (below <= values + 1e-12).all()
    logits = torch.eye(3).double().expand(4, 3, 3)
    own = bounds.linear_forms(model, BALLS[name](x), logits)
    least = bounds.linear_minimum(own.slope, BALLS[name](x)) + own.constant
    crown = bounds.crown(model, BALLS[name](x)).lower  # the best of these and of cheaper bounds
    assert (least <= crown + 1e-9).all()
    assert (least >= crown - 0.2).all()


def test_forms_of_a_linear_network_are_itself():
    torch.manual_seed(3)
    layer = nn.Linear(6, 3)
    form = bounds.linear_forms(layer, bounds.LpBall(torch.rand(2, 6), 0.3), torch.eye(3).expand(2, 3, 3), "crown_ibp")
    torch.testing.assert_close(form.slope, layer.weight.detach().double().expand(2, 3, 6), atol=1e-12, rtol=0)
    torch.testing.assert_close(form.constant, layer.bias.detach().double().expand(2, 3), atol=1e-9, rtol=0)
    assert (form.constant <= layer.bias.detach().double()).all()


class Steeper(nn.Module):
    """A network without weights, three times as steep in float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3.0 * x if x.dtype == torch.float64 else x


def test_a_network_without_weights_is_that_of_the_dtype_of_its_set():
    rows = torch.eye(2)[None]
    slope, constant = bounds.linear_forms(Steeper(), bounds.LpBall(torch.tensor([[0.5, 0.25]]), 0.1), rows)
    torch.testing.assert_close(slope, rows.double())
    torch.testing.assert_close(constant, torch.zeros(1, 2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_bad_arguments_are_refused():
    ball = bounds.LpBall(torch.rand(2, 6), 0.1)
    with pytest.raises(bounds.InvalidInput, match="method must be"):
        bounds.linear_forms(network("deep"), ball, torch.eye(3).expand(2, 3, 3), "ibp")
    with pytest.raises(bounds.InvalidInput, match="rows must have shape"):
        bounds.linear_forms(network("deep"), ball, torch.eye(3))


@pytest.mark.parametrize("radius", [0.0, 0.2])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_forms_hold_where_entries_move_together(norm: float, radius: float):
    """The corner of the box around such a set lies below all of its points: a constant measured there is too large."""
    lower = torch.rand(2, 3, 5, generator=generator(1), dtype=torch.float64)
    region = bounds.HullOfBoxes(lower, lower + 0.05, radius, norm)
    model, rows = nn.Linear(5, 3).double(), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    forms = bounds.linear_forms(model, region, rows, "crown")
    exact = model.bias.detach() + torch.zeros(2, 1, dtype=torch.float64)
    assert (forms.constant <= exact).all()
    assert torch.allclose(forms.constant, exact, atol=1e-6)


def of_all(*quick: tuple[str, str, int]) -> list[object]:
    """Sets, methods and memory in all combinations; all but some are slow."""
    every = itertools.product(("linf", "l1 in a box"), ("crown_ibp", "fast_lin", "crown"), (1, 2**30))
    return [one if one in quick else pytest.param(*one, marks=pytest.mark.slow) for one in every]


@pytest.mark.parametrize(("name", "method", "memory"), of_all(("linf", "crown", 2**30), ("l1 in a box", "fast_lin", 1)))
def test_one_climb_finds_the_margins_and_the_forms_of_the_inputs_that_they_leave_open(
    name: str, method: str, memory: int
):
    model, x = network("smooth").double(), torch.rand(6, 6, generator=generator(5)).double()
    labels = model(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # open for certain
    found = margin_forms(model, BALLS[name](x), labels, method, memory=memory)
    margins = bounds.margin_bounds(model, BALLS[name](x), labels, method)
    torch.testing.assert_close(found.margins, margins, atol=1e-12, rtol=0)
    assert torch.equal(found.open, (margins <= 0).sum(1) > 1)
    assert found.open.any()
    assert not found.open.all()
    rows = label_margins(x.new_zeros(6, 3), labels)
    whole = bounds.linear_forms(model, BALLS[name](x), rows, method)
    torch.testing.assert_close(found.slope, whole.slope[found.open], atol=1e-12, rtol=0)
    torch.testing.assert_close(found.constant, whole.constant[found.open], atol=1e-12, rtol=0)
    none = margin_forms(model, bounds.LpBall(x[1:2], 0.0), labels[1:2], method)
    assert none.slope.shape == (0, 3, 6)
