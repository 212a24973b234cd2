"""The property of a network, by which inputs with their outputs are unsafe."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.vnnlib.membership import unsafe
from bounds.vnnlib.records import UnsafeBox, UnsafeCase, Variable, rounded
from bounds.vnnlib.writer import written


@dataclass(frozen=True, eq=False, kw_only=True)
class Property:
    """The inputs of a network that are unsafe: in a box, and meeting one of its cases together with their outputs.

    The property is violated ("sat") where some input is unsafe, and holds ("unsat") where none is. It holds for every
    network if there is no box.

    **Two readings of numbers.** The sides of boxes and the offsets of rows are the float64 numbers nearest to what is
    written, by which a witness counts; :meth:`is_unsafe` evaluates these without any rounding. What is to be proved
    must hold for the decimals that are written as well: :meth:`UnsafeBox.box <bounds.vnnlib.records.UnsafeBox.box>` and
    :meth:`UnsafeCase.specification <bounds.vnnlib.records.UnsafeCase.specification>` round outward, so that they hold
    every input and output that is unsafe by either reading. Coefficients are exact unless ``UnsafeCase.rounded`` says
    otherwise.

    Several inputs or outputs are one after the other, each flattened, in the order of the network.

    Attributes:
        inputs: input tensors.
        outputs: output tensors.
        boxes: boxes of inputs, of which no two are the same; they may overlap.
    """

    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    boxes: tuple[UnsafeBox, ...]

    @property
    def num_inputs(self) -> int:
        """Number F of entries of all inputs."""
        return sum(each.size for each in self.inputs)

    @property
    def num_outputs(self) -> int:
        """Number K of entries of all outputs."""
        return sum(each.size for each in self.outputs)

    @classmethod
    def of_robustness(
        cls,
        x: Tensor,
        label: int,
        *,
        epsilon: float,
        num_classes: int,
        low: Limit = 0.0,
        high: Limit = 1.0,
    ) -> "Property":
        """The property that another class reaches the value of the label within an l-infinity ball: a tie is unsafe.

        Args:
            x: (1, *D) floating, one input within the box of valid inputs.
            label: its class.
            epsilon: radius of the ball, in units of the input; at least 0.
            num_classes: number K of outputs, at least 2.
            low: lower side of the box of valid inputs: a number, a tensor that broadcasts to one input, or None.
            high: upper side, likewise.

        Raises:
            InvalidInput: no single input, one outside of the box, a negative radius, a label that is no class.
        """
        epsilon = checks.nonnegative("epsilon", epsilon)
        checks.at_least("num_classes", num_classes, 2)
        if checks.at_least("label", label, 0) >= num_classes:
            raise InvalidInput(f"label must be a class from 0 to {num_classes - 1}, got {label}")
        if len(checks.inputs(x, low, high)) != 1:
            raise InvalidInput(f"x must be one input, of shape (1, *D), got {tuple(x.shape)}: make a property of each")
        sides = []
        for limit, sign in ((low, -1), (high, 1)):
            entries = x.double().flatten()
            ends = [Fraction(value) + sign * Fraction(epsilon) for value in entries.tolist()]
            if limit is not None:
                side = torch.as_tensor(limit, dtype=torch.float64, device=x.device).expand_as(x).flatten()
                side = torch.minimum(side, entries) if sign < 0 else torch.maximum(side, entries)  # x has other digits
                tighter = max if sign < 0 else min
                ends = [tighter(end, Fraction(value)) for end, value in zip(ends, side.tolist(), strict=True)]
            sides.append(rounded(ends))
        (lower, outer_lower, _), (upper, _, outer_upper) = sides
        box = UnsafeBox(
            lower=lower,
            upper=upper,
            outer_lower=outer_lower,
            outer_upper=outer_upper,
            cases=tuple(
                _reaches(other, label, num_classes, len(lower)) for other in range(num_classes) if other != label
            ),
        )
        inputs, outputs = Variable("X", "Real", tuple(x.shape)), Variable("Y", "Real", (num_classes,))
        return cls(inputs=(inputs,), outputs=(outputs,), boxes=(box,))

    def is_unsafe(self, x: Tensor, y: Tensor, tolerance: float = 0.0) -> Tensor:
        """Whether inputs with their outputs are unsafe: exactly, so that a tie meets ``<=`` and does not meet ``<``.

        Args:
            x: (N, *D) floating, with F entries in a row.
            y: (N, *) floating, the outputs of the network, with K entries in a row.
            tolerance: by which each side of a box and each row may be missed; in units of the rows, at least 0.

        Returns:
            (N,) bool on the device of ``x``; False where a row holds NaN or infinity.

        Raises:
            InvalidInput: tensors of other shapes, a negative tolerance.
        """
        tolerance = checks.nonnegative("tolerance", tolerance)
        for name, value, entries in (("x", x, self.num_inputs), ("y", y, self.num_outputs)):
            if checks.tensor(name, value).ndim < 2 or value.shape[1:].numel() != entries:
                raise InvalidInput(
                    f"{name} must have shape (N, *) with {entries} entries a row, got {tuple(value.shape)}"
                )
        if len(x) != len(y):
            raise InvalidInput(f"x and y must have as many rows, got {len(x)} and {len(y)}")
        inputs, outputs = x.detach().flatten(1).double(), y.detach().flatten(1).double().to(x.device)
        finite = (inputs.isfinite().all(1) & outputs.isfinite().all(1)).nonzero()[:, 0]
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        found[finite] = unsafe(self.boxes, inputs[finite], outputs[finite], tolerance)
        return found

    def to_vnnlib(self) -> str:
        """The property as text of version 1.0.

        What is read from it has the same sides and, unless ``UnsafeCase.rounded``, the same rows, so that the same
        points are unsafe.
        """
        return written(self.boxes, self.num_inputs, self.num_outputs)


def _reaches(other: int, label: int, num_classes: int, inputs: int) -> UnsafeCase:
    """The outputs where another class is at least the label."""
    row = torch.zeros(1, num_classes, dtype=torch.float64, device="cpu")
    row[0, label], row[0, other] = 1.0, -1.0
    zero = row.new_zeros(1)
    on_inputs = zero[None].expand(1, inputs)
    return UnsafeCase(
        on_inputs=on_inputs, on_outputs=row, offsets=zero, offsets_above=zero, strict=zero.bool(), rounded=False
    )
