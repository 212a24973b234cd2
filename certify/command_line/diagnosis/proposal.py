"""A configuration that is ready to run: a model, data, methods that pay, and a threshold that the model meets."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from bounds import clopper_pearson_lower
from certify.configuration.config import Config
from certify.configuration.data.inputs import load_data
from certify.configuration.data.labelled import LabelledInputs
from certify.configuration.keys import DataSource, ModelSource
from certify.evaluation.evaluating import evaluate
from certify.methods import IntervalBounds, LinearBounds, Method, MinimalPerturbation
from certify.report.words import rounded_down

LINES = 12  # of the text, at most
INPUTS = 50  # that are measured, and that the run certifies
LEAST = 10  # of them, or linear bounds are too slow
SECONDS = 60.0  # that linear bounds may take for them
LEVELS = (16, 8, 4, 2, 1, 0.5)  # radii that are tried, in steps of 8-bit images
CONFIDENCE = 0.95  # that new inputs meet the threshold as these do
PATHS = ("weights", "exported", "onnx", "file", "folder", "dataset")


class Gate(NamedTuple):
    """A threshold that a method meets on the inputs that it was measured on."""

    method: str
    radius: str
    at_least: float


def proposal(settings: Config, model: nn.Module, data: LabelledInputs) -> tuple[Config, Gate | None]:
    """The settings with so many inputs that a run takes minutes, and a threshold that the model meets on these.

    Linear bounds are proposed where they pay for some inputs, interval bounds for slower models, and the attack where
    no proof reaches a radius that anybody would ask for.
    """

    def part(count: int) -> tuple[Config, LabelledInputs]:
        source = sampled(settings.data, count, len(data.x), bool(data.classes))
        chosen = msgspec.structs.replace(settings, data=source)
        return chosen, load_data(source, model)

    chosen, some = part(INPUTS)
    many = _affordable(model, some, chosen)
    if many is not None and LEAST <= many < len(some.x):
        chosen, some = part(many)
    proof = LinearBounds() if (many or 0) >= LEAST else IntervalBounds()
    methods: list[Method] = [MinimalPerturbation()] if many is None else [proof, MinimalPerturbation()]
    gates = (measured(model, some, chosen, method) for method in methods)
    return chosen, next((gate for gate in gates if gate is not None), None)


def _affordable(model: nn.Module, data: LabelledInputs, settings: Config) -> int | None:
    """Number of inputs that linear bounds treat in their time; None where they treat none."""
    rows = evaluated(model, data, settings, LinearBounds(), 2)
    if any(row["kind"] != "certificate" for row in rows):
        return None
    return int(SECONDS / max(row["seconds"] for row in rows))


def measured(model: nn.Module, data: LabelledInputs, settings: Config, method: Method) -> Gate | None:
    """The threshold that a method meets; None where it reaches none of the radii.

    The radius is the largest of some round ones at which at least half of the correct inputs count, and the share
    required the lower confidence bound of the one that was found: a threshold with room for other inputs.
    """
    rows = evaluated(model, data, settings, method, len(data.x))
    limits = [row["certified_radius"] or row["attack_distance"] or 0.0 for row in rows if row["correct"]]
    width = _width(data)
    for level in LEVELS:
        radius = rounded_down(level / 255 * width)
        count = sum(limit > float(radius) for limit in limits)
        if count and (2 * count >= len(limits) or level == LEVELS[-1]):
            least = float(clopper_pearson_lower(torch.tensor(count, device="cpu"), len(rows), alpha=1 - CONFIDENCE))
            return Gate(method.name, radius, math.floor(100 * least) / 100)
    return None


def evaluated(
    model: nn.Module, data: LabelledInputs, settings: Config, method: Method, count: int
) -> list[dict[str, Any]]:
    """Rows of one method on the first inputs, as a run gives them."""
    return evaluate(
        model,
        data.x[:count],
        data.y[:count],
        norms=math.inf,
        methods=[method],
        low=data.low,
        high=data.high,
        seed=settings.seed,
        batch_size=settings.batch_size,
    ).rows()


def _width(data: LabelledInputs) -> float:
    """The size of the range of valid inputs; of the inputs themselves, where it has no single number."""
    if isinstance(data.low, int | float) and isinstance(data.high, int | float):
        return float(data.high - data.low)
    return float(data.x.max() - data.x.min()) or 1.0


def sampled(source: DataSource, count: int, there: int, by_class: bool) -> DataSource:
    """The source with so many inputs at most; as it is, if it names a number itself."""
    if source.count is not None or source.sample is not None or there <= count:
        return source
    stratum = "label" if by_class and source.folder is not None else None
    return msgspec.structs.replace(source, sample=count, stratum=stratum)


def toml(settings: Config, gate: Gate | None, folder: Path) -> str:
    """The configuration as text of at most twelve lines, for a file in that folder."""
    lines = [] if settings.seed == 0 else [f"seed = {settings.seed}"]
    if settings.device != "cpu":
        lines.append(f"device = {_plain(settings.device)}")
    if gate is not None:
        required = f'method = "{gate.method}", norm = "inf", radius = {gate.radius}, at_least = {gate.at_least}'
        lines.append(f"require = [{{ {required} }}]")
    methods = (
        ["[methods.attack]"]
        if gate is None or gate.method == "attack"
        else [f"[methods.{gate.method}]", "[methods.attack]"]
    )
    tables = {name: dict(_entries(getattr(settings, name), folder)) for name in ("model", "data")}
    tables = {name: entries for name, entries in tables.items() if entries}
    if len(lines) + len(methods) + sum(len(entries) + 1 for entries in tables.values()) <= LINES:
        for name, entries in tables.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in entries.items())]
    else:
        for name, entries in tables.items():
            lines.append(f"{name} = {{ {', '.join(f'{key} = {value}' for key, value in entries.items())} }}")
    return "\n".join([*lines, *methods]) + "\n"


def _entries(source: ModelSource | DataSource, folder: Path) -> Iterator[tuple[str, str]]:
    """Keys and values of a table, with paths as they are seen from the folder."""
    values: Mapping[str, Any] = msgspec.to_builtins(source)
    for key, value in values.items():
        if key in PATHS or (key == "labels" and str(values.get("file")).endswith(".npy")):
            yield key, _plain(_seen(str(value), folder))
        elif key == "build":
            module, _, name = str(value).rpartition(":")
            yield key, _plain(f"{Path(module).stem}:{name}" if Path(module).parent == folder else value)
        elif key == "network" and str(value).startswith("hf:"):
            yield key, _plain(f"hf:{_seen(str(value).removeprefix('hf:'), folder)}")
        elif value is not None:
            yield key, _plain(value)


def _seen(path: str, folder: Path) -> str:
    """A path from a folder, where it lies in it; else in full."""
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path


def _plain(value: object) -> str:
    """A value as TOML writes it: of the plain kinds here, as JSON does."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
