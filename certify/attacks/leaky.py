"""Gradients that pass through dead ReLUs, so that a search sees what a neuron would do if it came to life.

The nearest adversarial input of a ReLU network often needs a neuron that is off at x and all around it: slopes of the
network say nothing about it. The values of the network stay what they are; only the way uphill is a guess.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

SLOPE = 0.1  # of a ReLU below 0


@contextmanager
def leaky(model: nn.Module) -> Iterator[None]:
    """Inside, ReLU modules let a share of the gradient through where they are off; their outputs do not change.

    References:
        Athalye, Carlini, Wagner (2018), Obfuscated gradients, Section 4.1 (the backward pass of another function),
        arXiv:1802.00420.
    """
    handles = [part.register_forward_hook(_leak) for part in model.modules() if isinstance(part, nn.ReLU)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leak(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    below = inputs[0].clamp(max=0)
    return output + SLOPE * (below - below.detach())
