"""Distances that attacks state, against the exact ones."""

import math

import pytest
import torch
from oracles.exact_distances import at_least_exact
from oracles.halfspace import generator

from bounds.sets.distances import distance
from certify import attacks
from certify.attacks.common.projections import pull_within


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
