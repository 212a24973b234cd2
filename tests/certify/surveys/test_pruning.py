"""Pruned copies: which weights are left, counted and compared."""

import pytest
import torch
from torch import nn

from bounds import InvalidInput
from certify.surveys import pruned


def test_the_least_weights_of_each_layer_are_0_and_the_network_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 7)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = pruned(model, 0.6)
    for name, value in found.state_dict().items():
        if name in ("0.weight", "3.weight"):
            gone = (value == 0) & (before[name] != 0)
            assert gone.sum() == int(0.6 * value.numel())
            assert before[name][gone].abs().max() <= before[name][~gone].abs().min()
            assert torch.equal(value[~gone], before[name][~gone])
        else:
            assert torch.equal(value, before[name])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not found.training
    with pytest.raises(InvalidInput, match="share must lie in"):
        pruned(model, 1.0)
    with pytest.raises(InvalidInput, match="holds no linear layer"):
        pruned(nn.ReLU(), 0.5)
