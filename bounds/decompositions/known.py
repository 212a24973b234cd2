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


@within.register_vmap
def _(info: object, places: tuple[int, None, None], x: Tensor, low: float, high: float) -> tuple[Tensor, int]:
    return within(x, low, high), places[0]


@torch.library.custom_op("certify_bounds::shares", mutates_args=())
def shares(x: Tensor, may_be_empty: bool) -> Tensor:
    """Softmax over the last dimension; 0 in rows of minus infinity, if there may be such ones."""
    found = x.softmax(-1)
    return found.nan_to_num(0.0) if may_be_empty else found


@shares.register_fake
def _(x: Tensor, may_be_empty: bool) -> Tensor:
    return torch.empty_like(x)


@shares.register_vmap
def _(info: object, places: tuple[int, None], x: Tensor, may_be_empty: bool) -> tuple[Tensor, int]:
    return shares(x.movedim(places[0], 0), may_be_empty), 0
