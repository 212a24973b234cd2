"""Work of a forward pass, counted without a clock, so that every machine and every moment cut the same units.

How many inputs a unit holds decides which rows meet in a product of matrices, and so how it is rounded, and which draws
searches share. A clock must not decide that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from certify.methods import Method
from certify.models import frozen

LIGHT = 40e6  # operations of a pass, up to which units are as large as methods allow: a ResNet-20 for CIFAR has 82e6
PRODUCTS = {"linear", "matmul", "__matmul__", "mm", "bmm"}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


class Operations(TorchFunctionMode):
    """Multiplications and additions in products of matrices and convolutions in the body of a ``with``.

    A dispatch mode would see those within attention too, but brings a compiler along that takes a second to import.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "").partition(".")[0]
        given = {**dict(zip(("input", "weight"), args, strict=False)), **(kwargs or {})}
        x, weight = given.get("input"), given.get("weight")
        if name in PRODUCTS and isinstance(x, Tensor):
            self.count += 2 * result.numel() * x.shape[-1]
        elif name in CONVOLUTIONS and isinstance(weight, Tensor):
            self.count += 2 * result.numel() * weight[0].numel()
        elif name in TRANSPOSED and isinstance(x, Tensor) and isinstance(weight, Tensor):
            self.count += 2 * x.numel() * weight[0].numel()
        return result


def operations_of(model: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of one forward pass of inputs (N, *D); 0 for what torch does not see."""
    with frozen(model), torch.no_grad(), Operations() as found:
        model(x)
    return int(found.count)


def unit_sizes_of(methods: Sequence[Method], model: nn.Module, x: Tensor) -> Mapping[str, int]:
    """Inputs of a unit by the name of the method: fewer in proportion to the work of a pass of an input (1, *D).

    They divide the most that the method allows, so that parts of a data set can be cut at the same places.
    """
    share = min(1.0, LIGHT / max(operations_of(model, x), 1))
    return {
        method.name: _divisor(method.rows_per_unit, share) if method.divisible else method.rows_per_unit
        for method in methods
    }


def _divisor(most: int, share: float) -> int:
    """The largest divisor that is at most a share of a number, or 1."""
    return max(part for part in range(1, most + 1) if most % part == 0 and part <= max(1.0, share * most))
