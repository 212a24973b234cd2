"""Ranges of values that are known beyond their formula."""

import torch
from torch import Tensor


@torch.library.custom_op("certify_bounds::within", mutates_args=())
def within(x: Tensor, low: float, high: float) -> Tensor:
    """``x``, of which it is known that it lies between ``low`` and ``high``."""
    return x.clone()


@within.register_fake
def _(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("certify_bounds::shares", mutates_args=())
def shares(x: Tensor, may_be_empty: bool) -> Tensor:
    """Softmax over the last dimension; 0 in rows of minus infinity, if there may be such ones."""
    found = x.softmax(-1)
    return found.nan_to_num(0.0) if may_be_empty else found


@shares.register_fake
def _(x: Tensor, may_be_empty: bool) -> Tensor:
    return torch.empty_like(x)
