"""Normalisation inside the network."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from bounds import InvalidInput, Normalize


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 5, 7), (1, 3, 5, 7), (0, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_channel_gets_its_own_numbers(shape: tuple[int, ...], dtype: torch.dtype):
    """A loop over channels; catches the channel taken for the last dimension, and std multiplied."""
    layer = Normalize([0.5, -1.0, 2.0], [0.25, 4.0, 1.0])  # exact in binary
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    for channel, (mean, std) in enumerate([(0.5, 0.25), (-1.0, 4.0), (2.0, 1.0)]):
        assert torch.equal(y[:, channel], (x[:, channel] - mean) / std)


def test_one_number_serves_all_channels():
    x = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Normalize([0.5], [0.25])(x), (x - 0.5) / 0.25)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 1, 3), (2, 6)])
def test_other_numbers_of_channels_are_refused(shape: tuple[int, ...]):
    """Catches broadcasting along another dimension, which happens to have three entries here."""
    with pytest.raises(InvalidInput, match=re.escape(f"x must have 3 channels, got shape {shape}")):
        Normalize([0.5, 0.5, 0.5], [0.2, 0.2, 0.2])(torch.zeros(shape))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.5, 0.5),
        ("0.5", "0.5"),
        (["a"], [1.0]),
        ([], []),
        ([math.nan], [1.0]),
        ([0.5], [math.inf]),
        ([0.5], [1e-60]),  # zero in float32
        ([0.5], [0.0]),
        ([0.5], [-1.0]),
        ([0.5], [math.nan]),
        ([0.5, 0.5], [1.0]),
        ([0.5], [1.0, 1.0]),
    ],
)
def test_numbers_that_cannot_normalise_are_refused(mean: list[float], std: list[float]):
    with pytest.raises(InvalidInput, match="mean and std must have one entry per channel and std must be above 0"):
        Normalize(mean, std)


def test_the_numbers_travel_with_the_network_but_are_not_trained():
    model = nn.Sequential(Normalize([0.5, 1.0], [0.25, 2.0]), nn.Linear(2, 2))
    assert [name for name, _ in model.named_parameters()] == ["1.weight", "1.bias"]
    other = nn.Sequential(Normalize([0.0, 0.0], [1.0, 1.0]), nn.Linear(2, 2))
    other.load_state_dict(model.state_dict())
    x = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other(x), model(x))


def test_gradients_pass():
    x = torch.zeros(1, 2, requires_grad=True)
    output: Tensor = Normalize([0.5, 1.0], [0.25, 2.0])(x)
    output.sum().backward()
    assert x.grad.tolist() == [[4.0, 0.5]]
