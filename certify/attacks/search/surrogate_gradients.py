"""Gradients that see beyond the linear region of a point: through dead ReLUs, and as means over noise.

The nearest adversarial input of a ReLU network often needs a neuron that is off at x and all around it: slopes of the
network say nothing about it. Others are about to saturate. The values of the network stay what they are; only the way
uphill is a guess.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bounds.numerics import per_row
from certify.attacks.common.streams import Streams
from certify.attacks.search.state import MinimumNormState

Slopes = Callable[[Tensor], Tensor]  # derivatives of a ReLU at what is in front of it

RECTIFIERS = (torch.relu, Tensor.relu, F.relu)
STEPS = ("round", "floor", "ceil", "trunc", "fix", "sign", "detach", "softmax", "sigmoid")
PASSED_THROUGH = {F.softmax, *(getattr(place, name) for place in (torch, Tensor) for name in STEPS)}
SLOPE = 0.1  # of a ReLU below 0
COPIES = 4  # noisy ones next to the point itself
NOISE = 0.14  # standard deviation, in units of the range of an entry


def leaky() -> AbstractContextManager[object]:
    """Inside, ReLUs let a share of the gradient through where they are off; their outputs do not change.

    References:
        Athalye, Carlini, Wagner (2018), Obfuscated gradients, Section 4.1 (the backward pass of another function),
        arXiv:1802.00420.
    """
    return _uncompiled(_OtherSlopes(lambda z: (z > 0).to(z).clamp(min=SLOPE)))


def straight_through() -> AbstractContextManager[object]:
    """Inside, steps such as rounding, signs, detached values, saturated probabilities have the slope of the identity.

    For the model alone: whoever attacks it needs values that are detached.

    References:
        Athalye, Carlini, Wagner (2018), Obfuscated gradients, Section 4.1.1 (the straight-through estimator),
        arXiv:1802.00420.
    """
    return _uncompiled(_StraightThrough())


def jittered(streams: Streams) -> AbstractContextManager[object]:
    """Inside, gradients are those of linear regions drawn at random, near ones rather than far ones.

    Noise in front of each ReLU, on the scale of its inputs, decides whether the gradient passes.
    """

    def slopes(z: Tensor) -> Tensor:
        noise = streams.normal(z)
        return z + per_row(z.abs().flatten(1).mean(1), z) * noise > 0

    return _uncompiled(_OtherSlopes(slopes))


@contextmanager
def _uncompiled(mode: TorchFunctionMode) -> Iterator[None]:
    """The mode, with compiled models run as they were written: the compiler would trace into the mode."""
    compiled = "torch._dynamo" in sys.modules  # a model that is compiled has loaded it, which takes a second
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext(), mode:
        yield


class _OtherSlopes(TorchFunctionMode):
    """ReLUs keep their values and have other derivatives, in modules and in functional code, unless done in place."""

    def __init__(self, slopes: Slopes) -> None:
        super().__init__()
        self.slopes = slopes

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever the function returns
        output = function(*args, **(kwargs or {}))
        if function not in RECTIFIERS:
            return output
        z = args[0] if args else (kwargs or {})["input"]
        if output is z:
            return output
        return output.detach() + self.slopes(z.detach()).to(z) * (z - z.detach())


class _StraightThrough(TorchFunctionMode):
    """Steps, and what saturates, keep their values and have the derivative 1."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever the function returns
        output = function(*args, **(kwargs or {}))
        if function not in PASSED_THROUGH:
            return output
        z = args[0] if args else (kwargs or {})["input"]
        if output is z or not z.requires_grad:
            return output
        return output.detach() + (z - z.detach())


def wide_gradient(state: MinimumNormState, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """The margin at the points (N,), and the mean of its leaky gradients there and at noisy copies (N, *D)."""
    low, high = state.sides()
    with leaky():
        margin, gradient = state.margin_and_gradient(points, target)
        for _ in range(COPIES):
            noise = state.streams.normal(points)
            copy = state.inside(points + NOISE * (high - low) * noise)
            gradient = gradient + state.margin_and_gradient(copy, target)[1]
    return margin, gradient / (1 + COPIES)
