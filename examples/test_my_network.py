"""Tests of a network of your own: run them with ``pytest examples/test_my_network.py``.

Replace ``network`` and ``inputs`` by yours. Everything else is what one may want to hold a trained classifier to.
"""

import math

import pytest
import torch
from torch import Tensor, nn

import bounds
import certify
from certify.testing import (
    assert_certified,
    assert_certified_accuracy,
    assert_noise_law,
    assert_smoothing_guarantee,
    assert_sound_bounds,
)

FEATURES = 20


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    """Two clouds in the unit cube, in place of your test set."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(200) % 2
    x = 0.5 + 0.1 * torch.randn(200, FEATURES, generator=generator)
    x[:, :5] += 0.2 * (y[:, None] - 0.5)
    return x.clamp(0, 1), y


@pytest.fixture(scope="module")
def network(inputs: tuple[Tensor, Tensor]) -> nn.Module:
    """A small network, trained on the clouds under noise."""
    x, y = inputs
    generator = torch.Generator().manual_seed(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(noisy), y).backward()
        optimizer.step()
    return model


@pytest.fixture
def right(network: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Twenty inputs that the network classifies correctly."""
    x, y = inputs
    chosen = (network(x).argmax(1) == y).nonzero().flatten()[:20]
    return x[chosen], y[chosen]


def test_labels_are_proved_within_a_small_radius(network: nn.Module, right: tuple[Tensor, Tensor]) -> None:
    assert_certified(network, *right, norm=math.inf, epsilon=0.005, at_least=0.8)


def test_bounds_hold_everywhere_they_should(
    network: nn.Module, right: tuple[Tensor, Tensor], certify_generator: torch.Generator
) -> None:
    ball = bounds.LpBall(right[0], 0.1, norm=2)
    assert_sound_bounds(network, ball, bound=bounds.ibp, generator=certify_generator)


def test_random_noise_has_to_be_sqrt_d_times_as_large(
    network: nn.Module, right: tuple[Tensor, Tensor], certify_generator: torch.Generator
) -> None:
    assert_noise_law(network, right[0], generator=certify_generator)


def test_the_smoothed_classifier_keeps_its_promise(
    network: nn.Module, right: tuple[Tensor, Tensor], certify_generator: torch.Generator
) -> None:
    smoothed = certify.SmoothedClassifier(network, certify.smoothing.Gaussian(0.1), num_classes=2)
    certificate = smoothed.certify(right[0], n=2000, generator=certify_generator)
    assert_smoothing_guarantee(smoothed, right[0], certificate, generator=certify_generator)


def test_enough_inputs_of_the_population_are_certified(
    network: nn.Module, inputs: tuple[Tensor, Tensor], certify_generator: torch.Generator
) -> None:
    """A bound with 95 % confidence, in which certificates that may be wrong are counted."""
    smoothed = certify.SmoothedClassifier(network, certify.smoothing.Gaussian(0.1), num_classes=2)
    x, y = inputs
    certificate = smoothed.certify(x, n=500, generator=certify_generator)
    assert_certified_accuracy(certificate, y, radius=0.05, at_least=0.5)
