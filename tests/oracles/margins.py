"""A linear classifier that knows its margins and the step to the nearest other class."""

import math

import torch
from oracles.halfspace import generator
from torch import Tensor, nn


class Linear(nn.Sequential):
    """A linear classifier, whose distances are known in every norm."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3, seed: int = 0) -> None:
        linear = nn.Linear(math.prod(shape), classes, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.normal_(generator=generator(seed))
            linear.bias.normal_(generator=generator(seed + 1))
        super().__init__(nn.Flatten(), linear)

    def gaps(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Margins to the other classes (N, K - 1), and the weights (N, K - 1, F) of each margin."""
        weight, bias = self[1].weight.detach(), self[1].bias.detach()
        others = torch.stack([torch.arange(len(weight))[torch.arange(len(weight)) != label] for label in labels])
        rows = weight[labels][:, None] - weight[others]
        middle = (rows @ x.flatten(1)[:, :, None]).squeeze(2)
        return middle + bias[labels][:, None] - bias[others], rows

    def distance(self, x: Tensor, labels: Tensor, norm: float) -> Tensor:
        """Distance to the nearest boundary, 0 where another class is predicted."""
        margins, rows = self.gaps(x, labels)
        return (margins / rows.norm(p=dual(norm), dim=2)).amin(1).clamp(min=0)

    def step(self, x: Tensor, labels: Tensor, norm: float, radius: Tensor) -> Tensor:
        """The input at distance ``radius`` that is closest to another class."""
        margins, rows = self.gaps(x, labels)
        nearest = (margins / rows.norm(p=dual(norm), dim=2)).argmin(1)
        row = rows[torch.arange(len(x)), nearest]
        if norm == 1:
            direction = nn.functional.one_hot(row.abs().argmax(1), row.shape[1]) * row.sign()
        else:
            direction = row.sign() if norm == math.inf else row / row.norm(dim=1, keepdim=True)
        return x - (radius[:, None] * direction).view(x.shape)


def dual(norm: float) -> float:
    return math.inf if norm == 1 else 1.0 if norm == math.inf else norm / (norm - 1)


def inputs(shape: tuple[int, ...], count: int = 7, seed: int = 5) -> Tensor:
    return torch.rand(count, *shape, generator=generator(seed), dtype=torch.float64)
