"""Networks of the benchmark of linear bounds, with random weights: small ones of all kinds, and three large ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """A network, the shape of its inputs, and the radius and norm of the balls around them."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    radius: float
    norm: float = math.inf
    inputs: int = 8

    def network(self) -> nn.Module:
        """The network in evaluation mode, with statistics of batch normalisation that fit its inputs."""
        torch.manual_seed(0)
        model = self.make()
        normalisations = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in normalisations:
            layer.momentum = None  # the mean over all batches seen
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0.0, 0.1)
        if normalisations:
            with torch.no_grad():
                model.train()(self.points(32))
        return model.eval().requires_grad_(False)

    def points(self, count: int) -> Tensor:
        """Inputs (count, *shape) with entries from 0 to 1."""
        return torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """Two convolutions around a skip, with batch normalisation or without."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, norm: bool = True) -> None:
        super().__init__()

        def convolution(start: int, size: int, step: int) -> nn.Sequential:
            layers: list[nn.Module] = [nn.Conv2d(start, outputs, size, step, size // 2, bias=not norm)]
            return nn.Sequential(*layers, *([nn.BatchNorm2d(outputs)] if norm else []))

        self.first, self.second = convolution(inputs, 3, stride), convolution(outputs, 3, 1)
        self.skip = nn.Identity() if inputs == outputs and stride == 1 else convolution(inputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways, above 0."""
        y: Tensor = self.second(self.first(x).relu()) + self.skip(x)
        return y.relu()


class Attention(nn.Module):
    """A block of a transformer; without normalisation, its inner function is a ReLU."""

    def __init__(self, width: int, heads: int, *, norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        bend = nn.GELU() if norm else nn.ReLU()
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), bend, nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, tokens, width)."""
        y, size = self.before(x), x.shape[2] // self.heads
        query, key, value = (
            layer(y).reshape(-1, x.shape[1], self.heads, size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(size)).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).reshape(-1, x.shape[1], x.shape[2]))
        result: Tensor = x + self.inner(self.between(x))
        return result


class Tokens(nn.Module):
    """Twelve numbers for each of four tokens, one block of attention, the mean of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block, self.head = nn.Linear(12, 16), Attention(16, 2, norm=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        result: Tensor = self.head(self.block(self.embedding(x)).mean(1))
        return result


class VisionTransformer(nn.Module):
    """Patches of 4 by 4 pixels, a class token, six blocks of width 192 with three heads."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(Attention(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embedding(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        result: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return result


def dense(*sizes: int, bends: tuple[type[nn.Module], ...] = (nn.ReLU,)) -> nn.Sequential:
    """Layers of these sizes; functions in turn between them."""
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs), bends[place % len(bends)]()]
    return nn.Sequential(*layers[:-1])


def resnet18(width: int = 64) -> nn.Sequential:
    """ResNet-18 for 32 by 32 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for place in range(4):
        outputs = width * 2**place
        layers += [Residual(channels, outputs, 1 if place == 0 else 2), Residual(outputs, outputs)]
        channels = outputs
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels, 10))


def vgg16(width: int = 64) -> nn.Sequential:
    """VGG-16 with batch normalisation for 32 by 32 pixels."""
    layers: list[nn.Module] = []
    channels = 3
    for place, count in enumerate((2, 2, 3, 3, 3)):
        outputs = width * min(2**place, 8)
        for _ in range(count):
            layers += [nn.Conv2d(channels, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def _small_convolutions() -> nn.Sequential:
    layers = (nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16 * 64, 50), nn.ReLU(), nn.Linear(50, 10))


def _residual() -> nn.Sequential:
    blocks = (Residual(8, 8, norm=False), Residual(8, 8, norm=False))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(8 * 36, 10))


def _pooling() -> nn.Sequential:
    layers = (nn.Conv2d(1, 4, 3, 1, 1), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 10))


SMALL = {
    "MLP 50-100-100-100-10": Problem(lambda: dense(50, 100, 100, 100, 10), (50,), 0.05),
    "the same in l2": Problem(lambda: dense(50, 100, 100, 100, 10), (50,), 0.3, norm=2.0),
    "CNN 8-16-fc50, 16x16": Problem(_small_convolutions, (1, 16, 16), 0.03),
    "ResNet blocks": Problem(_residual, (3, 12, 12), 0.01),
    "sigmoid-tanh MLP": Problem(lambda: dense(20, 40, 40, 5, bends=(nn.Sigmoid, nn.Tanh)), (20,), 0.1),
    "CNN, max pool, sigmoid": Problem(_pooling, (1, 12, 12), 0.02),
    "attention": Problem(Tokens, (4, 12), 0.01, inputs=4),
}
LARGE = {
    "ResNet-18": Problem(resnet18, (3, 32, 32), 1e-4, inputs=1),
    "VGG-16": Problem(vgg16, (3, 32, 32), 1e-4, inputs=1),
    "ViT, 6 blocks": Problem(VisionTransformer, (3, 32, 32), 1e-4, inputs=1),
}
