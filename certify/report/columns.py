"""Columns of the summary, one line per norm and method: for the table, the page and the command line alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bounds.sets.orders import Order
from certify.promises import NO_RESULT, Promise
from certify.report.words import NOTHING, estimated, norm_name, rounded_down, rounded_up, with_levels

VALUES = {
    "certificate": "certified_radius",
    "estimate": "estimated_distance",
    "witness": "attack_distance",
    "noise": "noise_radius",
}
LEFT_OUT = "left out"  # status of a row that was not computed, whatever its kind


@dataclass(frozen=True, eq=False)
class Line:
    """Results of one method in one norm: what a column is made from.

    Attributes:
        norm: order of the norm, or the name of a set of perturbations.
        method: its name.
        subject: the classifier it speaks of.
        promise: what its numbers promise, the weakest of its rows.
        rows: one mapping per input, see :meth:`certify.Evaluation.rows`.
        eight_bit: whether the inputs are 8-bit images in [0, 1], so that radii are printed in their levels too.
    """

    norm: Order
    method: str
    subject: str
    promise: Promise
    rows: Sequence[Mapping[str, Any]]
    eight_bit: bool = False

    @property
    def kind(self) -> str:
        """The kind of its results, as of :class:`certify.promises.Promise`."""
        return self.promise.kind

    @cached_property
    def right(self) -> list[Mapping[str, Any]]:
        """Rows whose class is the label; an abstention counts by its top class."""
        treated = [row for row in self.rows if row["kind"] not in NO_RESULT]
        return [row for row in treated if row.get("prediction") == row["label"]]

    def statuses(self, kind: str, status: str) -> int | None:
        """Number of rows of that status, if results are of that kind."""
        return [row["status"] for row in self.rows].count(status) if self.kind == kind else None

    def left_out(self) -> int:
        """Number of rows that were not computed."""
        return [row["status"] for row in self.rows].count(LEFT_OUT)

    def random_right(self) -> float | None:
        """Share of the random draws of all inputs that are classified correctly; None where there are none."""
        rows = [row for row in self.rows if row["kind"] == "random" and row.get("draws")]
        return sum(row["draws_right"] for row in rows) / sum(row["draws"] for row in rows) if rows else None

    def median(self) -> float:
        """Median radius or distance of the rows that are right; NaN if there are none."""
        import pandas as pd

        values = [row.get(VALUES.get(self.kind, "")) for row in self.right]
        return float(pd.Series(values, dtype=float).median())


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the summary.

    Attributes:
        name: in the table and on the command line.
        title: on the page.
        of: its value for a line; None where it has none.
        rounding: the value in words, for page and command line, given the line: a printed bound is still a bound.
        places: where it stands, ``"table"`` (of the command line too) and ``"page"``.
        optional: whether it is printed only where a line has a value other than 0.
    """

    name: str
    title: str
    of: Callable[[Line], object]
    rounding: Callable[[Line, Any], str] = lambda line, value: str(value)
    places: tuple[str, ...] = ("table", "page")
    optional: bool = False

    def text(self, line: Line) -> str:
        """The value as it is printed."""
        value = self.of(line)
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return NOTHING if missing else self.rounding(line, value)


def bound(line: Line, value: float) -> str:
    """A radius rounded down, a distance rounded up, an estimate with a sign that it bounds nothing; in input units.

    Of 8-bit images also in their levels, such as ``0.03137 (8/255)``; not where entries are counted.
    """
    shown = {"certificate": rounded_down, "estimate": estimated, "noise": estimated}.get(line.kind, rounded_up)(value)
    return with_levels(shown, value, line.norm, line.eight_bit, up=line.kind != "certificate")


def _median_of(kind: str) -> Callable[[Line], float | None]:
    return lambda line: line.median() if line.kind == kind else None


def _blind(line: Line) -> int | None:
    blind = [row["blind"] for row in line.rows if "blind" in row]
    return sum(blind) if blind else None


def _symptoms(line: Line) -> str:
    return ", ".join(dict.fromkeys(name for row in line.rows for name in row.get("symptoms", ())))


COLUMNS = (
    Column(name="norm", title="norm", of=lambda line: norm_name(line.norm)),
    Column(name="method", title="method", of=lambda line: line.method),
    Column(name="subject", title="classifier", of=lambda line: line.subject),
    Column(name="promise", title="promise", of=lambda line: str(line.promise)),
    Column(name="inputs", title="inputs", of=lambda line: len(line.rows)),
    Column(name="correct", title="correct", of=lambda line: None if line.kind in NO_RESULT else len(line.right)),
    Column(name="certified", title="certified", of=lambda line: line.statuses("certificate", "certified")),
    Column(
        name="median_radius",
        title="median radius\u00a0≥",
        of=_median_of("certificate"),
        rounding=bound,
        places=("page",),
    ),
    Column(
        name="median_estimate",
        title="median estimate",
        of=_median_of("estimate"),
        rounding=bound,
        places=("page",),
        optional=True,
    ),
    Column(name="broken", title="broken", of=lambda line: line.statuses("witness", "found")),
    Column(name="blind", title="blind", of=_blind, places=("table",), optional=True),
    Column(name="symptoms", title="symptoms", of=_symptoms, places=("table",), optional=True),
    Column(
        name="median_distance",
        title="median distance\u00a0≤",
        of=_median_of("witness"),
        rounding=bound,
        places=("page",),
    ),
    Column(
        name="median_noise",
        title="median random noise",
        of=_median_of("noise"),
        rounding=bound,
        places=("page",),
        optional=True,
    ),
    Column(
        name="random_right",
        title="right under random draws",
        of=Line.random_right,
        rounding=lambda line, value: f"{100 * value:.1f} %",
        optional=True,
    ),
    Column(name="left_out", title="left out", of=lambda line: line.left_out(), optional=True),
    Column(name="median", title="median", of=Line.median, rounding=bound, places=("table",)),
    Column(
        name="seconds",
        title="seconds",
        of=lambda line: sum(row["seconds"] for row in line.rows),
        rounding=lambda line, value: f"{value:.1f}",
    ),
)


def printed(columns: Sequence[Column], lines: Sequence[Line], place: str) -> list[Column]:
    """The columns that are printed in a place, without optional ones in which there is nothing to read."""
    there = [column for column in columns if place in column.places]
    return [column for column in there if not column.optional or any(map(column.of, lines))]
