"""Inputs from ``.npz`` archives, whatever their arrays are called, and from pairs of ``.npy`` files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidConfiguration
from certify.configuration.data.labelled import Chooser, LabelledInputs, named_classes
from certify.configuration.keys import DataSource
from certify.importing import first_line
from certify.stored_inputs import rows_held, rows_of_array

Array = np.ndarray[Any, np.dtype[Any]]

MAGIC = {".npz": (b"PK", "numpy.savez(file, x=x, y=y)"), ".npy": (b"\x93NUMPY", "numpy.save(file, x)")}


def from_arrays(source: DataSource, choose: Chooser, most: float = math.inf) -> LabelledInputs:
    """Inputs and classes of arrays, in types that torch can compute with.

    Inputs of more bytes than ``most`` are read when they are needed.

    Raises:
        InvalidConfiguration: the file cannot be read, or it is not clear which arrays are meant.
    """
    file = str(source.file)
    if file.endswith(".npy"):
        if source.labels is None:
            raise InvalidConfiguration(f'[data] file {file} holds inputs alone: name their classes, labels = "y.npy"')
        pair, columns = (_array(file), _array(source.labels)), {}
    else:
        arrays = _archive(file, {"x", "y", str(source.inputs), source.labels})
        pair = _pair(source, arrays)
        columns = {name: array for name, array in arrays.items() if array.shape == pair[1].shape[:1]}
    x, y = _checked(file, *pair, source)
    labels, classes = _labels(y, source)
    place = choose(labels, columns)
    if source.channels_last and x.ndim != 4:
        raise InvalidConfiguration(
            f"[data] channels_last is for images (N, height, width, channels), got x of shape {tuple(x.shape)}"
        )
    inputs = rows_held(rows_of_array(x, place.numpy(), channels_last=source.channels_last), len(place), most)
    return LabelledInputs(x=cast(Tensor, inputs), y=labels[place], place=place, classes=classes)


def _array(file: str) -> Array:
    """The array of a ``.npy`` file, of which only those entries are read that are looked at."""
    _require_magic(file, ".npy")
    try:
        found: Array = np.load(file, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # a damaged file fails in many ways
        raise InvalidConfiguration(f"data file {file} cannot be read: {_reason(error)}") from error
    return found


def _archive(file: str, wanted: set[object]) -> dict[str, Array]:
    """The arrays of a ``.npz`` archive, without those of Python objects, which must not be the wanted ones."""
    _require_magic(file, ".npz")
    found = {}
    try:
        # np.load leaves a file that it opened itself open if the archive is damaged.
        with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            for name in stored.files:
                try:
                    found[name] = stored[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error) or name in wanted:
                        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise InvalidConfiguration(f"data file {file} cannot be read: {_reason(error)}") from error
    return found


def _require_magic(file: str, suffix: str) -> None:
    """Refuse a file that is something else: numpy would take it for a pickle, and advise to allow these."""
    magic, remedy = MAGIC[suffix]
    try:
        with Path(file).open("rb") as opened:
            begins = opened.read(len(magic)) == magic
    except OSError as error:
        raise InvalidConfiguration(f"data file {file} cannot be read: {error.strerror}") from error
    if not begins:
        raise InvalidConfiguration(f"data file {file} cannot be read: it is no {suffix} file: write it with {remedy}")


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects, which may run code when read: save arrays of numbers"
    return first_line(error)


def _pair(source: DataSource, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """The arrays of inputs and of classes: those that are named, those called x and y, or the only ones that fit."""
    file = source.file
    for key in ("inputs", "labels"):
        name = getattr(source, key)
        if name is not None and (not isinstance(name, str) or name not in arrays):
            raise InvalidConfiguration(f"[data] {key} must be an array of {file}, got {name!r}: it has {shown(arrays)}")
    if source.inputs is None and source.labels is None and {"x", "y"} <= arrays.keys():
        return arrays["x"], arrays["y"]
    xs = [str(source.inputs)] if source.inputs else [name for name in arrays if _may_be_inputs(arrays[name])]
    ys = [source.labels] if source.labels else [name for name in arrays if _may_be_labels(arrays[name])]
    pairs = [(x, y) for x in xs for y in ys if x != y and arrays[x].shape[:1] == arrays[y].shape[:1]]
    if len(pairs) == 1:
        return arrays[pairs[0][0]], arrays[pairs[0][1]]
    raise InvalidConfiguration(
        f"data file {file} must hold inputs (N, *D) and classes (N,), but has {shown(arrays)}, of which "
        f'{"several pairs" if pairs else "no two"} fit: name two, such as [data] inputs = "{(xs or ["x"])[0]}" and '
        f'labels = "{(ys or ["y"])[0]}"'
    )


def _may_be_inputs(array: Array) -> bool:
    return array.ndim >= 2 and array.dtype.kind in "biuf" and not (array.shape[1:] == (1,) and array.dtype.kind in "iu")


def _may_be_labels(array: Array) -> bool:
    return array.dtype.kind in "iu" and (array.ndim == 1 or array.shape[1:] == (1,))


def shown(arrays: Mapping[str, Any]) -> str:
    """The arrays of a file, by name, shape and type."""
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items()) or "none"


def _checked(file: str, x: Array, y: Array, source: DataSource) -> tuple[Array, Array]:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    named = source.classes is not None and y.dtype.kind in "US"
    if x.dtype.kind not in "biuf" or not (y.dtype.kind in "biufc" or named):
        raise InvalidConfiguration(f"data file {file} must hold real x and integer y, got {x.dtype} and {y.dtype}")
    if x.ndim < 2 or y.ndim < 1:
        raise InvalidConfiguration(f"data file {file} must hold x (N, *D) and y (N,), got {x.shape} and {y.shape}")
    if len(x) != len(y):
        raise InvalidConfiguration(f"data file {file} must hold one label per input, got {len(x)} and {len(y)}")
    return x, y


def _labels(y: Array, source: DataSource) -> tuple[Tensor, tuple[str, ...]]:
    """Classes as a tensor; by their names, where the source gives these."""
    if y.dtype.kind in "US":
        return named_classes(f"file {source.file}", [*map(str, y)], source.classes)
    if y.dtype.kind in "iu":
        y = y.astype(np.int64)
    return torch.from_numpy(np.array(y)), tuple(source.classes or ())
