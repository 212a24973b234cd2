"""Attacks and random draws of transformations, and curves of both: re-checked, counted again, in closed form."""

import matplotlib.pyplot as plt
import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds.errors import InvalidInput
from certify import attacks
from certify.semantic import (
    Photometric,
    Rotation,
    TransformationCurves,
    Translation,
    certify_transformation,
    random_transformations,
)


def brightness(limit: float) -> nn.Module:
    """Class 1 where the mean of an image is above the limit."""
    return Halfspace(torch.full((12,), 1 / 12, dtype=torch.float64), -limit)


def images() -> Tensor:
    return 0.4 + 0.2 * torch.rand(3, 1, 3, 4, generator=generator(1), dtype=torch.float64)


WHICH = Photometric(brightness=(-0.2, 0.1))


def test_the_nearest_change_of_brightness_is_found():
    x, y = images(), torch.ones(3, dtype=torch.int64)
    exact = x.flatten(1).mean(1) - 0.4
    found = attacks.transformation(brightness(0.4), x, y, WHICH)
    assert found.found.all()
    assert torch.allclose(found.distance, exact, atol=1e-3)
    assert (found.distance >= exact).all()
    again = brightness(0.4)(found.adversarial).argmax(1)
    assert torch.equal(again, found.adversarial_label)
    assert torch.equal(WHICH.apply(x, found.parameters), found.adversarial)


@pytest.mark.slow
def test_gradients_find_what_a_grid_misses():
    """A threshold that only the exact end of a noisy range crosses; and without noise nothing does."""
    x, y = images(), torch.ones(3, dtype=torch.int64)
    limit = x.flatten(1).mean(1).min().item() - 0.25
    missed = attacks.transformation(brightness(limit), x, y, WHICH, points=3)
    assert not missed.found.any()
    assert missed.distance.isinf().all()
    assert missed.parameters.isnan().all()
    assert torch.equal(missed.adversarial, x)
    noisy = attacks.transformation(brightness(limit), x, y, WHICH, points=3, epsilon=0.06)
    assert noisy.found.any()
    assert (brightness(limit)(noisy.adversarial).argmax(1)[noisy.found] == 0).all()
    reach = (noisy.adversarial - WHICH.apply(x, noisy.parameters.nan_to_num(0.0))).abs().flatten(1).amax(1)
    assert (reach[noisy.found] <= 0.06 + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_noise_stays_within_its_radius_in_any_precision(dtype: torch.dtype):
    """Exact differences, of a radius that two of the three round to more."""
    x, y, which = images().to(dtype), torch.ones(3, dtype=torch.int64), Photometric(brightness=(-0.05, 0.05))
    limit = x.double().flatten(1).mean(1).min().item() - 0.12
    found = attacks.transformation(brightness(limit).to(dtype), x, y, which, points=3, epsilon=0.1)
    assert found.found.any()
    made = which.apply(x, found.parameters.nan_to_num(0.0))
    moved = (found.adversarial.double() - made.double()).abs()[found.found]
    assert 0.05 < moved.max() <= 0.1


def test_wrong_inputs_are_at_distance_0():
    x = images()
    found = attacks.transformation(brightness(0.4), x, torch.zeros(3, dtype=torch.int64), WHICH)
    assert found.distance.tolist() == [0, 0, 0]
    assert torch.equal(found.adversarial, x)
    with pytest.raises(InvalidInput, match=r"certify\.semantic"):
        attacks.transformation(brightness(0.4), x, torch.zeros(3, dtype=torch.int64), (0, 1))


@pytest.mark.slow
def test_random_draws_are_counted_and_repeat():
    x, y = images(), torch.ones(3, dtype=torch.int64)
    found = random_transformations(brightness(0.4), x, y, WHICH, draws=4000, generator=generator(2))
    exact = ((x.flatten(1).mean(1) - 0.4).clamp(max=0.2) + 0.1) / 0.3  # share of offsets that keep the class
    assert torch.allclose(found.correct.double() / 4000, exact, atol=5 * 0.5 / 4000**0.5)
    low, high = found.error_interval(1e-6)
    assert ((low <= 1 - exact) & (1 - exact <= high)).all()
    again = random_transformations(brightness(0.4), x, y, WHICH, draws=4000, batch_size=7000, generator=generator(2))
    assert torch.equal(found.right, again.right)
    assert found.interval()[0] <= found.accuracy <= 1
    assert list(found.to_dataframe().columns)[:2] == ["label", "correct"]
    assert len(random_transformations(brightness(0.4), x[:0], y[:0], WHICH)) == 0


@pytest.mark.slow
def test_curves_stand_in_order():
    x, y = images(), torch.ones(3, dtype=torch.int64)
    certificate = certify_transformation(brightness(0.4), x, y, WHICH)
    witness = attacks.transformation(brightness(0.4), x, y, WHICH)
    drawn = random_transformations(brightness(0.4), x, y, WHICH, draws=50, generator=generator(2))
    curves = TransformationCurves.of(certificate, y, witness=witness, random=drawn)
    table = curves.to_dataframe()
    assert (table.certified <= table.attacked).all()
    seen = table.random.notna()
    assert (table.certified[seen] <= table.random[seen]).all()
    assert table.certified.iloc[0] == 1
    figure, ax = plt.subplots()
    assert curves.plot(ax).get_xlabel() == "radius (input units)"
    plt.close(figure)
    with pytest.raises(InvalidInput, match="same ones"):
        TransformationCurves.of(certificate, y, witness=attacks.transformation(brightness(0.4), x, y, Rotation((0, 1))))


def test_units_of_several_parameters():
    assert (Translation((-2.0, 2.0)).unit, Translation((-2.0, 2.0)).reach) == ("pixels", 2.0)
    assert (Translation((-2.0, 2.0), (0.0, 1.0)).unit, Translation((-2.0, 2.0), (0.0, 1.0)).reach) == (
        "share of the range",
        1.0,
    )
    assert float(Rotation((-5.0, 10.0)).distance(torch.tensor([-4.0]))) == pytest.approx(0.4)
