"""The parts of a property: its tensors, boxes of inputs, and the cases of unsafe outputs of each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from bounds.errors import InvalidInput
from bounds.numerics import converted_down
from bounds.sets.balls import Box


@dataclass(frozen=True)
class Variable:
    """An input or output tensor of the network.

    Attributes:
        name: as it is written, ``X`` and ``Y`` in version 1.0.
        element_type: as it is written in version 2.0, such as ``float32``; ``Real`` in version 1.0. Boxes of integers
            hold all numbers in between as well.
        shape: of the whole tensor, with a batch dimension only where one is written; (F,) in version 1.0.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class UnsafeCase:
    """Inequalities that hold all at once: ``on_inputs @ x + on_outputs @ y <= offsets``, or ``<`` where strict.

    The rows are those of the text, with all numbers on one side, and multiplied such that coefficients are the
    smallest integers. Of several rows with one left side, the tightest is left.

    Attributes:
        on_inputs: (R, F) float64, zero where a row speaks of outputs alone, as most do.
        on_outputs: (R, K) float64.
        offsets: (R,) float64, nearest to what is written.
        offsets_above: (R,) float64, the least that are not below what is written.
        strict: (R,) bool.
        rounded: whether a coefficient is no float64 number, so that it is only the nearest one.
    """

    on_inputs: Tensor
    on_outputs: Tensor
    offsets: Tensor
    offsets_above: Tensor
    strict: Tensor
    rounded: bool = False

    def specification(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """A matrix A (M, K) and a vector b (M,) for :func:`bounds.specification_bounds`, in ``dtype``.

        Every unsafe output of the case has ``A y <= b``: strict rows count as the others, offsets are rounded up, and
        rows that speak of inputs are left out. Where no row is left, A and b are one row of zeros, which every output
        meets.

        Raises:
            InvalidInput: a coefficient that ``dtype`` cannot hold.
        """
        alone = (self.on_inputs == 0).all(1)
        if not alone.any():
            zero = self.offsets.new_zeros(1, dtype=dtype)
            return zero.expand(self.on_outputs.shape[1])[None].clone(), zero
        rows = self.on_outputs[alone].to(dtype)
        if not torch.equal(rows.double(), self.on_outputs[alone]):
            raise InvalidInput(f"a coefficient of the case is no number of {dtype}: pass dtype=torch.float64")
        return rows, -converted_down(-self.offsets_above[alone], dtype)


@dataclass(frozen=True, eq=False, kw_only=True)
class UnsafeBox:
    """A box of inputs, of which those are unsafe that meet all rows of any case with their outputs.

    Attributes:
        lower: (F,) float64, nearest to what is written.
        upper: likewise.
        outer_lower: (F,) float64, the largest that are not above what is written.
        outer_upper: (F,) float64, the least that are not below what is written.
        cases: at least one.
    """

    lower: Tensor
    upper: Tensor
    outer_lower: Tensor
    outer_upper: Tensor
    cases: tuple[UnsafeCase, ...]

    def box(self, shape: Iterable[int] | None = None, dtype: torch.dtype = torch.float64) -> Box:
        """The set to prove something of: it holds every input that is written, since its sides are rounded outward.

        Args:
            shape: of its sides, with the batch dimension; (1, F) if not given.
            dtype: of the network.

        Raises:
            InvalidInput: a shape with another number of entries, a side beyond the largest number of ``dtype``.
        """
        shape = (1, len(self.lower)) if shape is None else tuple(shape)
        if math.prod(shape) != len(self.lower) or len(shape) < 2:
            raise InvalidInput(f"shape must be (1, *D) with {len(self.lower)} entries, got {shape}")
        lower, upper = converted_down(self.outer_lower, dtype), -converted_down(-self.outer_upper, dtype)
        if not bool((lower.isfinite() & upper.isfinite()).all()):
            raise InvalidInput(f"the box has sides beyond the largest {dtype}: pass dtype=torch.float64")
        return Box(lower.view(shape), upper.view(shape))


def rounded(values: Sequence[int | Fraction]) -> tuple[Tensor, Tensor, Tensor]:
    """The float64 numbers nearest to exact values, the largest that are not above, and the least that are not below.

    Raises:
        OverflowError: a value beyond the largest float64 number.
    """
    nearest = [value.numerator / value.denominator for value in values]
    below, above = nearest.copy(), nearest.copy()
    for place, value in enumerate(values):
        numerator, denominator = nearest[place].as_integer_ratio()
        excess = numerator * value.denominator - value.numerator * denominator
        if excess > 0:
            below[place] = _toward(-math.inf, nearest[place])
        elif excess < 0:
            above[place] = _toward(math.inf, nearest[place])
    found = tuple(torch.tensor(side, dtype=torch.float64, device="cpu") for side in (nearest, below, above))
    return found[0], found[1], found[2]


def _toward(end: float, value: float) -> float:
    """The neighbour of a finite number on the side of an infinite end."""
    neighbour = math.nextafter(value, end)
    if math.isinf(neighbour):
        raise OverflowError
    return neighbour
