"""Gradients that see beyond the linear region of a point: through dead ReLUs, and as means over noise.

The nearest adversarial input of a ReLU network often needs a neuron that is off at x and all around it: slopes of the
network say nothing about it. Others are about to saturate. The values of the network stay what they are; only the way
uphill is a guess.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from certify.attacks.geometry import per_row
from certify.attacks.search import Search

Slopes = Callable[[Tensor], Tensor]  # derivatives of a ReLU at what is in front of it

SLOPE = 0.1  # of a ReLU below 0
COPIES = 4  # noisy ones beside the point itself
NOISE = 0.14  # standard deviation, in units of the range of an entry


def leaky(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, ReLU modules let a share of the gradient through where they are off; their outputs do not change.

    References:
        Athalye, Carlini, Wagner (2018), Obfuscated gradients, Section 4.1 (the backward pass of another function),
        arXiv:1802.00420.
    """
    return _other_slopes(model, lambda z: torch.where(z > 0, 1.0, SLOPE))


def jittered(model: nn.Module, generator: torch.Generator | None) -> AbstractContextManager[None]:
    """Inside, gradients are those of linear regions drawn at random, near ones rather than far ones.

    Noise in front of each ReLU module, on the scale of its inputs, decides whether the gradient passes.
    """

    def slopes(z: Tensor) -> Tensor:
        noise = torch.empty_like(z).normal_(generator=generator)
        return z + per_row(z.abs().flatten(1).mean(1), z) * noise > 0

    return _other_slopes(model, slopes)


@contextmanager
def _other_slopes(model: nn.Module, slopes: Slopes) -> Iterator[None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not inputs:  # called by keyword
            return output
        z = inputs[0]
        return output.detach() + slopes(z.detach()).to(z) * (z - z.detach())

    handles = [part.register_forward_hook(hook) for part in model.modules() if isinstance(part, nn.ReLU)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wide_gradient(search: Search, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """The margin at the points (N,), and the mean of its leaky gradients there and at noisy copies (N, *D)."""
    low, high = search.sides()
    with leaky(search.model):
        margin, gradient = search.margin_and_gradient(points, target)
        for _ in range(COPIES):
            noise = torch.empty_like(points).normal_(generator=search.generator)
            copy = search.inside(points + NOISE * (high - low) * noise)
            gradient = gradient + search.margin_and_gradient(copy, target)[1]
    return margin, gradient / (1 + COPIES)
