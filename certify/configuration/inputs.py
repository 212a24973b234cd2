"""The labelled inputs that a configuration names."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.errors import InvalidConfiguration
from certify import reference
from certify.configuration.arrays import from_arrays
from certify.configuration.frames import from_table
from certify.configuration.images import from_folder
from certify.configuration.keys import TABLES, DataSource, Side
from certify.configuration.labelled import Chooser, LabelledInputs
from certify.configuration.stored_datasets import from_dataset
from certify.configuration.subsets import chosen_rows

KINDS = (".npz", ".npy", *TABLES)


def load_data(source: DataSource, like: nn.Module, at_most: int | None = None) -> LabelledInputs:
    """Inputs (N, *D) and labels (N,) in the dtype and on the device of a model's weights.

    Args:
        source: of the inputs.
        like: the model.
        at_most: take so many at most of those that the source names, evenly spread over them.

    Raises:
        InvalidConfiguration: the source cannot be read, or is not clear.
    """
    found = _read(source, partial(_spread, source, at_most))
    weight = next((weight for weight in like.parameters() if weight.is_floating_point()), torch.zeros((), device="cpu"))
    if source.file is not None and source.divide_by == 1 and source.high is None and found.x.dtype == torch.uint8:
        _require_unit_range(found.x)
    x = (found.x.to(weight.dtype) / source.divide_by).to(weight.device)
    table = bool(found.features)
    return replace(
        found,
        x=x,
        y=found.y.to(weight.device),
        low=_side("low", source.low, None if table else 0.0, x),
        high=_side("high", source.high, None if table else 1.0, x),
    )


def _require_unit_range(x: Tensor) -> None:
    if len(x) and x.max() > 1:
        raise InvalidConfiguration(
            f"x must lie in the declared range [0, 1], got values from {x.min()} to {x.max()}: images of 8 bits need "
            "[data] divide_by = 255"
        )


def _spread(source: DataSource, at_most: int | None, labels: Tensor, columns: Mapping[str, Any]) -> Tensor:
    """Places of the inputs that a source asks for, or of some of them, in ascending order."""
    place = chosen_rows(source, labels, columns)
    return place if at_most is None else place[:: max(1, -(-len(place) // at_most))]


def _read(source: DataSource, choose: Chooser) -> LabelledInputs:
    if source.folder is not None:
        return from_folder(source, choose)
    if source.dataset is not None:
        return from_dataset(source, choose)
    if source.file is not None:
        suffix = Path(source.file).suffix.lower()
        if suffix in TABLES:
            return from_table(source, choose)
        return from_arrays(source, choose)
    x, y = reference.images()
    place = choose(y, {})
    return LabelledInputs(x=x[place], y=y[place], place=place, classes=reference.CLASSES)


def _side(name: str, given: Side | None, usual: float | None, x: Tensor) -> Limit:
    """A side of the box of valid inputs."""
    if given is None:
        return usual
    if given == "none":
        return None
    if given == "data":
        return x.amin(0) if name == "low" else x.amax(0)
    if isinstance(given, list):
        if x.ndim != 2 or len(given) != x.shape[1]:
            raise InvalidConfiguration(
                f"[data] {name} must be one number, or one for each of {x.shape[1:].numel()} features, got {len(given)}"
            )
        return torch.tensor(given, dtype=x.dtype, device=x.device)
    return float(given)
