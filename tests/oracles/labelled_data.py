"""Data as a configuration names them, for a model of float32."""

import pytest
from torch import nn

import certify
from bounds import InvalidConfiguration
from certify.configuration.data.inputs import load_data
from certify.configuration.keys import DataSource

LIKE = nn.Linear(2, 2)


def data(**keys: object) -> certify.LabelledInputs:
    return load_data(DataSource(**keys), LIKE)


def refused(message: str, **keys: object) -> None:
    with pytest.raises(InvalidConfiguration, match=message) as caught:
        data(**keys)
    assert "\n" not in str(caught.value)
