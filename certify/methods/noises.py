"""Noises in plain values: for the manifest of a run, and for the tables of a configuration."""

import inspect
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from bounds.errors import InvalidConfiguration, InvalidInput
from certify.importing import imported, reference_of
from certify.smoothing import (
    Ablation,
    DiscreteNoise,
    Gaussian,
    GeneralizedGaussian,
    InNorm,
    Laplace,
    Noise,
    SplittingNoise,
    Uniform,
    UniformInBox,
    UniformLInf,
)

NOISES: dict[str, type[Noise]] = {
    "gaussian": Gaussian,
    "generalized_gaussian": GeneralizedGaussian,
    "laplace": Laplace,
    "uniform": Uniform,
    "uniform_in_box": UniformInBox,
    "uniform_linf": UniformLInf,
    "splitting": SplittingNoise,
    "discrete": DiscreteNoise,
    "ablation": Ablation,
    "in_norm": InNorm,
}


def parameters_of(kind: type[Noise]) -> tuple[str, ...]:
    """Names of what a noise is made from."""
    return tuple(inspect.signature(kind).parameters)


def plain_noise(noise: Noise) -> dict[str, Any]:
    """A noise in plain values: its name, or the reference of its class, and the arguments that it was made from.

    >>> plain_noise(Laplace(scale=0.5))
    {'name': 'laplace', 'scale': 0.5}

    Raises:
        InvalidInput: it does not keep its arguments under their names, or they are no plain values.
    """
    names = {kind: name for name, kind in NOISES.items()}
    values: dict[str, Any] = {"name": names.get(type(noise)) or reference_of(type(noise))}
    for parameter in parameters_of(type(noise)):
        if not hasattr(noise, parameter):
            raise InvalidInput(
                f"noise {noise} cannot be written down in a manifest: it keeps no attribute {parameter!r}, with which "
                "it was made, so make it a dataclass"
            )
        values[parameter] = _plain(noise, getattr(noise, parameter))
    return values


def _plain(noise: Noise, value: object) -> object:
    if isinstance(value, Noise):
        return plain_noise(value)
    if isinstance(value, Fraction):
        return str(value)
    if value == math.inf:
        return "inf"
    if not isinstance(value, int | float | str | None):
        raise InvalidInput(f"noise {noise} cannot be written down in a manifest: {value!r} is no number or text")
    return value


def noise_of(plain: Mapping[str, Any]) -> Noise:
    """The noise that :func:`plain_noise` wrote down, or that a table of a configuration describes.

    >>> noise_of({"name": "laplace", "scale": 0.5})
    Laplace(scale=0.5)

    Raises:
        InvalidConfiguration: no such noise, or not with these arguments.
    """
    kind = noise_class(plain.get("name"))
    arguments = {key: _read(value) for key, value in plain.items() if key != "name"}
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        takes = ", ".join(parameters_of(kind))
        raise InvalidConfiguration(f"noise {plain['name']!r} takes {takes}, but: {error}") from error
    try:
        return kind(**arguments)
    except (TypeError, AttributeError) as error:  # a text where a number belongs
        raise InvalidConfiguration(f"noise {plain['name']!r}: {error}") from error


def noise_class(name: object) -> type[Noise]:
    """The class of a name such as ``"laplace"``, or of ``module:Class``."""
    kind: object = NOISES.get(name) if isinstance(name, str) else None
    if isinstance(name, str) and ":" in name:
        kind = imported("noise", name)
    if not (isinstance(kind, type) and issubclass(kind, Noise)):
        raise InvalidConfiguration(f"noise must be one of {', '.join(NOISES)}, or module:Class, got {name!r}")
    return kind


def _read(value: object) -> object:
    if isinstance(value, Mapping):
        return noise_of(value)
    if value == "inf":
        return math.inf
    if isinstance(value, str) and "/" in value:
        try:
            return Fraction(value)
        except (ValueError, ZeroDivisionError):
            return value
    return value
