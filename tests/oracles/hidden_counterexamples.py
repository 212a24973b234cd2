"""Networks with a counterexample where no gradient leads, and their twins that are safe by construction.

All have two outputs: a constant with a narrow bump taken away from it, and 0. Outside of the bump the first output is
flat, at 1; at its top it is 1 less the height. A bump higher than 1 is a counterexample of class 0.
"""

from functools import cache

import torch
from torch import Tensor, nn

from bounds import Graph, capture

PLACE = (0.371, -0.237, 0.613, -0.481)  # of the top, one number for each input; the first one for maps
WIDTH = 2.0**-5  # of each side of the bump
PLANTED, SAFE = 1.125, 0.875  # heights
KINDS = ("relu", "sigmoid", "residual", "convolution")


class Doubled(nn.Module):
    """The sum of rectified values and of what a rectifier makes of them: a residual block that doubles."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x)
        return h + torch.relu(h)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer


def _tents(inputs: int, width: float) -> tuple[Tensor, Tensor]:
    """Weights and biases of three neurons for each input, rectified parts of a tent around its place."""
    weight = torch.eye(inputs, dtype=torch.float64).repeat_interleave(3, 0) / width
    shift = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64).repeat(inputs)
    return weight, shift - (weight @ torch.tensor(PLACE[:inputs], dtype=torch.float64))


def _rectified(inputs: int, width: float, height: float, activation: nn.Module, factor: float) -> nn.Sequential:
    """Tents add up to ``inputs`` at the place; what is above ``inputs - 1/2`` is the bump."""
    first = linear(*_tents(inputs, width))
    parts = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64).repeat(1, inputs) / factor
    middle = linear(parts, torch.tensor([0.5 - inputs], dtype=torch.float64))
    last = linear(
        torch.tensor([[-2.0 * height / factor], [0.0]], dtype=torch.float64),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    return nn.Sequential(first, activation, middle, activation, last)


def _sigmoid(inputs: int, width: float, height: float) -> nn.Sequential:
    """A step up and a step down for each input; their sum is largest at the place, where another step is at 1/2."""
    weight, _ = _tents(inputs, width / 2)
    weight = weight[::3].repeat_interleave(2, 0)
    shift = torch.tensor([2.0, -2.0], dtype=torch.float64).repeat(inputs)
    first = linear(weight, shift - weight @ torch.tensor(PLACE[:inputs], dtype=torch.float64))
    parts = torch.tensor([[40.0, -40.0]], dtype=torch.float64).repeat(1, inputs)
    largest = inputs * (2 * torch.tensor([2.0], dtype=torch.float64).sigmoid() - 1)
    middle = linear(parts, -40 * largest)
    last = linear(
        torch.tensor([[-2.0 * height], [0.0]], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    return nn.Sequential(first, nn.Sigmoid(), middle, nn.Sigmoid(), last)


def _convolutional(inputs: int, width: float, height: float) -> nn.Sequential:
    """The same for maps of 1 x ``inputs``, all with the first place."""
    dense = _rectified(inputs, width, height, nn.ReLU(), 1.0)
    first, second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, (1, inputs))
    first.weight.data, first.bias.data = dense[0].weight.data[:3, :1, None, None], dense[0].bias.data[:3]
    second.weight.data = dense[2].weight.data.view(1, inputs, 3).transpose(1, 2)[:, :, None].contiguous()
    second.bias.data = dense[2].bias.data
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), dense[4])


def hidden(kind: str, height: float, *, inputs: int = 2, width: float = WIDTH) -> tuple[nn.Sequential, Tensor]:
    """A network in float64, and the input (1, *D) at the top of its bump."""
    top = torch.tensor([PLACE[:inputs]], dtype=torch.float64)
    if kind == "relu":
        model = _rectified(inputs, width, height, nn.ReLU(), 1.0)
    elif kind == "residual":
        model = _rectified(inputs, width, height, Doubled(), 2.0)
    elif kind == "sigmoid":
        model = _sigmoid(inputs, width, height)
    else:
        model, top = _convolutional(inputs, width, height), torch.full((1, 1, 1, inputs), PLACE[0], dtype=torch.float64)
    return model.double().eval(), top


@cache
def captured(kind: str, height: float, dtype: torch.dtype) -> tuple[nn.Sequential, Graph, Tensor]:
    """Such a network with two inputs in a dtype, its graph, and the top of its bump."""
    model, top = hidden(kind, height)
    model, top = model.to(dtype), top.to(dtype)
    return model, capture(model, top), top
