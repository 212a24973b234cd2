"""The configuration of a run: a TOML file, read strictly."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bounds.errors import InvalidConfiguration
from bounds.sets.orders import Order, order_key
from certify.configuration.keys import DataSource, ModelSource, Table
from certify.durations import seconds_of
from certify.methods import Clever
from certify.methods.base import Method
from certify.methods.checked import Count, Probability, converted
from certify.methods.choice import STANDARD, methods_of
from certify.methods.sets.kinds import KINDS, stated_sets
from certify.methods.tables import methods_from
from certify.report.inputs.planes import CROSS_SECTIONS
from certify.requirements import LEVEL, About, Judge
from certify.sets.stated import StatedSet
from certify.sizes import bytes_of

Norm = (
    Annotated[float, Meta(ge=0, examples=['2 or "inf"'])] | Literal["inf"]
)  # 0 counts changed entries, other orders are at least 1
ALIASES = {"x": "inputs", "y": "labels"}  # names of arrays, as they are mostly called
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # with which some editors begin a file


Radius = Annotated[float, Meta(ge=0, examples=["0.1"])]


class Requirement(Table, frozen=True):
    """A threshold: the share of inputs that ``method`` certifies (or fails to break) at ``radius``.

    Attributes:
        method: name of a method of the run.
        norm: in which the radius is meant; or the name of a set, such as ``"rotation -10..10, degrees"``.
        radius: in units of the input, or of the set.
        at_least: the share.
        judge: ``"bound"``, a one-sided confidence bound of the share, or ``"estimate"``, the share as counted.
        about: ``"population"``, from which the inputs were drawn, or ``"these inputs"``: what the bound speaks of.
        level: confidence of the bound.
    """

    method: str
    norm: Annotated[float, Meta(ge=0, examples=['2 or "inf"'])] | str
    radius: Radius
    at_least: Annotated[float, Meta(ge=0, le=1, examples=["0.5"])]
    judge: Judge = "bound"
    about: About = "population"
    level: Probability = LEVEL


class Baseline(Table, frozen=True):
    """An earlier run on the same inputs, below which certified accuracy must not fall.

    Attributes:
        run: its directory.
        radius: radii at which both are compared, in every norm; those of ``[[require]]`` or round ones if not given.
        about: ``"population"``, where an exact test has to show the fall, or ``"these inputs"``, where any fall counts.
        level: 1 minus the probability of calling any fall that is none, over all radii and norms.
    """

    run: str
    radius: list[Radius] | None = None
    about: About = "population"
    level: Probability = LEVEL


class Config(Table, frozen=True):
    """A whole configuration; ``methods`` are those to run, the standard ones if there are none.

    ``transformations`` are tables such as ``kind = "rotation"`` with ``degrees = [-10, 10]``, and ``changes`` tables
    such as ``groups = [[0, 1, 2], [3, 4]]`` with ``at_most = 2``.
    ``groups`` is ``"label"``, or the name of an array of the data file with the group of each input. ``preset`` names
    methods of every kind, which ``methods`` change or add to; ``budget`` is the time that all may take.
    ``cross_sections`` is the number of inputs through which the page shows a plane. ``memory`` is what the work may
    take besides the model, such as ``"4GB"``.
    """

    model: ModelSource
    data: DataSource = DataSource()
    norms: Annotated[list[Norm], Meta(examples=['[2, "inf"]'])] | None = None
    transformations: list[Any] = msgspec.field(default_factory=list)  # of TransformationSet
    changes: list[Any] = msgspec.field(default_factory=list)  # of ChangeSet
    methods: list[Any] = msgspec.field(default_factory=list)  # of Method
    require: list[Requirement] = msgspec.field(default_factory=list)
    against: Baseline | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    batch_size: Count = 1000
    device: str = "cpu"
    groups: str | None = None
    preset: Literal["quick", "standard", "thorough"] | None = None
    budget: Annotated[str | float, Meta(examples=['"30m"'])] | None = None
    cross_sections: Annotated[int, Meta(ge=0)] = CROSS_SECTIONS
    memory: Annotated[str | int, Meta(examples=['"4GB"'])] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            seconds_of("budget", self.budget)
        if self.memory is not None:
            bytes_of("memory", self.memory)
        chosen = {method.name: method for method in self.chosen_methods()}
        orders = self.norm_orders()
        if self.norms == [] and not self.sets():
            raise InvalidConfiguration('norms must name at least one norm, got none: write [2, "inf"]')
        if any(0 < order < 1 for order in orders):
            raise InvalidConfiguration(f'norms must be 0 or at least 1, got {self.norms}: write [2, "inf"]')
        for wanted in self.require:
            if wanted.method not in chosen:
                raise InvalidConfiguration(
                    f"[[require]] method must be one of those of this run, {', '.join(chosen)}, got {wanted.method!r}"
                )
            if isinstance(chosen[wanted.method], Clever):
                bounding = [name for name, method in chosen.items() if not isinstance(method, Clever)]
                raise InvalidConfiguration(
                    f"[[require]] method must be one that proves or attacks, got {wanted.method!r}, whose estimates "
                    f"bound nothing: this run has {', '.join(bounding) or 'no other'}"
                )
            asked: list[Order] = [*orders, *self.sets()]
            served = [order_key(order) for order in asked if chosen[wanted.method].serves(order)]
            if (wanted.norm if isinstance(wanted.norm, str) else order_key(wanted.norm)) not in served:
                listed = "; ".join(served) if self.sets() else ", ".join(served) or "none"
                raise InvalidConfiguration(
                    f"[[require]] norm must be one in which this run has {wanted.method}, {listed}, got {wanted.norm}"
                )

    def sets_by_key(self) -> dict[str, list[StatedSet]]:
        """Sets of perturbations in the place of norms, as :func:`certify.evaluate` takes them."""
        return {kind.KEY: getattr(self, kind.KEY) for kind in KINDS}

    def sets(self) -> list[StatedSet]:
        """All sets of perturbations in the place of norms."""
        return [one for several in self.sets_by_key().values() for one in several]

    def asked_methods(self) -> list[Method | str]:
        """The methods to run as :func:`certify.evaluate` takes them; the default ones if none are named."""
        if self.preset is not None:
            return [self.preset, *self.methods]
        return list(self.methods or STANDARD)

    def chosen_methods(self) -> list[Method]:
        """The methods to run, those of a preset for inputs of width 1."""
        orders = [2.0, math.inf] if self.norms is None else [norm_order(norm) for norm in self.norms]
        return methods_of(self.asked_methods(), [*orders, *self.sets()])

    def norm_orders(self) -> list[float]:
        """The norms as numbers; those of 2 and infinity that a chosen method serves, if the file names none."""
        if self.norms is not None:
            return [norm_order(norm) for norm in self.norms]
        served = {norm for method in self.chosen_methods() for norm in method.norms}
        return [norm for norm in (2.0, math.inf) if norm in served]

    def source(self) -> dict[str, object]:
        """The part of the configuration that :func:`certify.evaluate` does not see."""
        source = {
            "model": msgspec.to_builtins(self.model),
            "data": msgspec.to_builtins(self.data),
            "device": self.device,
            "require": msgspec.to_builtins(self.require),
        }
        more = {
            "against": None if self.against is None else msgspec.to_builtins(self.against),
            **{"groups": self.groups, "preset": self.preset, "budget": self.budget},
            "cross_sections": None if self.cross_sections == CROSS_SECTIONS else self.cross_sections,
        }
        return source | {key: value for key, value in more.items() if value is not None}


def norm_order(norm: float | str) -> float:
    """A norm of the file as a number; TOML writes infinity as ``"inf"`` here, since JSON has no such number."""
    return math.inf if norm == "inf" else float(norm)


def read_config(path: Path | str) -> Config:
    """The configuration in a TOML file; relative paths in it start from its folder.

    Raises:
        InvalidConfiguration: the file is missing, no TOML, or has a wrong or unknown key.
    """
    path = Path(path)
    try:
        values = msgspec.toml.decode(path.read_bytes().removeprefix(BYTE_ORDER_MARK))
        _check_numbers(values)
        folder = path.resolve().parent
        made = {"methods": methods_from(values.get("methods", {}), folder), **stated_sets(values, folder)}
        config = converted("", {**values, **made} | _without_aliases(values), Config)
    except OSError as error:
        raise InvalidConfiguration(f"configuration {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, too deep, or a key with a wrong value
        raise InvalidConfiguration(f"configuration {path}: {_one_line(error)}") from error
    model, data, against = config.model.within(folder), config.data.within(folder), config.against
    if against is not None:
        against = msgspec.structs.replace(against, run=str(folder / against.run))
    return msgspec.structs.replace(config, model=model, data=data, against=against)


def _without_aliases(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table of data with the names that its keys have here."""
    data = values.get("data")
    if not isinstance(data, dict):
        return {}
    for alias, name in ALIASES.items():
        if alias in data and name in data:
            raise InvalidConfiguration(f"[data] must have {name} or {alias}, got both: they mean the same")
    return {"data": {ALIASES.get(key, key): value for key, value in data.items()}}


