"""Inputs from a folder that ``datasets.Dataset.save_to_disk`` wrote, where ``datasets`` is installed."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidConfiguration, InvalidInput
from certify.configuration.data.labelled import Chooser, LabelledInputs, named_classes
from certify.configuration.keys import DataSource
from certify.importing import first_line
from certify.loaders import INPUTS, LABELS, pixels


def from_dataset(source: DataSource, choose: Chooser) -> LabelledInputs:
    """Inputs and classes of a data set on disk; images become numbers in [0, 1].

    Raises:
        InvalidConfiguration: ``datasets`` is not installed, the folder is none of it, or it is not clear which split
            or columns are meant.
    """
    data = _split(source, _loaded(str(source.dataset)))
    columns = list(data.column_names)
    inputs = _column(columns, source.inputs, INPUTS, "inputs")
    label = _column(columns, source.labels, LABELS, "labels")
    y, classes = _classes(source, data, label)
    stratum = str(source.stratum)
    strata = {stratum: np.asarray(data[stratum])} if stratum in columns else {}
    place = choose(y, strata)
    rows = [_numbers(data[row][inputs], inputs, row) for row in place.tolist()]
    for row, values in zip(place.tolist(), rows, strict=True):
        if values.shape != rows[0].shape:
            raise InvalidConfiguration(
                f"column {inputs} must hold inputs of one size, got {tuple(rows[0].shape)} in row {int(place[0])} and "
                f"{tuple(values.shape)} in row {row}: resize them as the model's training did"
            )
    notes = (f"classes: {', '.join(f'{i} {name}' for i, name in enumerate(classes))}",) if classes else ()
    return LabelledInputs(x=torch.stack(rows), y=y[place], place=place, classes=classes, notes=notes)


def _loaded(folder: str) -> Any:  # noqa: ANN401  # of a library that may be missing
    try:
        library = import_module("datasets")
    except ImportError as error:
        raise InvalidConfiguration(
            f"[data] dataset {folder} needs the package datasets, which is not installed: pip install datasets"
        ) from error
    try:
        return library.load_from_disk(folder)
    except Exception as error:  # whatever a library raises
        raise InvalidConfiguration(
            f"[data] dataset {folder} cannot be read: {first_line(error)}: write it with save_to_disk"
        ) from error


def _split(source: DataSource, data: Any) -> Any:  # noqa: ANN401
    if not isinstance(data, Mapping):  # one data set, not several
        if source.split is not None:
            raise InvalidConfiguration(
                f"[data] split {source.split!r} is not there: {source.dataset} has one part alone"
            )
        return data
    names = ", ".join(map(str, data))
    if source.split is None and len(data) > 1:
        raise InvalidConfiguration(f"[data] split must name a part of {source.dataset}, got none: there are {names}")
    split = source.split or next(iter(data))
    if split not in data:
        raise InvalidConfiguration(f"[data] split must be one of {names}, got {split!r}")
    return data[split]


def _column(columns: list[str], named: object, usual: tuple[str, ...], key: str) -> str:
    found = [name for name in columns if name in usual] if named is None else [named]
    if len(found) != 1 or found[0] not in columns:
        given = f"got {named!r}" if named is not None else "got none"
        raise InvalidConfiguration(f"[data] {key} must name a column, {given}: there are {', '.join(columns)}")
    return str(found[0])


def _classes(source: DataSource, data: Any, label: str) -> tuple[Tensor, tuple[str, ...]]:  # noqa: ANN401
    values = list(data[label])
    stated = getattr(data.features.get(label), "names", None)
    if any(isinstance(value, str) for value in values):
        return named_classes(f"column {label}", values, source.classes)
    if source.classes is not None and stated is not None:  # in another order than that of the data set
        return named_classes(f"column {label}", [stated[value] for value in values], source.classes)
    return torch.tensor(values, dtype=torch.int64, device="cpu"), tuple(source.classes or stated or ())


def _numbers(value: Any, column: str, row: int) -> Tensor:  # noqa: ANN401  # whatever the column holds
    try:
        if hasattr(value, "getbands"):
            return torch.from_numpy(pixels(value)).float() / 255
        return torch.from_numpy(np.array(value))
    except (InvalidInput, TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfiguration(f"column {column}, row {row} cannot be used: {first_line(error)}") from error
