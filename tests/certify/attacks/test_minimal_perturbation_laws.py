"""Laws of the minimum-norm attack: rescaled, repeated, with more steps, and with arguments that are refused."""

import math

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import problem
from oracles.models import Divide
from oracles.selection import some
from torch import nn

from bounds import InvalidInput
from certify import reference
from certify.attacks import minimal_perturbation

NORMS = [2, math.inf]


@pytest.mark.parametrize("norm", some(NORMS, [math.inf]))
def test_scaling_the_input_scales_the_distance(norm: float):
    model, x, y = problem((7,), 3, 7)
    near = minimal_perturbation(model, x, y, norm=norm, generator=generator())
    scaled = nn.Sequential(Divide(8), model)
    far = minimal_perturbation(scaled, 8 * x, y, norm=norm, high=8.0, generator=generator())
    torch.testing.assert_close(far.distance, 8 * near.distance, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_box_per_feature_freezes_what_it_pins():
    model, x, y = problem((7,), 3, 1)
    low, high = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    low[2] = high[2] = x[0, 2]
    witness = minimal_perturbation(model, x, y, norm=2, low=low, high=high)
    assert witness.found.all()
    assert (witness.adversarial[:, 2] == x[:, 2]).all()
    free = minimal_perturbation(model, x, y, norm=2)
    assert (witness.distance >= free.distance * (1 - 1e-6)).all()


@pytest.mark.parametrize("norm", some(NORMS, [math.inf]))
def test_a_box_in_double_precision_holds_for_inputs_in_single(norm: float):
    """Sides that float32 cannot hold are rounded inward: no witness leaves the box as it was stated."""
    model, x, y = problem((7,), 3, 4, torch.float32)
    low, high = torch.full((7,), 0.1, dtype=torch.float64), torch.full((7,), 0.9, dtype=torch.float64)
    witness = minimal_perturbation(model, x, y, norm=norm, low=low, high=high, generator=generator())
    assert witness.found.all()
    assert witness.adversarial.dtype == torch.float32
    assert ((witness.adversarial.double() >= low) & (witness.adversarial.double() <= high)).all()


@pytest.mark.slow
def test_the_same_generator_gives_the_same_witness():
    model, x, y = reference.load("pgd", 10)
    options = {"norm": 2, "steps": 10, "restarts": 3}
    seeds = (5, 5, 6)
    one, two, other = (minimal_perturbation(model, x, y, **options, generator=generator(seed)) for seed in seeds)
    assert torch.equal(one.adversarial, two.adversarial)
    assert not torch.equal(one.adversarial, other.adversarial)


@pytest.mark.slow
def test_more_steps_and_restarts_do_not_hurt_much_and_are_counted():
    model, x, y = reference.load("plain", 10)
    few = minimal_perturbation(model, x, y, norm=2, steps=10, restarts=1)
    many = minimal_perturbation(model, x, y, norm=2, steps=100, restarts=3)
    assert many.queries > few.queries > 10
    assert many.distance.mean() <= few.distance.mean()


def test_the_model_and_the_inputs_come_back_as_they_were():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    model[0].weight.requires_grad_(False)
    x = torch.rand(3, 4, generator=generator())
    before = x.clone()
    minimal_perturbation(model, x, torch.zeros(3, dtype=torch.long), norm=2, steps=3)
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(module.training for module in model.modules())
    assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True]
    assert all(weight.grad is None for weight in model.parameters())


def test_no_input_gives_an_empty_witness():
    model, x, y = problem((7,), 3, 2)
    witness = minimal_perturbation(model, x[:0], y[:0], norm=2)
    assert len(witness) == 0
    assert witness.adversarial.shape == (0, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": 3}, "norm must be 0, 1, 2 or math.inf, got 3"),
        ({"x": torch.full((1, 7), 2.0, dtype=torch.float64)}, "x must lie in the declared range"),
        ({"x": torch.full((1, 7), math.nan, dtype=torch.float64)}, "row 0 holds NaN"),
        ({"labels": torch.tensor([3])}, "labels must be class indices from 0 to 2, got 3"),
        ({"labels": torch.tensor([[1, 0, 0]])}, "pass class indices, not one-hot rows"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"restarts": 0}, "restarts must be an integer of at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    model, x, y = problem((7,), 3, 1)
    arguments = {"x": x, "labels": y, "norm": 2, **change}
    with pytest.raises(InvalidInput, match=message):
        minimal_perturbation(model, **arguments)
