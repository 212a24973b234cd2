"""Inputs that a network can be given: numbers of its dtype inside of a box, and integers where the property says so."""

import re

import torch
from torch import Tensor

from bounds import Property
from bounds.numerics import converted_down

INTEGERS = re.compile(r"u?int\d+")


class Representable:
    """Inputs of the boxes of a property, as a network takes them.

    Args:
        prop: the property.
        dtype: of the network.
        device: of the network.

    Attributes:
        lower: (B, F) the least that each entry can be in each box; above ``upper`` where it can be nothing.
        upper: (B, F) the largest, likewise.
        integers: (F,) bool, entries that are integers.
    """

    def __init__(self, prop: Property, dtype: torch.dtype, device: torch.device) -> None:
        kinds = [bool(INTEGERS.fullmatch(each.element_type)) for each in prop.inputs for _ in range(each.size)]
        self.integers = torch.tensor(kinds, dtype=torch.bool, device=device)
        lower = torch.stack([box.lower for box in prop.boxes]).to(device)
        upper = torch.stack([box.upper for box in prop.boxes]).to(device)
        if any(kinds):
            lower = torch.where(self.integers, lower.ceil(), lower)
            upper = torch.where(self.integers, upper.floor(), upper)
        self.lower, self.upper = -_at_most(-lower, dtype), _at_most(upper, dtype)
        self._any_integer = any(kinds)

    @property
    def empty(self) -> Tensor:
        """(B,) bool, boxes in which some entry can be nothing."""
        return (self.lower > self.upper).any(1)

    def kind(self, entry: int) -> str:
        """Numbers that an entry can be, in a word."""
        return "integer" if bool(self.integers[entry]) else f"number of {self.lower.dtype}"

    def inside(self, x: Tensor, boxes: Tensor | int) -> Tensor:
        """The inputs (..., F) nearest to given ones in their boxes, which are not empty."""
        x = x.to(self.lower)
        if self._any_integer:
            x = torch.where(self.integers, x.round(), x)
        return torch.minimum(torch.maximum(x, self.lower[boxes]), self.upper[boxes])


def _at_most(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest finite numbers of ``dtype`` that are not above float64 values."""
    largest = torch.finfo(dtype).max
    return converted_down(values.clamp(-largest, largest), dtype)
