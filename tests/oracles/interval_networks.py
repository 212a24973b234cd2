"""Networks of every kind of layer that interval bounds serve, and balls around random inputs."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from oracles.halfspace import generator
from torch import nn

from bounds import LpBall, Normalize

# In l_1 networks are captured first, which takes long.
ORDERS = (1.0, 2.0, 3.0, math.inf)
NORMS = (pytest.param(1.0, marks=pytest.mark.slow), *ORDERS[1:])


def shared_relu() -> nn.Sequential:
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(6, 9), relu, nn.Linear(9, 5), relu, nn.Linear(5, 3))


# Shape of one input and the network; batch, channels, height and width differ everywhere.
ZOO: dict[str, tuple[tuple[int, ...], Callable[[], nn.Sequential]]] = {
    "affine": ((6,), lambda: nn.Sequential(nn.Linear(6, 3))),
    "mlp": ((6,), lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5, bias=False), nn.ReLU())),
    "shared relu": ((6,), shared_relu),
    "normalised": (
        (4,),
        lambda: nn.Sequential(
            Normalize((0.4, -1.0, 0.0, 3.0), (0.3, 2.0, 1e-3, 1.0)), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
    ),
    "strided": (
        (2, 3, 5),
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)),
    ),
    "dilated": (
        (2, 3, 5),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, (3, 2), dilation=(2, 3), padding=(2, 0)), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
        ),
    ),
    "grouped": (
        (4, 3, 5),
        lambda: nn.Sequential(
            Normalize((0.5,), (0.25,)), nn.Conv2d(4, 6, (2, 3), groups=2, bias=False), nn.Flatten(), nn.Linear(36, 3)
        ),
    ),
    "same": (
        (2, 3, 5),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding="same"), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
        ),
    ),
    "nested": (
        (2, 3, 5),
        lambda: nn.Sequential(
            nn.Sequential(nn.Identity(), Normalize((0.4, 0.6), (0.2, 0.3)), nn.Sequential(nn.Flatten(2), nn.Flatten())),
            nn.Dropout(0.9),
            nn.Sequential(nn.Linear(30, 7), nn.Sequential(nn.ReLU(), nn.Dropout(0.9), nn.Linear(7, 3))),
        ),
    ),
    "convolution": ((2, 3, 5), lambda: nn.Sequential(nn.Conv2d(2, 3, (3, 5)), nn.Flatten())),
    "relu first": (
        (2, 3, 5),
        lambda: nn.Sequential(nn.ReLU(), Normalize((0.4, 0.6), (0.2, 0.3)), nn.Flatten(), nn.Linear(30, 3)),
    ),
    "tokens": ((3, 4), lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3))),
}


def network(name: str, seed: int = 0) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A network of the zoo in float64 with random weights and biases, and the shape of its input."""
    shape, build = ZOO[name]
    model, draw = build().double().eval(), generator(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.normal_(0, 1.5 / math.sqrt(layer.weight[0].numel()), generator=draw)
                if layer.bias is not None:
                    layer.bias.normal_(generator=draw)
    return model, shape


def random_ball(shape: tuple[int, ...], norm: float, *, scale: float = 1.0, seed: int = 0, box: bool = True) -> LpBall:
    """Three balls whose boxes cut them, with radii that differ."""
    center = scale * (2 * torch.rand(3, *shape, generator=generator(seed), dtype=torch.float64) - 1)
    radius = scale * torch.tensor([0.02, 0.3, 1.0], dtype=torch.float64)
    return LpBall(center, radius, norm, -scale if box else None, scale if box else None)


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order in which they run, each as often as it runs."""
    if isinstance(model, nn.Sequential):
        for layer in model:
            yield from layers_of(layer)
    else:
        yield model
