"""Rows that all results share, and the draws that some rest on."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """Base of all results: tensors with one row per input, and numbers that hold for all rows."""

    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy on ``device``; ``dtype`` changes floating fields of the shape of the inputs only.

        Numbers of a row, such as radii, distances and probabilities, stay float64: rounding could break what
        they promise. An adversarial input that was rounded is no longer the one that was checked.
        """
        moved = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, dtype if value.is_floating_point() and value.ndim > 1 else None)
        return dataclasses.replace(self, **moved)

    def cpu(self) -> Self:
        """A copy on the CPU."""
        return self.to("cpu")

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input. What is said of all rows is repeated, counts (N, K) give a column per class.

        Fields of another kind, such as the parts of a proof, have no column.
        """
        import pandas as pd

        columns: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Tensor):
                words = isinstance(value, tuple) and len(value) == len(self) and all(isinstance(v, str) for v in value)
                if words or value is None or isinstance(value, bool | int | float | str):
                    columns[field.name] = value
            elif value.ndim == 1:
                columns[field.name] = value.cpu().numpy()
            elif value.ndim == 2 and not value.is_floating_point():
                columns |= {f"{field.name}_{k}": value[:, k].cpu().numpy() for k in range(value.shape[1])}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="row"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawn(Record):
    """Base of statements that rest on noise draws: what the draws are a function of, and what the statement is about.

    Attributes:
        subject: the smoothed model.
        domain: the perturbed inputs that the statement is about, ``"any input"`` or a part of them.
        seed: run seed; noise is a function of it, the index of the input and the block of draws.
        first_index: index of row 0 in its data set.
        noise_group: consecutive inputs that share their noise draws; 1 makes all inputs independent.
        sampling: how noisy inputs are made; with ``"floating point"`` the theorem holds up to the rounding of noisy
            inputs, with all others exactly.
        precision: dtype in which the model answers.
        draws_version: version of what a seed means: another one gives other draws.
        sampling_error: total variation distance, of a whole noisy input, between the noise as drawn and the noise that
            the theorem is about, at most; probabilities are lowered by it.
    """

    subject: str
    domain: str
    seed: int
    first_index: int
    noise_group: int
    sampling: str
    precision: str
    sampling_error: float = 0.0
    draws_version: int = 1
