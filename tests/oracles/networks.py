"""Small networks, and points of balls around their inputs."""

import math
from itertools import pairwise

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Interval, LpBall


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


def points(ball: LpBall, count: int) -> Tensor:
    """Points of each ball, half of them on its sphere and at its corners: (count, N, *D)."""
    shape = (count, *ball.center.shape)
    step = torch.randn(shape, generator=generator(7), dtype=ball.center.dtype)
    if ball.norm == math.inf:
        step = torch.where(torch.rand(shape, generator=generator(8)) < 0.5, step.sign(), step.clamp(-1, 1))
    size = torch.linalg.vector_norm(step.flatten(2), ball.norm, dim=2).clamp(min=1e-12)
    shape = (count, len(ball.center), *[1] * (ball.center.ndim - 1))
    share = torch.rand(count, generator=generator(9), dtype=step.dtype).mul(2).clamp(max=1).view(-1, 1)
    x = ball.center + step * (share * ball.radii / size).view(shape)
    return x.clamp(-math.inf if ball.low is None else ball.low, math.inf if ball.high is None else ball.high)


def escapes(model: nn.Module, ball: LpBall, interval: Interval, count: int = 400) -> int:
    """Outputs of points of the ball that lie outside of the interval."""
    return outside(model, points(ball, count), interval)


def outside(model: nn.Module, x: Tensor, interval: Interval) -> int:
    """Outputs of points (M, N, *D) that lie outside of an interval, by more than the rounding of a pass."""
    with torch.no_grad():
        y = model(x.flatten(0, 1)).view(*x.shape[:2], -1)
    slack = 1e-12 * (1 + y.abs())
    return int((~((interval.lower <= y + slack) & (y - slack <= interval.upper))).sum())


class Branching(nn.Module):
    """Residual, concatenating, functional, with shared weights and a slice: nothing sequential about it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.slopes, self.drop = nn.PReLU(4), nn.Dropout(0.5)
        self.last = nn.Linear(4 * 5 * 3 + 4, 3)
        self.norm.running_mean.copy_(torch.linspace(-0.3, 0.3, 4))
        self.norm.running_var.copy_(torch.linspace(0.5, 1.5, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x)))
        h = self.slopes(self.shared(h)) + h
        one, other = self.shared(h).chunk(2, dim=1)
        h = torch.cat([2 * one - other, other / 4], 1)
        pooled = nn.functional.silu(h).mean(dim=(2, 3))
        return self.last(torch.cat([self.drop(h.relu()).view(x.shape[0], -1), pooled], 1))
