"""Results of a page, by method: what they are, in what order they stand, and how they are printed."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from certify.report.columns import Line, bound
from certify.report.words import NOTHING

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["proof", "probable", "estimate", "witness", "none"]
KINDS: tuple[Kind, ...] = ("proof", "probable", "estimate", "witness", "none")  # in the order of their columns
HEADS: Mapping[Kind, str] = {
    "proof": "certified radius\u00a0≥",
    "probable": "certified radius\u00a0≥",
    "estimate": "estimate, no bound",
    "witness": "attack distance\u00a0≤",
    "none": "result",
}


@dataclass(frozen=True, eq=False)
class Results:
    """Results of one method in one norm: its line in the table of methods, and its rows as a table."""

    line: Line
    rows: "pd.DataFrame"

    @property
    def kind(self) -> Kind:
        """The kind of its numbers, which decides where they stand and how they are rounded."""
        if self.line.kind == "certificate":
            return "probable" if self.line.promise.alpha > 0 else "proof"
        kinds: dict[str, Kind] = {"estimate": "estimate", "witness": "witness"}
        return kinds.get(self.line.kind, "none")

    @property
    def head(self) -> str:
        """Heading of its numbers."""
        return HEADS[self.kind]


def results_of(lines: Iterable[Line], rows: "pd.DataFrame") -> list[Results]:
    """Results by norm, in the order of their kinds."""
    known: dict[Hashable, Line] = {(line.norm, line.method, line.subject): line for line in lines}
    found = [Results(known[key], part) for key, part in rows.groupby(["norm", "method", "subject"], sort=True)]
    return sorted(found, key=lambda each: (each.line.norm, KINDS.index(each.kind)))


def cell(row: Mapping[Hashable, object], results: Results, classes: "Classes") -> tuple[str, str, str]:
    """The bound of one input, its status in words, and the status for the style sheet."""
    status, kind = str(row["status"]), results.kind
    words, tone = status, status.replace(" ", "-")
    if status == "misclassified":
        words = f"misclassified as {classes.name(row['prediction'])}"
    elif status == "found":
        words = f"found, class {classes.name(row['adversarial_label'])}"
    elif status.endswith(("certified", "not found")) and row["prediction"] != row["base_prediction"]:
        words = f"{status}, class {classes.name(row['prediction'])}"
    if kind == "witness":
        words += ", blind" * (row.get("blind") is True)
        distance = _number(row["attack_distance"])
        return bound(results.line, distance) if distance < math.inf else NOTHING, words, tone
    if kind == "estimate":
        return bound(results.line, _number(row["estimated_distance"])), words, tone
    silent = kind == "none" or status in ("abstained", "misclassified", "unsupported")
    return NOTHING if silent else bound(results.line, _number(row["certified_radius"])), words, tone


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]  # of a table, whose cells have any type


@dataclass(frozen=True)
class Classes:
    """Names of classes, where they have some."""

    names: tuple[str, ...] = ()

    def name(self, label: object) -> str:
        """The number of a class with its name, such as ``7 sneaker``.

        >>> Classes(("cat", "dog")).name(1), Classes(("cat", "dog")).name(-1), Classes().name(1.0)
        ('1 dog', '-1', '1')
        """
        number = int(_number(label))
        return f"{number} {self.names[number]}" if 0 <= number < len(self.names) else str(number)
