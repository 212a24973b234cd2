"""Unsafe sets of many boxes and cases as tensors, for losses of many points at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import Property
from bounds.vnnlib.records import UnsafeCase

Pair = tuple[int, UnsafeCase]  # the place of a box, and one of its cases
SMOOTH = 0.1  # weight of the mean of all rows that fail, besides the one that fails by most


@dataclass(frozen=True, eq=False)
class UnsafeSets:
    """P unsafe sets, padded to as many rows; float64.

    Attributes:
        on_inputs: (P, M, F), or None where no row speaks of inputs.
        on_outputs: (P, M, K).
        offsets: (P, M), infinite in rows that only pad.
    """

    on_inputs: Tensor | None
    on_outputs: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, cases: Sequence[UnsafeCase], device: torch.device) -> "UnsafeSets":
        """The sets of some cases."""
        rows = max(1, *(len(case.offsets) for case in cases))
        shape = (len(cases), rows)
        offsets = torch.full(shape, torch.inf, dtype=torch.float64, device="cpu")
        on_outputs = offsets.new_zeros(*shape, cases[0].on_outputs.shape[1])
        mixed = any(bool((case.on_inputs != 0).any()) for case in cases)
        on_inputs = offsets.new_zeros(*shape, cases[0].on_inputs.shape[1]) if mixed else None
        for place, case in enumerate(cases):
            count = len(case.offsets)
            offsets[place, :count] = case.offsets
            on_outputs[place, :count] = case.on_outputs
            if on_inputs is not None:
                on_inputs[place, :count] = case.on_inputs
        moved = None if on_inputs is None else on_inputs.to(device)
        return cls(moved, on_outputs.to(device), offsets.to(device))

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """By how much points (R, P, F) with outputs (R, P, K) miss each row of their sets, (R, P, M)."""
        missed = torch.einsum("pmk,rpk->rpm", self.on_outputs, y.double())
        if self.on_inputs is not None:
            missed = missed + torch.einsum("pmf,rpf->rpm", self.on_inputs, x.double())
        return missed - self.offsets

    def every(self, x: Tensor, y: Tensor) -> Tensor:
        """By how much points (S, F) with outputs (S, K) miss the worst row of each set, (P, S)."""
        missed = torch.einsum("pmk,sk->psm", self.on_outputs, y.double())
        if self.on_inputs is not None:
            missed = missed + torch.einsum("pmf,sf->psm", self.on_inputs, x.double())
        return _finite((missed - self.offsets[:, None]).amax(2))


def losses(missed: Tensor) -> tuple[Tensor, Tensor]:
    """Losses to descend, (R, P), and by how much the worst row is missed, (R, P): at most 0 where a set is met."""
    worst = _finite(missed.amax(2))
    return worst + SMOOTH * missed.clamp(min=0).mean(2), worst


def pairs_of(prop: Property) -> list[Pair]:
    """Every case with the place of its box."""
    return [(place, case) for place, box in enumerate(prop.boxes) for case in box.cases]


def _finite(worst: Tensor) -> Tensor:
    """Points that give no number miss by infinitely much, and count for nothing in gradients."""
    return worst.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.finfo(worst.dtype).max)