def _check_numbers(values: object) -> None:
    """Refuse what TOML can write but no key of a configuration can mean."""
    for key, number in _numbers(values, ""):
        if isinstance(number, float) and not math.isfinite(number):
            remedy = ': write infinity as "inf", in quotes' if "norm" in key and number == math.inf else ""
            raise InvalidConfiguration(f"{key} must be a finite number, got {number}{remedy}")
        if not -(2**63) <= number < 2**63:
            raise InvalidConfiguration(f"{key} must be below 2**63, got {number}")


def _numbers(values: object, key: str) -> Iterator[tuple[str, int | float]]:
    """Every number in a decoded file, with the name of its key."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _numbers(value, f"{key}.{name}" if key else name)
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, key)
    elif isinstance(values, int | float):
        yield key, values


def config_of_manifest(manifest: Mapping[str, Any]) -> Config:
    """The configuration that a stored run was made with.

    Raises:
        InvalidConfiguration: the run was not started from a configuration.
    """
    try:
        stored = manifest["configuration"]
        values = {
            **manifest["source"],
            "norms": [norm if norm == "inf" else float(norm) for norm in stored["norms"]],
            **stated_sets(stored),
            "methods": methods_from(stored["methods"]),
            "seed": manifest["seed"],
            "batch_size": stored["batch_size"],
            "memory": stored.get("memory"),
        }
        return converted("", values, Config)
    except KeyError as error:
        raise InvalidConfiguration(f"the manifest of the run is damaged: it lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise InvalidConfiguration(
            f"the run was not started from a configuration, so it must be continued from Python: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
