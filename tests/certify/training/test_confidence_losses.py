import math

import pytest
import torch
from oracles.halfspace import generator
from torch import nn

import bounds
from certify.training import acet_loss, good_loss


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def intervals(model: nn.Module, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Largest difference of two logits of each row by interval arithmetic, written out."""
    first, _, last = model
    center, radius = first(x), epsilon * first.weight.abs().sum(1).expand(len(x), -1)
    low, high = (center - radius).relu(), (center + radius).relu()
    center, radius = (low + high) / 2, (high - low) / 2
    found = []
    for j in range(3):
        for k in range(3):
            weight = last.weight[j] - last.weight[k]
            found.append(center @ weight + radius @ weight.abs() + last.bias[j] - last.bias[k])
    return torch.stack(found, 1).amax(1)


@pytest.mark.parametrize("quantile", [1.0, 0.5])
def test_good_by_its_formula(network: nn.Module, quantile: float):
    x = torch.rand(4, 6, generator=generator()) * 0.5 + 0.25
    largest = intervals(network, x, 0.1)
    if quantile < 1:
        kept = largest.argsort()[:2]
        logits = network(x)
        clean = (logits[:, :, None] - logits[:, None, :]).flatten(1).amax(1)
        largest = clean.index_put((kept,), largest[kept])
    expected = (largest**2 / 2 + 1).log().mean()
    found = good_loss(network, bounds.LpBall(x, 0.1), quantile=quantile)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    mine = torch.autograd.grad(found, network[0].weight)[0]
    torch.testing.assert_close(mine, torch.autograd.grad(expected, network[0].weight)[0], atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_training_with_good_lowers_the_proved_confidence(network: nn.Module):
    x = torch.rand(16, 6, generator=generator())
    network.requires_grad_()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    before = good_loss(network, bounds.LpBall(x, 0.1)).item()
    for _ in range(20):
        optimizer.zero_grad()
        good_loss(network, bounds.LpBall(x, 0.1)).backward()
        optimizer.step()
    assert good_loss(network, bounds.LpBall(x, 0.1)).item() < before / 2


def test_acet_of_two_classes_of_a_linear_model():
    torch.manual_seed(1)
    model = nn.Linear(5, 2).train()
    x = torch.rand(3, 5, generator=generator())
    loss = acet_loss(model, x, epsilon=0.1, low=None, high=None, steps=10, generator=generator())
    lead = model(x)[:, 0] - model(x)[:, 1]
    reach = 0.1 * (model.weight[0] - model.weight[1]).abs().sum()
    expected = nn.functional.logsigmoid(lead.abs() + reach).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    assert torch.autograd.grad(loss, model.weight)[0].abs().sum() > 0
    assert model.training


def test_bad_arguments_are_refused(network: nn.Module):
    ball = bounds.LpBall(torch.rand(2, 6), 0.1)
    for quantile in (0.0, 1.5, math.nan):
        with pytest.raises(bounds.InvalidInput, match="quantile"):
            good_loss(network, ball, quantile=quantile)
