"""Methods as tables of plain values: in a configuration, and in the manifest of a run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bounds.errors import InvalidConfiguration
from certify.importing import imported, in_folder, reference_of
from certify.methods.base import Method
from certify.methods.checked import converted
from certify.methods.choice import BY_NAME
from certify.methods.copies import GivenCopy, QuantisedCopy
from certify.methods.frozen import WithFrozenFeatures, mask_from_file
from certify.methods.noises import noise_class, noise_of, parameters_of, plain_noise
from certify.methods.smoothed import Smoothed
from certify.smoothing import Noise

Table = dict[str, Any]


def table_of(method: Method) -> Table:
    """The settings of a method in plain values; with its class where its name does not tell that.

    >>> from certify.methods import IntervalBounds
    >>> table_of(IntervalBounds(name="wide", tolerance=0.1))
    {'class': 'ibp', 'frozen_features': None, 'tolerance': 0.1, 'sound': 'rounding'}
    """
    settings = {name: getattr(method, name) for name in method.__struct_fields__ if name != "name"}
    values = msgspec.to_builtins({name: _plain(value) for name, value in settings.items()})
    names = {kind: name for name, kind in BY_NAME.items()}
    kind = names.get(type(method)) or reference_of(type(method))
    return values if kind == method.name else {"class": kind, **values}


def _plain(value: object) -> object:
    """A setting that is no plain value as a table."""
    if isinstance(value, GivenCopy):
        return value.plain()
    return plain_noise(value) if isinstance(value, Noise) else value


def methods_from(tables: object, folder: Path | None = None) -> list[Method]:
    """Methods from the tables of a configuration or a manifest; files in them are sought in the folder.

    ``[methods.ibp]`` is a method by its name, ``[[methods.smoothing]]`` one of several settings of a method, which are
    numbered unless they have a ``name``, ``[methods.smoothing.wide]`` one with the name ``wide``, and
    ``[methods.mine]`` with ``class = "my_module:Mine"`` a method of one's own.

    Raises:
        InvalidConfiguration: no such method, or a wrong or unknown setting.
    """
    if not isinstance(tables, Mapping):
        raise InvalidConfiguration(f"methods must be tables such as [methods.ibp], got {tables!r}")
    methods = [_method(*each, folder) for key, value in tables.items() for each in _tables(str(key), value)]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise InvalidConfiguration(f"[methods] must have different names, got {', '.join(names)}: set name = ")
    return methods


def _tables(key: str, value: object) -> Iterator[tuple[str, str, Table]]:
    """The tables below one key of the file, each with its place there and the name of the method."""
    if isinstance(value, list):
        for number, table in enumerate(value, start=1):
            name = key if len(value) == 1 else f"{key} {number}"
            yield f"[[methods.{key}]]", name, _with_class(table, key, f"[[methods.{key}]]")
        return
    table = _with_class(value, key, f"[methods.{key}]")
    settings = {**table}
    kind = BY_NAME.get(settings.pop("class"))
    known = set() if kind is None else set(kind.__struct_fields__)
    if settings and all(isinstance(inner, dict) for inner in settings.values()) and not settings.keys() & known:
        for name, inner in settings.items():
            place = f"[methods.{key}.{name}]"
            yield place, name, _with_class(inner, table["class"], place)
    else:
        yield f"[methods.{key}]", key, table


def _with_class(value: object, kind: str, place: str) -> Table:
    if not isinstance(value, dict):
        raise InvalidConfiguration(f"{place} must be a table of settings, got {value!r}")
    if not isinstance(value.get("class", ""), str):
        raise InvalidConfiguration(f'{place} class must be a text such as "my_module:Mine", got {value["class"]!r}')
    return {"class": kind, **value}


def _method(place: str, name: str, table: Table, folder: Path | None) -> Method:
    settings = {"name": name, **table}
    kind = _class(place, settings.pop("class"), folder)
    try:
        if issubclass(kind, Smoothed):
            _read_noise(settings, folder)
        if issubclass(kind, WithFrozenFeatures) and isinstance(settings.get("frozen_features"), str):
            settings["frozen_features"] = mask_from_file((folder or Path()) / settings["frozen_features"])
        if issubclass(kind, QuantisedCopy) and isinstance(settings.get("copy"), str):
            settings["copy"] = (folder or Path()) / settings["copy"]
        if kind.__dict__.get("name") == settings["name"]:  # a class that calls itself so whatever is asked
            del settings["name"]
        return converted(place, settings, kind)
    except (ValueError, TypeError) as error:
        message = str(error)
        raise InvalidConfiguration(message if message.startswith(place) else f"{place}: {message}") from error


def _class(place: str, given: object, folder: Path | None) -> type[Method]:
    kind: object = BY_NAME.get(given) if isinstance(given, str) else None
    if isinstance(given, str) and ":" in given:
        kind = imported(f"{place} class", given if folder is None else in_folder(given, folder))
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise InvalidConfiguration(
            f'{place} must be one of {", ".join(BY_NAME)}, or have class = "module:Class" of a certify.methods.Method, '
            f"got {given!r}"
        )
    return kind


def _read_noise(settings: Table, folder: Path | None) -> None:
    """Put a noise in place of its name, or of the table that describes it, and of its arguments in the same table."""
    given = settings.get("noise")
    if given is None:
        return
    if settings.get("sigma") is not None and (isinstance(given, dict) or "sigma" not in _parameters(given, folder)):
        raise InvalidConfiguration("sigma is that of Gaussian noise: give sigma, or noise with its own arguments")
    if isinstance(given, dict):
        plain = {**given, "name": _named(given.get("name"), folder)}
    else:
        own = {key: settings.pop(key) for key in _parameters(given, folder) if key in settings and key != "name"}
        plain = {"name": _named(given, folder), **own}
    settings["noise"] = noise_of(plain)
    settings.pop("sigma", None)


def _named(name: object, folder: Path | None) -> object:
    return in_folder(name, folder) if isinstance(name, str) and folder is not None else name


def _parameters(name: object, folder: Path | None) -> tuple[str, ...]:
    return parameters_of(noise_class(_named(name, folder)))
