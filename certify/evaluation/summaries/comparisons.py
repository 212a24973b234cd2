"""Certificates against witnesses: contradictions, and estimates that lie outside of both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bounds.sets.orders import Order, order_of, refutes
from certify.promises import refuting_subject
from certify.report import norm_name
from certify.report.words import with_levels

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Contradiction:
    """A certified radius that a re-checked adversarial example refutes by its distance: one of the two is wrong.

    The distance lies below the radius, or at it where changes are counted.
    """

    index: int
    norm: Order
    subject: str
    method: str
    radius: float
    distance: float
    eight_bit: bool = False  # whether the inputs are 8-bit images in [0, 1]

    def __str__(self) -> str:
        radius, distance = (_all_digits(value, self.norm, self.eight_bit) for value in (self.radius, self.distance))
        return (
            f"input {self.index}: {self.method} certifies {radius} of the {self.subject} classifier in "
            f"{norm_name(self.norm)}, but an adversarial example lies at {distance}"
        )


@dataclass(frozen=True)
class Outside:
    """An estimate below what is proved, or above what was found: no error, since it promises nothing, but a flag."""

    index: int
    norm: Order
    method: str
    estimate: float
    certified: float
    distance: float
    capped: bool  # the estimate is the radius of its points, and says no more than that nothing was seen within
    eight_bit: bool = False  # whether the inputs are 8-bit images in [0, 1]

    def __str__(self) -> str:
        size, certified, distance = (
            _all_digits(value, self.norm, self.eight_bit) for value in (self.estimate, self.certified, self.distance)
        )
        below = self.estimate < self.certified
        against = f"below the certified radius {certified}" if below else f"above the witness at {distance}"
        size = f"{size} (capped)" if self.capped else size
        return f"input {self.index}: {self.method} estimates {size} in {norm_name(self.norm)}, {against}"


def comparable(rows: Rows) -> list[tuple[Mapping[str, Any], float]]:
    """Certificates of the right class for which there is a witness of the same subject, with its distance."""
    nearest = _nearest_witnesses(rows)
    # A radius around a wrong prediction says nothing about the distance at which it becomes wrong.
    right = [row for row in rows if row["kind"] == "certificate" and row["correct"]]
    return [(row, nearest[_about(row)]) for row in right if _about(row) in nearest]


def contradictions(rows: Rows, eight_bit: bool = False) -> list[Contradiction]:
    """Certificates refuted by a witness of the same subject, found in whatever norm."""
    return [
        Contradiction(*_key(row), row["method"], row["certified_radius"], distance, eight_bit)
        for row, distance in comparable(rows)
        if refutes(distance, row["certified_radius"], row["norm"])
    ]


def outside(rows: Rows, eight_bit: bool = False) -> list[Outside]:
    """Estimates that lie outside what is proved and what was found, of the same input, norm and classifier."""
    nearest = _nearest_witnesses(rows)
    proved: dict[tuple[int, Order, str], float] = {}
    for row in rows:
        if row["kind"] == "certificate" and row["correct"] and not _frozen(row):
            proved[_key(row)] = max(row["certified_radius"], proved.get(_key(row), 0.0))
    found = []
    for row in rows:
        estimate, key = row.get("estimated_distance"), _key(row)
        low, high = proved.get(key, 0.0), nearest.get(_about(row), math.inf)
        if estimate is not None and not low <= estimate <= high:
            about = row["index"], row["norm"], row["method"]
            found.append(Outside(*about, estimate, low, high, row["capped"], eight_bit))
    return found


def _all_digits(value: float, norm: Order, eight_bit: bool) -> str:
    """A number that is compared with another one: all digits, and levels rounded to one side, which keeps the order."""
    return with_levels(repr(value), value, norm, eight_bit, digits=6)


def _key(row: Mapping[str, Any]) -> tuple[int, Order, str]:
    return row["index"], row["norm"], row["subject"]


def _frozen(row: Mapping[str, Any]) -> str:
    """A name of the features that keep their values in what the row speaks of; empty if there are none."""
    return row.get("frozen") or ""


def _about(row: Mapping[str, Any]) -> tuple[int, Order, str, str]:
    index, norm, subject = _key(row)
    return index, norm, refuting_subject(subject), _frozen(row)


def _nearest_witnesses(rows: Rows) -> dict[tuple[int, Order, str, str], float]:
    """Smallest distance of a witness by input, norm, subject and frozen features.

    Each witness counts in all norms of the run, and one that keeps some features also where none need be kept.
    """
    nearest: dict[tuple[int, Order, str, str], float] = {}
    for row in rows:
        for norm, distance in (row.get("distances") or {}).items():
            for frozen in {_frozen(row), ""}:
                key = (row["index"], order_of(norm), row["subject"], frozen)
                nearest[key] = min(distance, nearest.get(key, math.inf))
    return nearest
