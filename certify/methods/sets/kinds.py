"""The kinds of sets of perturbations that an evaluation takes besides norms: what callers, files and manifests name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bounds.errors import InvalidConfiguration, InvalidInput
from bounds.sets.orders import Order
from certify.changes.sets import ChangeSet
from certify.semantic.sets import TransformationSet
from certify.semantic.transformations import Transformation
from certify.sets.stated import StatedSet, Table

KINDS: tuple[type[StatedSet], ...] = (TransformationSet, ChangeSet)

Transformations = Sequence[Transformation | TransformationSet] | Transformation | TransformationSet
Changes = Sequence[ChangeSet] | ChangeSet


def asked_sets(given: Mapping[str, object]) -> list[StatedSet]:
    """The sets that a caller asks for, each once: several or one under the key of each kind.

    Raises:
        InvalidInput: something else.
    """
    found: dict[StatedSet, None] = {}
    for kind in KINDS:
        several = given.get(kind.KEY, ())
        if isinstance(several, str) or not isinstance(several, Sequence):
            several = [several]
        for one in several:
            found[kind.of(one)] = None
    return list(found)


def stated_sets(values: Mapping[str, Any], folder: Path | None = None) -> dict[str, list[StatedSet]]:
    """The sets of a configuration or a manifest by the keys of their kinds, each once.

    Raises:
        InvalidConfiguration: no tables of sets, with what is wrong with them.
    """
    found = {}
    for kind in KINDS:
        tables = values.get(kind.KEY, [])
        if not isinstance(tables, list):
            raise InvalidConfiguration(f"{kind.KEY} must be tables [[{kind.KEY}]], got {tables!r}")
        found[kind.KEY] = list(dict.fromkeys(kind.of_table(table, f"[[{kind.KEY}]]", folder) for table in tables))
    return found


def tables_of(norms: Sequence[Order]) -> dict[str, list[Table]]:
    """The sets among norms in plain values by the keys of their kinds, for a manifest; no keys of empty kinds."""
    sets = [norm for norm in norms if isinstance(norm, StatedSet)]
    tables = {kind.KEY: [one.table() for one in sets if isinstance(one, kind)] for kind in KINDS}
    return {key: several for key, several in tables.items() if several}


def all_sets(values: Mapping[str, Any], given: Sequence[StatedSet] = ()) -> list[StatedSet]:
    """The sets of a manifest in order; those of the same names that are given take their place.

    Raises:
        InvalidInput: one that is given is none of the manifest.
    """
    stated = {str(each): each for several in stated_sets(values).values() for each in several}
    for one in given:
        if str(one) not in stated:
            raise InvalidInput(f"{one.KEY} must be sets of the run, {', '.join(stated) or 'none'}, got {str(one)!r}")
        stated[str(one)] = one
    return list(stated.values())
