"""State dicts from files, read such that nothing in them can run, and fitted to the model that they are for."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bounds.errors import InvalidConfiguration, InvalidModel
from certify.importing import first_line

State = dict[str, Tensor]
DEEP = 4  # mappings within each other that are searched for a state dict
SHOWN = 6  # names in a message, at most
COUNTERS = "num_batches_tracked"  # which evaluation never reads, and older files lack
STATE = "write torch.save(model.state_dict(), file) where the model was made, and name its function with [model] build"


def load_weights(model: nn.Module, file: str, key: str | None = None) -> None:
    """Put the weights of a file into a model.

    Args:
        model: is given the weights.
        file: ``.safetensors``, or what ``torch.save`` wrote: a state dict, or a checkpoint with one in it.
        key: place of the state dict in a checkpoint, with dots between its parts, or the beginning of the names of its
            entries; None to find it.

    Raises:
        InvalidConfiguration: the file cannot be read without running code, or holds several state dicts that fit.
        InvalidModel: the weights do not fit the model.
    """
    content = _safetensors(file) if file.endswith(".safetensors") else _content(file)
    found = _state_dicts(content, file, key)
    expected = model.state_dict()
    fitted = {name: part for name, state in found.items() if (part := _fitted(state, expected)) is not None}
    if len(fitted) > 1:
        raise InvalidConfiguration(
            f"weights {file} hold several state dicts that fit the model, {_listed(fitted)}: name one with [model] "
            f'key = "{next(iter(fitted))}"'
        )
    if not fitted:
        nearest = max(found.values(), key=lambda state: len(_parts(state)[0].keys() & expected.keys()))
        raise InvalidModel(f"weights {file} do not fit the model: {_misfit(nearest, expected)}")
    (part,) = fitted.values()
    model.load_state_dict(expected | part)


def _safetensors(file: str) -> State:
    try:
        return load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidConfiguration(f"weights {file} cannot be read as safetensors: {error}") from error


# ---------------------------------------------------------------------------------------------------- files of torch


def _state_dicts(content: object, file: str, key: str | None) -> dict[str, State]:
    """All state dicts in the content of a file, by their places; the one at ``key`` if that is given."""
    if key is not None:
        state = _at(content, key) or _beginning(content, f"{key}.")
        if not _is_state(state):
            places = _listed(name for name, _ in _states(content, "", DEEP)) or "none"
            raise InvalidConfiguration(
                f"[model] key must be the place of a state dict, got {key!r}: those in {file} are {places}"
            )
        return {key: state}
    found = dict(_states(content, "", DEEP))
    if not found:
        kind = f"a mapping of {_listed(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise InvalidConfiguration(f"weights {file} hold no state dict, but {kind}: {STATE}")
    return found


def _content(file: str) -> object:
    """The plain values and tensors in a file of ``torch.save``; whatever else is in it is refused unread."""
    if reason := _foreign_archive(file):
        raise InvalidConfiguration(f"weights {file} {reason}")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidConfiguration(f"weights {file} cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # a damaged file fails in many ways
        if kinds := _classes(file, error):
            what = "a whole pickled module" if any(".nn.modules." in kind for kind in kinds) else "pickled objects"
            raise InvalidConfiguration(
                f"weights {file} hold {what} ({_listed(kinds)}), which may run code when read: {STATE}"
            ) from error
        raise InvalidConfiguration(
            f"weights {file} cannot be read as a file of torch.save, {type(error).__name__}: {STATE}"
        ) from error


def _foreign_archive(file: str) -> str:
    """The reason why a zip archive is none of a state dict; empty if it may be one."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):  # the older format of torch.save, or no file: torch says which
        return ""
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return f"are a TorchScript archive, whose code stays hidden from every bound: {STATE}, or torch.export.save"
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return "are an exported program: name it with [model] exported"
    if any(name.endswith(".npy") for name in names):
        return "are an archive of numpy: name it with [data] file, if it holds inputs"
    return ""


def _classes(file: str, error: Exception) -> list[str]:
    """Names of what a file would import besides tensors, those of its author first; nothing is imported for that."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # the older format, or a damaged file
        found = re.findall(r"(?:GLOBAL|global) ([\w.]*\.\w+)", str(error))
    return sorted(set(found), key=lambda name: (name.startswith("torch."), name))


def _at(content: object, key: str) -> Any:  # noqa: ANN401  # whatever stands there
    """The value at a place; the key may itself hold dots."""
    if isinstance(content, Mapping):
        if key in content:
            return content[key]
        first, _, rest = key.partition(".")
        if rest and first in content:
            return _at(content[first], rest)
    return None


def _beginning(content: object, prefix: str) -> State:
    """The entries of a state dict, wherever it is, whose names begin so."""
    for _, state in _states(content, "", DEEP):
        if found := {name: value for name, value in state.items() if name.startswith(prefix)}:
            return found
    return {}


def _states(content: object, place: str, depth: int) -> Iterator[tuple[str, State]]:
    """The state dicts within a value, with their places."""
    if _is_state(content):
        yield place, dict(content)  # type: ignore[call-overload]  # just looked at
    elif isinstance(content, Mapping) and depth > 0:
        for name, inner in content.items():
            yield from _states(inner, f"{place}.{name}" if place else str(name), depth - 1)


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(inner, Tensor) for name, inner in value.items())
    )


# ------------------------------------------------------------------------------------------------------------ fitting


def _fitted(state: State, expected: Mapping[str, Tensor]) -> State | None:
    """The state dict with the names that the model has; None if it is not that of the model.

    Wrappers put a prefix in front of all names, such as ``module.`` or ``_orig_mod.``. All weights must be known and
    used: what is left over may be a normalisation that belongs to the network.
    """
    for part in _parts(state):
        if _needed(expected) <= part.keys() <= expected.keys() and not _other_shapes(part, expected):
            return part
    return None


def _parts(state: State) -> list[State]:
    """The state dict without the prefixes that all of its names share, from the longest one to none."""
    names = [name.split(".")[:-1] for name in state]
    levels = zip(*names, strict=False)
    shared = next((i for i, level in enumerate(levels) if len(set(level)) > 1), min(map(len, names)))
    return [{".".join(name.split(".")[cut:]): value for name, value in state.items()} for cut in range(shared, -1, -1)]


def _needed(expected: Mapping[str, Tensor]) -> set[str]:
    return {name for name in expected if not name.endswith(COUNTERS)}


def _other_shapes(part: State, expected: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} is {tuple(part[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in part and part[name].shape != value.shape
    ]


def _misfit(state: State, expected: Mapping[str, Tensor]) -> str:
    """Differences between a state dict and what a model needs, under the prefix that leaves the fewest."""
    part = max(_parts(state), key=lambda part: len(part.keys() & expected.keys()))
    missing, unknown = sorted(_needed(expected) - part.keys()), sorted(part.keys() - expected.keys())
    if not missing and not unknown:
        return _listed(_other_shapes(part, expected))
    parts = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has unknown {_listed(unknown)}"] * bool(unknown)
    within = sorted({name.partition(".")[0] for name in part}) if missing else []
    advice = f'; if {" or ".join(within)} is the model, write [model] key = "{within[0]}"' if len(within) > 1 else ""
    return f"the file {' and '.join(parts)}{advice if unknown else ''}"


def _listed(names: Any) -> str:  # noqa: ANN401  # any iterable of texts
    """Some names, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"{', '.join(known[:SHOWN])}{more}"
