"""Features of a table in plain values, for manifests and configurations."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bounds.errors import InvalidInput
from bounds.sets.features import Category, Feature, Levels, Numeric

KINDS: Mapping[str, type[Category] | type[Levels] | type[Numeric]] = {
    kind.__name__.lower(): kind for kind in (Category, Levels, Numeric)
}
LISTS = ("columns", "values")


def table_of_feature(feature: Feature) -> dict[str, Any]:
    """A feature in plain values, without what it has by default; :func:`feature_of_table` reads it.

    >>> table_of_feature(Levels(7, range(3), direction="up"))
    {'kind': 'levels', 'column': 7, 'values': [0.0, 1.0, 2.0], 'direction': 'up'}

    Raises:
        InvalidInput: no feature.
    """
    names = {kind: name for name, kind in KINDS.items()}
    if type(feature) not in names:
        raise InvalidInput(
            f"features must be bounds.Category, bounds.Levels or bounds.Numeric, or columns of a one-hot group, got "
            f"{feature!r}: describe each feature that may change by one of them"
        )
    found = {field: getattr(feature, field.name) for field in dataclasses.fields(feature)}
    plain = {field.name: _plain(field.name, value) for field, value in found.items() if _differs(value, field.default)}
    return {"kind": names[type(feature)], **plain}


def feature_of_table(table: object) -> Feature:
    """The feature of a table.

    Raises:
        InvalidInput: no table of a feature, with what is wrong with it.
    """
    settings = dict(table) if isinstance(table, Mapping) else {}
    kind = KINDS.get(str(settings.pop("kind", None)))
    if kind is None:
        raise InvalidInput(f"features must be tables of kind {', '.join(KINDS)}, got {table!r}")
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind)}
    needed = {name for name, wanted in fields.items() if wanted}
    if settings.keys() - fields.keys() or needed - settings.keys():
        raise InvalidInput(
            f"features of kind {kind.__name__.lower()} must have {', '.join(sorted(needed))}, and maybe "
            f"{', '.join(sorted(fields.keys() - needed))}, got {', '.join(settings) or 'nothing'}"
        )
    for name, value in settings.items():
        _plain(name, value)
    return kind(**settings)


def _differs(value: object, default: object) -> bool:
    return isinstance(value, Tensor) or default is dataclasses.MISSING or value != default


def _plain(name: str, value: object) -> object:
    """A field as a manifest holds it: numbers of columns are whole, values floating."""
    whole = name in ("column", "columns", "steps")
    if isinstance(value, str | bool):
        return value
    if isinstance(value, Tensor):
        value = value.tolist()
    if name in LISTS and not isinstance(value, Sequence):
        raise InvalidInput(f"{name} of a feature must be several numbers, got {value!r}: pass a list of them")
    try:
        if isinstance(value, Sequence):
            return [_number(each, whole) for each in value]
        return _number(value, whole)
    except (TypeError, ValueError) as error:
        wanted = "whole numbers" if whole else "numbers"
        raise InvalidInput(f"{name} of a feature must hold {wanted}, got {value!r}") from error


def _number(value: Any, whole: bool) -> int | float:  # noqa: ANN401  # whatever a caller gives
    if whole and (isinstance(value, bool) or int(value) != value):
        raise ValueError(value)
    return int(value) if whole else float(value)
