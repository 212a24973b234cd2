"""Small networks, and points of balls around their inputs."""

import math
from itertools import pairwise

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall


def dense(activation: nn.Module, *sizes: int, seed: int = 0) -> nn.Sequential:
    """Linear layers of random weights in double precision, with an activation between them."""
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layer = nn.Linear(size, following, dtype=torch.float64)
        for weight in layer.parameters():
            weight.data.normal_(0, 1.3 / size**0.5, generator=generator(seed + len(layers)))
        layers += [layer, activation]
    return nn.Sequential(*layers[:-1])


def grid(ball: LpBall, steps: int) -> Tensor:
    """A dense grid of one ball around a point of the plane, (M, 2)."""
    axis = torch.linspace(-1, 1, steps, dtype=torch.float64) * float(ball.radii[0])
    moves = torch.cartesian_prod(axis, axis)
    inside = torch.linalg.vector_norm(moves, ball.norm, dim=1) <= float(ball.radii[0])
    x = ball.center[0] + moves[inside]
    return x.clamp(-math.inf if ball.low is None else ball.low, math.inf if ball.high is None else ball.high)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with parameters and statistics of its own, so that none of them is a neutral 0 or 1."""
    draw = generator(seed)
    with torch.no_grad():
        for name, part in [*model.named_parameters(), *model.named_buffers()]:
            if part.is_floating_point():
                part.copy_(torch.randn(part.shape, generator=draw) / max(1, part[0].numel()) ** 0.5)
                if name.endswith("var"):
                    part.abs_().add_(0.3)
    return model
