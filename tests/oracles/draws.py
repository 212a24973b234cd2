"""Random centres of sets and random rows of coefficients."""

import torch
from torch import Tensor


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centers(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=draw(seed), dtype=torch.float64)


def rows(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=draw(seed), dtype=torch.float64)
