"""Every public call follows the device of its input: see oracles/devices.py for how a CPU shows it."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.selection import some

import bounds
from certify import CertifiedAccuracyCurve, attacks, certified_radius, reference


@pytest.fixture(scope="module")
def example() -> reference.Reference:
    return reference.load("ibp", 4)


def test_the_check_itself_can_fail(example: reference.Reference):
    with elsewhere(), pytest.raises(AssertionError, match="sees tensors on"):
        example.x + torch.zeros(1, 1, 28, 28)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_bounds(example: reference.Reference, norm: float):
    ball = bounds.LpBall(example.x.double(), 0.1, norm=norm)
    expected = bounds.ibp(example.model, ball), bounds.margin_bounds(example.model, ball, example.y)
    with elsewhere():
        interval = bounds.ibp(example.model, ball)
        margins = bounds.margin_bounds(example.model, ball, example.y)
    assert torch.equal(interval.lower, expected[0].lower)
    assert torch.equal(margins, expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([2, math.inf], [2]))
def test_certified_radius_and_its_curve(example: reference.Reference, norm: float):
    options = {"norm": norm, "tolerance": 0.3}
    expected = certified_radius(*example, **options)
    with elsewhere():
        certificate = certified_radius(*example, **options)
        curve = CertifiedAccuracyCurve.from_certificate(certificate, example.y)
        assert float(curve.at([0.0, 0.05])[0]) == float(curve.at(0.0))
    assert torch.equal(certificate.radius, expected.radius)


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([2, math.inf], [2]))
def test_attack(example: reference.Reference, norm: float):
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    options = {"norm": norm, "steps": 5, "restarts": 3}
    expected = attacks.minimal_perturbation(*example, **options, generator=generators[0])
    with elsewhere() as mode:
        witness = attacks.minimal_perturbation(*example, **options, generator=generators[1])
    assert torch.equal(witness.adversarial, expected.adversarial)
    assert mode.host_reads < 30  # checks and set-up; none of them inside the search


@pytest.mark.parametrize("norm", some([1, 2, math.inf], [2]))
@pytest.mark.slow
def test_clever(example: reference.Reference, norm: float):
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    options = {"norm": norm, "radius": 0.5, "num_batches": 20, "batch_size": 5, "low": 0.0, "high": 1.0, "resamples": 3}
    x = example.x[:1]
    expected = bounds.clever(example.model, x, **options, generator=generators[0])
    with elsewhere():
        found = bounds.clever(example.model, x, **options, generator=generators[1])
    assert torch.equal(found.target_lipschitz, expected.target_lipschitz)


@pytest.mark.slow
def test_second_order_and_local_constants(example: reference.Reference):
    smooth = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    x = example.x[:1]
    with elsewhere():
        second = bounds.clever_second_order(smooth, x, radius=0.5, num_batches=5, batch_size=3, iterations=3)
        assert second.score.device == x.device
        for norm in (1, 2, math.inf):
            climbed = bounds.local_lipschitz(smooth, x, norm=norm, radius=0.5, steps=3, restarts=2)
            assert climbed.device == x.device
