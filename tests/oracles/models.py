"""Models with one fault or one known change each."""

import math

import torch
from torch import Tensor, nn


class Random(nn.Module):
    """Draws random numbers, which no certificate may rest on."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.columns] + torch.rand(len(x), self.columns)


class Coupled(nn.Module):
    """The outputs for an input depend on the other rows of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] - x.flatten(1)[:, :2].mean(0)


class Divide(nn.Module):
    """Another unit of the input."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        return x / self.divisor


class Holes(nn.Module):
    """The identity, with NaN or another value where an entry lies above a height; or the first entry of its row."""

    def __init__(self, height: float, value: float = math.nan, *, whole_rows: bool = False) -> None:
        super().__init__()
        self.height, self.value, self.whole_rows = height, value, whole_rows

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x[:, :1] if self.whole_rows else x) > self.height, self.value, x)
