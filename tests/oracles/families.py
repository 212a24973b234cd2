"""Small random networks of every kind that bounds are used for, and perturbation sets of every kind around inputs."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import Box, LpBall, PerturbationSet, SparseBall

IMAGE = (2, 6, 6)


class Residual(nn.Module):
    """What a module gives, added to its input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Attention(nn.Module):
    """One head over the tokens of a sequence, by products and a softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x) for layer in self.maps)
        return torch.softmax(query @ key.transpose(1, 2) / key.shape[2] ** 0.5, 2) @ value


class Tokens(nn.Module):
    """The image in windows, one token each."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.unfold(x, 3, stride=3).transpose(1, 2)


def _transformer() -> nn.Module:
    block = (
        Residual(nn.LayerNorm(6), Attention(6)),
        Residual(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)),
    )
    return nn.Sequential(Tokens(), nn.Linear(18, 6), *block, nn.Flatten(), nn.Linear(24, 3))


def _dense(activation: Callable[[], nn.Module], *sizes: int) -> nn.Module:
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), activation())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 3))


# Makers of networks from images to 3 logits.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: _dense(nn.ReLU, 72, 12, 12),
    "deep": lambda: _dense(nn.ReLU, 72, *[12] * 7),
    "expanding": lambda: nn.Sequential(nn.AvgPool2d(3), _dense(nn.ReLU, 8, 16, 32, 48)),
    "leaky": lambda: _dense(lambda: nn.LeakyReLU(0.2), 72, 12, 12, 12),
    "convolutional": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), _dense(nn.ReLU, 24, 12)
    ),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(),
        Residual(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 3),
    ),
    "sigmoid": lambda: _dense(nn.Sigmoid, 72, 12, 12, 12),
    "tanh": lambda: _dense(nn.Tanh, 72, 12, 12),
    "gelu": lambda: _dense(nn.GELU, 72, 12, 12),
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), _dense(nn.Tanh, 36, 10)
    ),
    "attention": _transformer,
}


def network(kind: str, seed: int) -> nn.Module:
    """A network of some kind in double precision, with weights as large as those of trained ones."""
    model = NETWORKS[kind]().double().eval().requires_grad_(False)
    draw = generator(seed)
    for weight in model.parameters():
        scale, middle = (1.4 / weight[0].numel() ** 0.5, 0.0) if weight.ndim > 1 else (0.3, 0.1)
        weight.copy_(middle + scale * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
    return model


def _box(x: Tensor, radius: Tensor) -> PerturbationSet:
    share = torch.rand(x.shape, generator=generator(3), dtype=x.dtype) * radius.to(x).view(-1, 1, 1, 1)
    return Box(x - share, x + share / 2)


# Makers of sets from inputs and radii (N,) in the maximum norm.
SETS: dict[str, Callable[[Tensor, Tensor], PerturbationSet]] = {
    "linf": lambda x, radius: LpBall(x, radius, math.inf, low=None, high=None),
    "linf in a box": lambda x, radius: LpBall(x, radius, math.inf),
    "l2": lambda x, radius: LpBall(x, 4 * radius, 2, low=None, high=None),
    "l2 in a box": lambda x, radius: LpBall(x, 4 * radius, 2),
    "l1": lambda x, radius: LpBall(x, 20 * radius, 1),
    "frozen": lambda x, radius: LpBall(x, 4 * radius, 2, frozen_features=torch.arange(6) < 3),
    "box": _box,
    "few changes": lambda x, radius: SparseBall(x, 1, 0.0, 1.0),
}


def inputs(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images with entries in [0, 1]."""
    return torch.rand(count, *IMAGE, generator=generator(seed), dtype=torch.float64).to(dtype)
