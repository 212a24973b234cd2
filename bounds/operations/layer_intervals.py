"""Intervals behind linear layers and convolutions, with gradients: one operation for autograd instead of a dozen.

Single operations would read and write all intervals and weights several times more on the way back, and keep more.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.operations.node import Node
from bounds.operations.transposes import settings_of

CONVOLUTION, LINEAR = "aten.conv2d.default", "aten.linear.default"
# Stride, padding, dilation and groups of a convolution; None for a linear layer.
Settings = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int] | None
Ends = tuple[Tensor, Tensor]
FEW_PLACES = 16  # of a map, for which a product of matrices is quicker than a library's gradient of the weight


def behind_layer(node: Node, lower: Tensor, upper: Tensor) -> Ends | None:
    """The values of a layer over an interval of its data, without rounding errors; None for other operations.

    Where nothing is known, ends are infinite.
    """
    if node.single is not None or node.options or node.operation not in (CONVOLUTION, LINEAR):
        return None
    weight: Tensor = node.arguments[1]
    bias: Tensor | None = node.arguments[2] if len(node.arguments) > 2 else None
    if node.operation == CONVOLUTION and lower.ndim != weight.ndim:
        return None
    settings = settings_of(node, weight) if node.operation == CONVOLUTION else None
    found: Ends = _BehindLayer.apply(lower, upper, weight, bias, settings)  # type: ignore[no-untyped-call]  # torch's
    return found


class _BehindLayer(torch.autograd.Function):
    """Both ends behind a layer, by centre and radius; gradients may be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(lower: Tensor, upper: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Ends:
        """Lower and upper ends."""
        center, radius = _halves(lower, upper)
        middle, reach = _apply(center, weight, bias, settings), _apply(radius, weight.abs(), None, settings)
        # Of an interval without an end the centre is NaN.
        found = (middle - reach).nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        return found, middle.add_(reach).nan_to_num_(nan=math.inf, posinf=math.inf, neginf=-math.inf)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Ends) -> None:  # noqa: ANN401
        """Keep what functions before the layer keep too."""
        lower, upper, weight, bias, ctx.settings = inputs
        ctx.save_for_backward(lower, upper, weight)
        ctx.biased = bias is not None and ctx.needs_input_grad[3]

    @staticmethod
    def backward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients of both ends, of the weight and of the bias."""
        *ends, weight = ctx.saved_tensors
        center, radius = _halves(*ends)
        wanted = any(ctx.needs_input_grad[:2]), ctx.needs_input_grad[2]
        of_middle, of_reach = lower + upper, upper - lower
        of_center, of_weight = _backward(of_middle, center, weight, ctx.settings, wanted)
        of_radius, of_size = _backward(of_reach, radius, weight.abs(), ctx.settings, wanted)
        of_bias = None
        if ctx.biased:
            of_bias = of_middle.sum(
                [place for place in range(of_middle.ndim) if place != _channels(ctx.settings, lower)]
            )
        if of_weight is not None and of_size is not None:
            of_weight = of_weight.addcmul_(of_size, weight.sgn())
        if of_center is None or of_radius is None:
            return None, None, of_weight, of_bias, None
        of_upper = torch.lerp(of_center, of_radius, 0.5)
        return of_upper - of_radius, of_upper, of_weight, of_bias, None


def _halves(lower: Tensor, upper: Tensor) -> Ends:
    center = torch.lerp(lower, upper, 0.5)
    return center, upper - center


def _channels(settings: Settings, values: Tensor) -> int:
    """The dimension that a bias has an entry for."""
    return values.ndim - 1 if settings is None else 1


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    return F.linear(x, weight, bias) if settings is None else F.conv2d(x, weight, bias, *settings)


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, settings: Settings, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the data and the weight of a layer, as far as they are wanted."""
    if settings is None:
        of_weight = gradient.flatten(0, -2).T @ x.flatten(0, -2) if wanted[1] else None
        return gradient @ weight if wanted[0] else None, of_weight
    stride, padding, dilation, groups = settings
    by_product = wanted[1] and groups == 1 and x.device.type == "cpu" and gradient.shape[2:].numel() <= FEW_PLACES
    asked = wanted[0], wanted[1] and not by_product, False
    found: tuple[Tensor | None, Tensor | None, None] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, (0, 0), groups, asked
    )
    if not by_product:
        return found[:2]
    windows = F.unfold(x, weight.shape[2:], dilation, padding, stride)  # (N, entries of a window, places)
    of_weight = gradient.flatten(2).transpose(0, 1).flatten(1) @ windows.transpose(0, 1).flatten(1).T
    return found[0], of_weight.view(weight.shape)
