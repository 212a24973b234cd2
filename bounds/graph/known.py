"""What is known of a number beyond its formula."""

import torch
from torch import Tensor


@torch.library.custom_op("certify_bounds::within", mutates_args=())
def within(x: Tensor, low: float, high: float) -> Tensor:
    """``x``, of which it is known that it lies between ``low`` and ``high``."""
    return x.clone()


@within.register_fake
def _(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(x)
