import math

import pytest
import torch
from oracles.halfspace import generator
from torch import nn

import bounds


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 4)).eval()


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown"])
@pytest.mark.slow
def test_rows_of_a_class_are_its_margins(network: nn.Module, method: str):
    x = torch.rand(3, 6, generator=generator())
    ball = bounds.LpBall(x, 0.05, math.inf)
    pairs = bounds.pairwise_margins(network, ball, method, steps=5)
    for label in range(4):
        alone = bounds.margin_bounds(network, ball, torch.full((3,), label), method, steps=5)
        # The ascent of alpha-CROWN ends at other times.
        torch.testing.assert_close(pairs[:, label], alone, atol=1e-2 if method == "alpha_crown" else 1e-6, rtol=0)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_differences_of_a_linear_network_are_exact(norm: float):
    torch.manual_seed(1)
    layer = nn.Linear(5, 3).double()
    x = torch.rand(2, 5, generator=generator()).double()
    found = bounds.pairwise_margins(layer, bounds.LpBall(x, 0.1, norm, None, None), "crown")
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    weight, logits = layer.weight.detach(), layer(x).detach()
    for j in range(3):
        for k in range(3):
            least = logits[:, j] - logits[:, k] - 0.1 * torch.linalg.vector_norm(weight[j] - weight[k], dual)
            torch.testing.assert_close(found[:, j, k], least, atol=1e-12, rtol=0)


def test_no_point_lies_below(network: nn.Module):
    x = torch.rand(2, 6, generator=generator())
    least = bounds.pairwise_margins(network, bounds.LpBall(x, 0.2, math.inf), "crown")
    points = (x + 0.4 * (torch.rand(500, 2, 6, generator=generator(1)) - 0.5)).clamp(0, 1)
    logits = network(points.flatten(0, 1)).unflatten(0, (500, 2))
    assert (logits[..., :, None] - logits[..., None, :] >= least).all()


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_gradients_reach_the_weights(network: nn.Module, method: str):
    x = torch.rand(2, 6, generator=generator())
    network.requires_grad_()
    bounds.pairwise_margins(network, bounds.LpBall(x, 0.1, math.inf), method, sound="real").sum().backward()
    assert all(weight.grad.abs().sum() > 0 for name, weight in network.named_parameters() if "4.bias" not in name)


def test_a_bad_method_is_refused(network: nn.Module):
    with pytest.raises(bounds.InvalidInput, match="method must be"):
        bounds.pairwise_margins(network, bounds.LpBall(torch.rand(1, 6), 0.1), "deepest")
