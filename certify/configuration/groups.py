"""Groups of the inputs that a configuration names."""

from pathlib import Path

import numpy as np
from torch import Tensor

from bounds.errors import InvalidConfiguration
from certify.configuration.config import Config
from certify.configuration.keys import TABLES


def load_groups(config: Config, place: Tensor | None = None) -> list[int | str] | str | None:
    """The group of each input as :func:`certify.evaluate` takes it: ``"label"``, or an array of the data file.

    Args:
        config: with ``groups``, the name of an array of an ``.npz`` file or of a column of a table.
        place: (N,) places of the inputs in the file; None for the first ones, as many as ``count`` says.

    Raises:
        InvalidConfiguration: there is no such array, or the file cannot be read.
    """
    name, file = config.groups, config.data.file
    if name is None or name == "label":
        return name
    if file is None or Path(file).suffix.lower() not in (".npz", *TABLES):
        raise InvalidConfiguration(
            f'groups must be "label" unless [data] file is an .npz file or a table, got {name!r}'
        )
    try:
        there, values = _column(Path(file), name)
    except Exception as error:  # a damaged file fails in many ways
        raise InvalidConfiguration(f"data file {file} cannot be read: {error}") from error
    if values is None:
        known = ", ".join(sorted({"label", *there}))
        raise InvalidConfiguration(f"groups must name an array (N,) of the data file, one of {known}, got {name!r}")
    return values[: config.data.count] if place is None else [values[i] for i in place.tolist()]


def _column(file: Path, name: str) -> tuple[list[str], list[int | str] | None]:
    """The names of all arrays (N,) of a file, and the values of one; None if it is not there."""
    if file.suffix.lower() in TABLES:
        import pandas as pd

        table = pd.read_csv(file) if file.suffix.lower() == ".csv" else pd.read_parquet(file)
        columns = [str(column) for column in table.columns]
        return columns, table[name].tolist() if name in columns else None
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        arrays = {each: stored[each] for each in stored.files}
        flat = [each for each, values in arrays.items() if values.ndim == 1]
        return flat, arrays[name].tolist() if name in flat else None
