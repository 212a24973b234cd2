"""Universal perturbations: for a half-space the best one and its fooling rate are known in closed form."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from scipy import stats
from torch import nn

from bounds import InvalidInput, clopper_pearson_interval
from certify import reference
from certify.attacks import fooling_rate, universal_perturbation

OPEN = {"low": None, "high": None}
DUAL = {1: math.inf, 2: 2, math.inf: 1}


def problem(rows: int, features: int = 12):
    """Normal inputs on both sides of a plane through their centre."""
    model = Halfspace(torch.randn(features, generator=generator(), dtype=torch.float64))
    return model, torch.randn(rows, features, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize(("norm", "epsilon"), [(1, 1.5), (2, 0.5), (math.inf, 0.2)])
def test_direction_and_rate_of_a_halfspace(norm: float, epsilon: float):
    """It goes along the normal in the dual norm; new inputs are fooled where they lie within its reach on one side.

    The exact rate lies in the interval at alpha = 1e-7, which that of the noise leaves.
    """
    model, x = problem(300)
    weight = model.linear.weight[1].detach()
    found = universal_perturbation(model, x, norm=norm, epsilon=epsilon, generator=generator(), **OPEN)
    reach = float(weight.norm(DUAL[norm])) * epsilon
    gain = abs(float(found.perturbation @ weight))
    assert 0.9 * reach <= gain <= reach * (1 + 1e-12)
    assert found.size <= epsilon
    held_out = torch.randn(20_000, 12, generator=generator(2), dtype=torch.float64)
    result = fooling_rate(model, held_out, found.perturbation, norm=norm, generator=generator(3), **OPEN)
    exact = float(stats.norm.cdf(gain / float(weight.norm()))) - 0.5
    lower, upper = result.interval(1e-7)
    assert lower <= exact <= upper
    assert upper - lower < 0.04
    assert result.noise_interval(1e-7)[1] < lower
    assert result.size == pytest.approx(float(found.perturbation.norm(norm)))
    hit, _ = clopper_pearson_interval(result.fooled.sum(), 20_000, confidence=1 - 1e-7)
    assert (result.rate, lower) == (float(result.fooled.double().mean()), float(hit))


def test_rows_are_fooled_where_their_prediction_changes_within_the_box():
    """By hand: the third input ends at the side of the box, short of the boundary; the last one has no class."""

    class Half(Halfspace):
        def forward(self, x):
            return torch.where(x[:, :1] > 0.9, math.nan, super().forward(x))

    model = Half(torch.tensor([1.0, 1.0], dtype=torch.float64), bias=-1.35)
    x = torch.tensor([[0.4, 0.5], [0.3, 1.0], [0.1, 1.0], [0.1, 0.5], [0.6, 0.9], [0.95, 0.1]], dtype=torch.float64)
    moved = torch.tensor([0.2, 0.3], dtype=torch.float64)
    result = fooling_rate(model, x, moved, norm=2, generator=generator())
    assert result.fooled.tolist() == [True, True, False, False, False, False]
    assert result.label.tolist() == [0, 0, 0, 0, 1, -1]
    assert fooling_rate(model, x, moved, norm=2, generator=generator(), **OPEN).fooled[2]
    assert fooling_rate(model, x, 0 * moved, norm=2, generator=generator()).rate == 0
    assert len(result.to_dataframe()) == 6


def test_it_beats_noise_of_its_size_on_new_images_of_a_network():
    model, x, _ = reference.load("plain", 200)
    options = {"norm": 2, "generator": generator()}
    found = universal_perturbation(model, x[:100], epsilon=2.0, steps=30, restarts=1, **options)
    result = fooling_rate(model, x[100:], found.perturbation, **options)
    assert found.training_rate > 0.5
    assert result.interval()[0] > result.noise_interval()[1]
    assert found.passes == 31


@pytest.mark.slow
def test_labels_to_lead_away_from():
    """The direction names one side if all labels do, whichever side has more inputs."""
    model, x = problem(100)
    weight = model.linear.weight[1].detach()
    for label, sign in ((0, 1), (1, -1)):
        labels = torch.full((100,), label)
        found = universal_perturbation(model, x, labels, norm=2, epsilon=3.0, generator=generator(), **OPEN)
        assert sign * float(found.perturbation @ weight) > 0
        assert found.training_rate > 0.95


def test_frozen_features_stay_and_a_model_without_slopes_gives_what_was_drawn():
    model, x = problem(60)
    mask = torch.arange(12) < 5
    options = {"norm": 2, "epsilon": 0.5, "generator": generator(), **OPEN}
    found = universal_perturbation(model, x, frozen_features=mask, **options)
    assert (found.perturbation[mask] == 0).all()
    assert (found.perturbation[~mask] != 0).any()

    class Same(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]], dtype=x.dtype).expand(len(x), 2)

    nothing = universal_perturbation(Same(), x, steps=3, **options)
    assert nothing.training_rate == 0
    assert (nothing.perturbation == 0).all()


def test_bad_input():
    model, x = problem(4)
    for change, message in (
        ({"norm": 3}, "norm must be 1, 2 or math.inf"),
        ({"epsilon": 0.0}, "epsilon must be a finite number above 0"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"restarts": 0}, "restarts must be an integer of at least 1"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "labels must be class indices from 0 to 1"),
        ({"x": x[:0]}, "number of inputs must be an integer of at least 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            universal_perturbation(model, **{"x": x, "norm": 2, "epsilon": 0.1, **OPEN, **change})
    for moved, message in (
        (torch.zeros(3), r"perturbation must have the shape of one input, \(12,\), got \(3,\)"),
        (torch.full((12,), math.nan), "perturbation must be finite"),
    ):
        with pytest.raises(InvalidInput, match=message):
            fooling_rate(model, x, moved, norm=2, **OPEN)


def test_every_tensor_is_made_on_the_device_of_the_input():
    model, x = problem(5)
    source = generator()
    with elsewhere():
        found = universal_perturbation(model, x, norm=1, epsilon=0.1, steps=3, generator=source, **OPEN)
        result = fooling_rate(model, x, found.perturbation, norm=1, generator=source, **OPEN)
    assert result.fooled.device == x.device
