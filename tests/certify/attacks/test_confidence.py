import math

import pytest
import torch
from oracles.halfspace import generator
from torch import nn

from bounds import InvalidInput
from certify.attacks import highest_confidence


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_two_classes_of_a_linear_model_in_closed_form(norm: float):
    torch.manual_seed(0)
    model = nn.Linear(6, 2).double()
    x = torch.rand(4, 6, generator=generator()).double()
    found = highest_confidence(model, x, norm=norm, epsilon=0.2, low=None, high=None, steps=40, generator=generator())
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    lead = (model(x)[:, 0] - model(x)[:, 1]).abs().detach()
    best = (lead + 0.2 * torch.linalg.vector_norm(model.weight[0] - model.weight[1], dual).detach()).sigmoid()
    assert (found.confidence <= best + 1e-9).all()
    torch.testing.assert_close(found.confidence, best, atol=2e-3, rtol=0)
    assert (found.distance <= 0.2).all()
    assert (found.clean < found.confidence).all()


def test_another_class_than_the_leading_one_is_tried():
    """The class that leads at the input gains little; one that is far behind there gains much."""

    class Ramp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            zero = torch.zeros_like(x[:, 0])
            return torch.stack([zero + 2 - 0.1 * x[:, 0], zero, 60 * (x[:, 0] - 0.45)], 1)

    x = torch.tensor([[0.4, 0.5]])
    budget = {"norm": math.inf, "epsilon": 0.25, "restarts": 1, "generator": generator()}
    alone = highest_confidence(Ramp(), x, targets=0, **budget)
    aimed = highest_confidence(Ramp(), x, targets=3, **budget)
    assert alone.label.item() == 0
    assert aimed.label.item() == 2
    assert aimed.confidence > 0.99 > alone.confidence


def test_what_is_stated_is_what_the_model_says():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.rand(5, 6, generator=generator())
    mask = torch.arange(6) < 2
    found = highest_confidence(
        model, x, norm=2, epsilon=torch.linspace(0, 0.5, 5), frozen_features=mask, steps=20, generator=generator()
    )
    logits = model(found.adversarial).double().detach()
    torch.testing.assert_close(found.confidence, logits.softmax(1).amax(1), atol=0, rtol=0)
    assert found.label.tolist() == logits.argmax(1).tolist()
    assert (found.distance <= found.epsilon).all()
    assert (found.adversarial[:, mask] == x[:, mask]).all()
    assert ((found.adversarial >= 0) & (found.adversarial <= 1)).all()
    assert found.distance[0] == 0
    assert (found.confidence[1:] > found.clean[1:]).all()


def test_a_row_does_not_depend_on_its_batch():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x = torch.rand(4, 6, generator=generator()).double()
    options = {"norm": math.inf, "epsilon": 0.1, "steps": 10}
    whole = highest_confidence(model, x, generator=generator(), **options)
    parts = highest_confidence(model, x, generator=generator(), batch_size=2, **options)
    torch.testing.assert_close(whole.adversarial, parts.adversarial, atol=1e-12, rtol=0)


def test_bad_arguments_are_refused():
    model, x = nn.Linear(6, 2), torch.rand(2, 6)
    with pytest.raises(InvalidInput, match="restarts must be an integer"):
        highest_confidence(model, x, norm=2, epsilon=0.1, restarts=0)
    with pytest.raises(InvalidInput, match="norm must be"):
        highest_confidence(model, x, norm=3, epsilon=0.1)
    with pytest.raises(InvalidInput, match="at least one input"):
        highest_confidence(model, x[:0], norm=2, epsilon=0.1)
