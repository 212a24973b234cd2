"""Columns of a table that no perturbation changes, as a setting of the methods that can keep features."""

import msgspec

from bounds.errors import InvalidConfiguration
from certify.configuration.config import Config
from certify.configuration.data.labelled import LabelledInputs
from certify.methods.base import Method
from certify.methods.frozen import WithFrozenFeatures
from certify.report.words import listed


def methods_for(config: Config, data: LabelledInputs) -> tuple[list[Method | str], str]:
    """The methods of a configuration with its frozen columns, and a sentence about those that change all features.

    Methods with ``frozen_features`` of their own keep these. The sentence is empty where no column is frozen.

    Raises:
        InvalidInput: no such column.
        InvalidConfiguration: columns are frozen for a preset.
    """
    columns = config.data.frozen or []
    if not columns:
        return config.asked_methods(), ""
    if config.preset is not None:
        raise InvalidConfiguration(
            f"[data] frozen needs methods by their names, got preset = {config.preset!r}: some methods of a preset may "
            f"change all features"
        )
    methods = config.chosen_methods()
    mask = data.frozen(*columns)
    able = [method for method in methods if isinstance(method, WithFrozenFeatures)]
    unable = [method.name for method in methods if method not in able]
    said = f"{listed(columns)} keep their values in {listed([method.name for method in able]) or 'no method'}"
    if unable:
        said += f"; {listed(unable)} may change all features"
    return [
        msgspec.structs.replace(method, frozen_features=mask)
        if isinstance(method, WithFrozenFeatures) and method.frozen_features is None
        else method
        for method in methods
    ], said
