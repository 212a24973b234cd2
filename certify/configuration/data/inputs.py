"""The labelled inputs that a configuration names."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bounds.checks import PART, Limit
from bounds.errors import InvalidConfiguration
from certify import reference
from certify.configuration.data.arrays import from_arrays
from certify.configuration.data.frames import from_table
from certify.configuration.data.images import from_folder
from certify.configuration.data.labelled import Chooser, LabelledInputs
from certify.configuration.data.stored_datasets import from_dataset
from certify.configuration.data.subsets import chosen_rows
from certify.configuration.keys import TABLES, DataSource, Side
from certify.stored_inputs import Rows, StoredInputs

KINDS = (".npz", ".npy", *TABLES)
HELD = 2**28  # bytes of inputs that a run reads at once, at most
OF_INPUTS = 0.1  # of the memory of a run, for these


def load_data(
    source: DataSource, like: nn.Module, at_most: int | None = None, *, held: float = math.inf
) -> LabelledInputs:
    """Inputs (N, *D) and labels (N,) in the dtype and on the device of a model's weights.

    Args:
        source: of the inputs.
        like: the model.
        at_most: take so many at most of those that the source names, evenly spread over them.
        held: bytes of inputs that are read at once; of more, in arrays or folders, rows are read when they are needed.

    Raises:
        InvalidConfiguration: the source cannot be read, or is not clear.
    """
    found = _read(source, partial(_spread, source, at_most), held)
    weight = next((weight for weight in like.parameters() if weight.is_floating_point()), torch.zeros((), device="cpu"))
    if source.file is not None and source.divide_by == 1 and source.high is None and found.x.dtype == torch.uint8:
        _require_unit_range(found.x)

    def scaled(rows: Tensor) -> Tensor:
        return rows.to(weight.dtype) / source.divide_by

    given: object = found.x
    x = given.mapped(scaled, weight.device) if isinstance(given, StoredInputs) else scaled(found.x).to(weight.device)
    table = bool(found.features)
    return replace(
        found,
        x=cast(Tensor, x),  # which stored inputs stand in for, where a run takes rows of them
        y=found.y.to(weight.device),
        low=_side("low", source.low, None if table else 0.0, x),
        high=_side("high", source.high, None if table else 1.0, x),
    )


def _require_unit_range(x: Rows) -> None:
    if len(x) and (highest := _of_each(x, torch.amax).max()) > 1:
        lowest = _of_each(x, torch.amin).min()
        raise InvalidConfiguration(
            f"x must lie in the declared range [0, 1], got values from {lowest} to {highest}: images of 8 bits need "
            "[data] divide_by = 255"
        )


def _spread(source: DataSource, at_most: int | None, labels: Tensor, columns: Mapping[str, Any]) -> Tensor:
    """Places of the inputs that a source asks for, or of some of them, in ascending order."""
    place = chosen_rows(source, labels, columns)
    return place if at_most is None else place[:: max(1, -(-len(place) // at_most))]


def _of_each(x: Rows, extreme: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The least or largest value of each feature, (*D)."""
    return extreme(torch.stack([extreme(part, 0) for part in x.split(PART)]), 0)


def _read(source: DataSource, choose: Chooser, held: float) -> LabelledInputs:
    if source.folder is not None:
        return from_folder(source, choose, held)
    if source.dataset is not None:
        return from_dataset(source, choose)
    if source.file is not None:
        suffix = Path(source.file).suffix.lower()
        if suffix in TABLES:
            return from_table(source, choose)
        return from_arrays(source, choose, held)
    x, y = reference.images()
    place = choose(y, {})
    return LabelledInputs(x=x[place], y=y[place], place=place, classes=reference.CLASSES)


def _side(name: str, given: Side | None, usual: float | None, x: Rows) -> Limit:
    """A side of the box of valid inputs."""
    if given is None:
        return usual
    if given == "none":
        return None
    if given == "data":
        return _of_each(x, torch.amin if name == "low" else torch.amax)
    if isinstance(given, list):
        if x.ndim != 2 or len(given) != x.shape[1]:
            raise InvalidConfiguration(
                f"[data] {name} must be one number, or one for each of {x.shape[1:].numel()} features, got {len(given)}"
            )
        return torch.tensor(given, dtype=x.dtype, device=x.device)
    return float(given)
