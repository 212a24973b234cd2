"""Groups of the inputs that a configuration names."""

from pathlib import Path

import numpy as np

from bounds.errors import InvalidConfiguration
from certify.configuration.config import Config


def load_groups(config: Config) -> list[int | str] | str | None:
    """The group of each input as :func:`certify.evaluate` takes it: ``"label"``, or an array of the data file.

    Raises:
        InvalidConfiguration: there is no such array, or it has another length.
    """
    name, file = config.groups, config.data.file
    if name is None or name == "label":
        return name
    if file is None or Path(file).suffix != ".npz":
        raise InvalidConfiguration(f'groups must be "label" unless [data] file is an .npz file, got {name!r}')
    try:
        with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            there = [each for each in stored.files if stored[each].ndim == 1]
            values = stored[name] if name in there else None
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"data file {file} cannot be read: {error}") from error
    if values is None:
        known = ", ".join(sorted({"label", *there}))
        raise InvalidConfiguration(f"groups must name an array (N,) of the data file, one of {known}, got {name!r}")
    names: list[int | str] = values[: config.data.count].tolist()
    return names
