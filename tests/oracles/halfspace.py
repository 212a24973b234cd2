"""A classifier whose smoothed version is known in closed form."""

import torch
from torch import Tensor, nn


class Halfspace(nn.Module):
    """Class 1 where w.x + b > 0: its smoothed label has probability Phi(distance / sigma), its radius is exact."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.numel(), 2, dtype=weight.dtype)
        with torch.no_grad():
            self.linear.weight.copy_(torch.stack([-weight.flatten(), weight.flatten()]))
            self.linear.bias.copy_(torch.tensor([-bias, bias]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))

    def distance(self, x: Tensor) -> Tensor:
        weight, bias = self.linear.weight[1].detach().double(), self.linear.bias[1].detach().double()
        return (x.flatten(1).double() @ weight + bias).abs() / weight.norm()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
