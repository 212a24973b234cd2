"""Checks of the files of a run, so that whatever passes can be shown and compared."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bounds.errors import InvalidConfiguration
from bounds.sets.orders import Order, order_of
from certify.report.columns import LEFT_OUT, VALUES
from certify.requirements import Threshold

Index = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Class = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1 where logits are not finite
Size = Annotated[float, Meta(ge=0)]
Alpha = Annotated[float, Meta(ge=0, lt=1)]
Kind = Literal["certificate", "estimate", "witness", "noise", "random", "unsupported", "left out"]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]+\Z")]  # without control characters: it names files and lines


class _Units(msgspec.Struct):
    norms: list[Text]
    rows_per_unit: Annotated[int, Meta(ge=1)]


class _Configuration(msgspec.Struct):
    """Keys of every configuration in a manifest."""

    units: int
    inputs: Index = 0
    first_index: Index = 0
    plan: dict[str, _Units] | None = None
    methods: dict[str, dict[str, Any]] = {}


class _Source(msgspec.Struct):
    require: list[Threshold] = []


class Manifest(msgspec.Struct):
    """Keys of every manifest; the rest differs between versions."""

    configuration: _Configuration
    source: _Source
    versions: dict[str, Any] = {}
    shard: Text | None = None

    def __post_init__(self) -> None:
        for wanted in self.source.require:
            _order(wanted.norm)


class _Row(msgspec.Struct):
    """Keys of every row of a record."""

    index: Index
    label: Class
    base_prediction: Class
    subject: Text
    status: Text
    prediction: Class | None = None
    certified_radius: Size | None = None
    estimated_distance: Size | None = None
    attack_distance: Size | None = None
    noise_radius: Size | None = None
    carried_from: Text | None = None
    alpha: Alpha | None = None
    distances: dict[str, Size] = {}
    abstained: bool = False
    blind: bool = False
    symptoms: list[str] = []
    adversarial_label: Class | None = None
    capped: bool | None = None
    reach: Size | None = None
    reason: str | None = None
    frozen: Text | None = None
    verdict: Literal["verified", "falsified", "unknown"] | None = None
    decided_by: str | None = None
    group: int | str | None = None
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    without_proof: str | None = None
    parameters: list[float] | None = None
    draws: Index | None = None
    draws_right: Index | None = None

    def __post_init__(self) -> None:
        for norm in self.distances:
            _order(norm)


class _Promise(msgspec.Struct):
    kind: Kind
    alpha: Alpha
    subject: Text
    arithmetic: Literal["", "real", "rounding", "deployed"]
    within: Size | None = None

    def __post_init__(self) -> None:
        if self.kind in ("estimate", "noise") and self.within is None:
            raise ValueError(f"Expected `within` of {self.kind!r}")


class StoredRecord(msgspec.Struct):
    """Keys of every record."""

    unit: Text
    method: Text
    kind: Kind
    norm: str
    seconds: Size
    rows: Annotated[list[_Row], Meta(min_length=1)]
    tensors_sha256: str | None = None
    promise: _Promise | None = None

    def __post_init__(self) -> None:
        _order(self.norm)
        if self.promise is not None:
            self._require_one_promise(self.promise)

    def _require_one_promise(self, promise: _Promise) -> None:
        if promise.kind != self.kind:
            raise ValueError(f"Expected the promise of a {self.kind}, got {promise.kind}")
        for row in self.rows:
            said = (row.alpha or 0.0, row.subject)
            if said != (promise.alpha, promise.subject):
                raise ValueError(f"Expected alpha and subject of row {row.index} as promised, got {said}")


# What the rows of each kind of result cannot do without, and the statuses that they may have.
NEEDED = {
    "certificate": ("prediction", "certified_radius", "alpha"),
    "witness": ("prediction",),
    "estimate": ("prediction", "capped", "reach"),
    "noise": ("prediction",),
    "random": ("prediction", "draws", "draws_right"),
    "unsupported": (),
    "left out": (),
}
FOUND = ("attack_distance", "adversarial_label")
STATUSES = {
    "certificate": {"certified", "not certified", "abstained", "misclassified"},
    "witness": {"found", "not found", "misclassified"},
    "noise": {"changed", "not changed", "misclassified"},
    "random": {"changed", "not changed", "misclassified"},
    "unsupported": {"unsupported"},
    "left out": {LEFT_OUT},
}


def _order(norm: str | float) -> Order:
    """The order of a norm, 0 or at least 1, or a set of perturbations with its unit."""
    order = order_of(norm)
    if not (order == 0 or order >= 1):
        raise ValueError(f"Expected a norm of 0 or at least 1, got {norm!r}")
    return order


def require_values(records: Iterable[Mapping[str, Any]], where: object) -> None:
    """Refuse records whose rows lack what their kind of result needs.

    Raises:
        InvalidConfiguration: the first such row, with what it lacks.
    """
    for record in records:
        for row in record["rows"]:
            _refuse(record, row, where, _lacks(record["kind"], row))


def require_whole(records: Iterable[Mapping[str, Any]], where: object, alphas: Mapping[str, float]) -> None:
    """Refuse records whose rows lack what their kind of result needs, or promise another alpha than the manifest.

    Raises:
        InvalidConfiguration: the first such row, with what it lacks.
    """
    for record in records:
        for row in record["rows"]:
            _refuse(record, row, where, _fault(record["kind"], row, alphas.get(record["method"])))


def _refuse(record: Mapping[str, Any], row: Mapping[str, Any], where: object, fault: str) -> None:
    if fault:
        place = f"a row of unit {record['unit']!r}, input {row['index']}, is damaged"
        raise InvalidConfiguration(f"{where}: {place}: {fault}: restore the file that was edited")


def _fault(kind: str, row: Mapping[str, Any], alpha: float | None) -> str:
    missing = row["status"] == LEFT_OUT  # of whatever kind its result would have been
    if kind in STATUSES and not missing and row["status"] not in STATUSES[kind]:
        return f"status {row['status']!r} is none of a {kind}"
    if missing and any(row.get(key) is not None for key in VALUES.values()):
        return "it has a result, though it was left out"
    if lacks := _lacks(kind, row):
        return lacks
    stated = row.get("alpha")
    return "" if None in (alpha, stated) or alpha == stated else f"alpha is {stated}, but {alpha} in manifest.json"


def _lacks(kind: str, row: Mapping[str, Any]) -> str:
    missing = row["status"] == LEFT_OUT
    needed = () if missing else NEEDED[kind] + FOUND * (kind == "witness" and row["status"] == "found")
    lacking = [key for key in needed if row.get(key) is None or row[key] == math.inf]
    return f"it lacks {', '.join(lacking)}" if lacking else ""
