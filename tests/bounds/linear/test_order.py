"""Methods in their order: what costs more is at least as tight."""

import math
from itertools import pairwise

import pytest
import torch
from oracles.selection import some
from torch import nn

from bounds import LpBall, margin_bounds


@pytest.mark.parametrize("seed", some(range(6), [2]))
def test_margins_of_a_method_are_at_least_those_of_every_cheaper_one(seed: int):
    """Intervals stood at 1.74 where the backward pass alone stood at 1.07."""
    torch.manual_seed(seed)
    activation = (nn.ReLU, nn.Tanh, nn.LeakyReLU)[seed % 3]
    sizes = [6, *((4,), (6, 5), (12, 12, 12))[seed % 3], 3]
    layers = [part for sides in pairwise(sizes) for part in (nn.Linear(*sides), activation())][:-1]
    model, x = nn.Sequential(*layers).double().eval(), torch.rand(3, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    for norm, radii in ((math.inf, (0.1, 0.3, 0.5)), (2, (0.3, 0.8, 1.5))):
        ball = LpBall(x, torch.tensor(radii, dtype=torch.float64), norm, low=None, high=None)
        for ladder in (("ibp", "crown_ibp", "crown", "alpha_crown"), ("crown_ibp", "fast_lin")):
            found = [margin_bounds(model, ball, y, method, steps=2) for method in ladder]
            for loose, tight in pairwise(found):
                assert (tight >= loose - 1e-9).all(), (norm, ladder)
