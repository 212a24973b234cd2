"""The chain that holds the lines of a run together: each names the one before, and the first names the manifest.

A line states ``previous``, the hash of the line before it, and ``sha256``, the hash of all that it states itself. The
first line's ``previous`` is the hash of what the manifest says of the results. So no line can be changed, put in or
left out without a trace, unless all that follow are written anew. Nobody who can write the run is kept from that: a
chain shows accidents and careless edits, and what a line says is checked by what it says.

Lines are a linked list whatever their order in the file, and a line that stands there twice is one line. A merged run
has a chain of its own, since its records are appended anew under its own manifest; those of its parts stay with them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

LINKS = ("previous", "sha256")


def digest(value: object) -> str:
    """SHA-256 of plain values, as JSON with sorted keys and without spaces.

    >>> digest({"b": 1, "a": [0.5]}) == digest({"a": [0.5], "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def start_of(manifest: Mapping[str, Any], informative: Iterable[str]) -> str:
    """Beginning of the chain of a run: the hash of its manifest without the dotted names that may change."""
    left_out = set(informative)

    def kept(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in values.items()
            if f"{prefix}{key}" not in left_out
        }

    return digest(kept(manifest, ""))


def linked(record: Mapping[str, Any], previous: str) -> dict[str, Any]:
    """The record as a line that follows the line with that hash; links of another chain are left behind."""
    written = {key: value for key, value in record.items() if key not in LINKS} | {"previous": previous}
    return written | {"sha256": digest(written)}


def unlinked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its place in a chain."""
    return {key: value for key, value in record.items() if key not in LINKS}


def is_linked(record: Mapping[str, Any]) -> bool:
    """Whether a line is part of a chain: earlier versions wrote lines without."""
    return all(isinstance(record.get(key), str) for key in LINKS)


def faults(lines: Iterable[Mapping[str, Any]], start: str, repaired: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Faults of a chain: units and sentences, none if it is whole.

    Args:
        lines: all records of a run, with their links.
        start: see :func:`start_of`.
        repaired: hashes of lines that a repair dropped, so that nothing leads to the next.
    """
    wrong: list[tuple[str, str]] = []
    known, following = {start, *repaired}, dict[str, str]()
    whole = []
    for line in lines:
        unit = str(line.get("unit"))
        if not is_linked(line):
            wrong.append((unit, "its line has no place in the chain, as other lines have"))
        elif digest({key: value for key, value in line.items() if key != "sha256"}) != line["sha256"]:
            wrong.append((unit, "its line was changed: it does not have the hash that it states"))
            known.add(line["sha256"])
        else:
            known.add(line["sha256"])
            whole.append((unit, line))
    for unit, line in whole:
        previous, own = line["previous"], line["sha256"]
        if previous not in known:
            wrong.append((unit, "the line before it, or the manifest, is not the one that it was written after"))
        elif following.setdefault(previous, own) != own:
            wrong.append((unit, "it claims the place of another line in the chain"))
    return wrong
