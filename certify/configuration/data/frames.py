"""Inputs from a table in a file: a row for each input, a column for the classes, the others for features."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bounds.errors import InvalidConfiguration
from certify.configuration.data.labelled import Chooser, LabelledInputs, named_classes
from certify.configuration.keys import DataSource
from certify.importing import first_line

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("label", "labels", "target", "class", "y")
MOST = 1000  # categories of a column, beyond which it is rather a name or a text


def from_table(source: DataSource, choose: Chooser) -> LabelledInputs:
    """Features as numbers (N, D), and classes.

    Features stand in the order of the columns, each categorical column replaced by one feature for each of its
    categories, in sorted order. Numbers as classes stay as they are; names of classes are numbered in sorted order.

    Raises:
        InvalidConfiguration: the file cannot be read, has no column of classes, lacks values, or holds text that is
            no category.
    """
    frame = _frame(str(source.file))
    label = _label_column(source, frame)
    y, classes = _classes(source, frame, label)
    names = _features(source, frame, label)
    parts: list[Any] = []
    features: list[str] = []
    groups: dict[str, tuple[int, ...]] = {}
    for name in names:
        columns, own = _encoded(source, frame[name], name)
        if len(own) > 1 or own[0] != name:
            groups[name] = tuple(range(len(features), len(features) + len(own)))
        features += own
        parts.append(columns)
    place = choose(y, {str(name): frame[name].to_numpy() for name in frame.columns})
    x = torch.from_numpy(np.concatenate(parts, 1)[place.numpy()])
    notes = [f"features in order: {', '.join(features)}"]
    notes += [f"column {name} became features {where[0]} to {where[-1]}, one-hot" for name, where in groups.items()]
    return LabelledInputs(
        x=x, y=y[place], place=place, classes=classes, features=tuple(features), groups=groups, notes=tuple(notes)
    )


def _frame(file: str) -> "pd.DataFrame":
    import pandas as pd

    try:
        frame = pd.read_parquet(file) if file.endswith(".parquet") else pd.read_csv(file)
    except ImportError as error:
        raise InvalidConfiguration(
            f"data file {file} needs the package pyarrow, which is not installed: pip install pyarrow, or write the "
            "table as .csv"
        ) from error
    except OSError as error:
        raise InvalidConfiguration(f"data file {file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged table fails in many ways
        raise InvalidConfiguration(
            f"data file {file} cannot be read as a table: {first_line(error)}: its first line must name the columns"
        ) from error
    if frame.empty:
        raise InvalidConfiguration(f"data file {file} must hold at least one row and column, got shape {frame.shape}")
    frame.columns = frame.columns.map(str)
    return frame


def _label_column(source: DataSource, frame: "pd.DataFrame") -> str:
    columns = ", ".join(frame.columns)
    if source.labels is not None:
        if source.labels not in frame.columns:
            raise InvalidConfiguration(f"[data] labels must be a column, got {source.labels!r}: there are {columns}")
        return source.labels
    found = [name for name in frame.columns if name.lower() in LABELS]
    if len(found) != 1:
        raise InvalidConfiguration(
            f"[data] labels must name the column of the classes of {source.file}: there are {columns}"
        )
    return str(found[0])


def _classes(source: DataSource, frame: "pd.DataFrame", label: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    column = frame[label]
    _require_whole(column, label)
    whole = column.dtype.kind in "iu" or (column.dtype.kind == "f" and bool((column == column.round()).all()))
    if whole and source.classes is None:
        return torch.from_numpy(column.to_numpy().astype(np.int64)), ()
    values = column.astype(np.int64) if whole else column
    if column.dtype.kind == "f" and not whole:
        raise InvalidConfiguration(
            f"[data] labels must be whole numbers or names, got {label} with {float(column.iloc[0])!r}: certificates "
            "are of classes, so cut a quantity into some"
        )
    return named_classes(f"column {label}", list(values), source.classes)


def _features(source: DataSource, frame: "pd.DataFrame", label: str) -> list[str]:
    names = source.inputs if isinstance(source.inputs, list) else None
    if source.inputs is not None and names is None:
        names = [str(source.inputs)]
    if names is None:
        names = [str(name) for name in frame.columns if name not in (label, source.stratum)]
    there = [name for name in frame.columns if name != label]
    for key, given, known in (
        ("inputs", names, there),
        ("categorical", source.categorical or [], there),
        ("frozen", source.frozen or [], names),
    ):
        if missing := [name for name in given if name not in known]:
            raise InvalidConfiguration(
                f"[data] {key} must be columns of features, got {missing[0]!r}: there are {', '.join(known)}"
            )
    if not names:
        raise InvalidConfiguration(f"data file {source.file} must have columns of features besides {label}, got none")
    return names


def _encoded(source: DataSource, column: "pd.Series[Any]", name: str) -> tuple[Any, list[str]]:
    """The features of one column, (N, C), and their names."""
    _require_whole(column, name)
    numeric = column.dtype.kind in "biuf" and str(column.dtype) != "category"
    if numeric and name not in (source.categorical or []):
        return column.to_numpy().astype(np.float64)[:, None], [name]
    texts = column.astype(str)
    categories = sorted(set(texts), key=float if numeric else None)
    if len(categories) > MOST:
        raise InvalidConfiguration(
            f"column {name} must have at most {MOST} categories, got {len(categories)}: leave it out with [data] inputs"
        )
    return np.stack([(texts == each).to_numpy() for each in categories], 1).astype(np.float64), [
        f"{name}={each}" for each in categories
    ]


def _require_whole(column: "pd.Series[Any]", name: str) -> None:
    lacking = column.isna().to_numpy()
    if lacking.any():
        raise InvalidConfiguration(
            f"column {name} must have a value in each row, got none in {lacking.sum()}, first in row "
            f"{lacking.argmax()}: fill them as the model's training did, or drop these rows"
        )
