"""Axes of one input: its certificates, estimates and witnesses in one norm, in order, and the gap between them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bounds.sets.orders import Order, order_of
from certify.promises import Promise
from certify.report.columns import VALUES, Line, bound
from certify.report.words import classifier_name, norm_name

Row = Mapping[str, Any]
CERTIFIED = ("proof", "probable")
ORDER = {"proof": 0, "probable": 0, "witness": 2}  # of marks at the same place; estimates between them


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One number on an axis.

    Attributes:
        line: place of its method in the list of lines.
        kind: ``"proof"``, ``"probable"`` (with a probability of being wrong), ``"witness"``, or the kind of the result.
        value: the number itself; NaN where there is none.
        text: the number in words, rounded to its safe side: where it is drawn.
        status: of the row, in words.
    """

    line: int
    kind: str
    value: float
    text: str
    status: str


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Region between the best certificate and the nearest witness, in which nothing is known.

    Attributes:
        low: end that is proved, in words; empty if nothing is.
        high: end at which an adversarial example lies, in words; empty if there is none.
        name: of the region, in a sentence with ``{low}`` and ``{high}`` for its ends.
        tone: ``"open"``, ``"closed"``, ``"wrong"`` or ``"contradiction"``.
    """

    low: str
    high: str
    name: str
    tone: str


NOWHERE = Gap(low="", high="", name="", tone="open")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """All numbers about one input in one norm and about one classifier, from small to large.

    Attributes:
        norm: its order, or the name of a set of perturbations.
        subject: the classifier.
        frozen: features that keep their values, if there are such.
        marks: the numbers.
        gap: between what is certified and what was found.
    """

    norm: Order
    subject: str
    frozen: str
    marks: Sequence[Mark]
    gap: Gap

    @property
    def about(self) -> str:
        """The classifier in words."""
        return classifier_name(self.subject) + (f", {self.frozen} kept" if self.frozen else "")

    def best(self) -> Mark | None:
        """The largest certified radius above 0, of several equal ones a proof."""
        certified = [mark for mark in self.marks if mark.kind in CERTIFIED and mark.value > 0]
        return max(certified, key=lambda mark: (mark.value, mark.kind == "proof"), default=None)


def axes_of(lines: Sequence[Line], rows: Mapping[int, Row]) -> list[Axis]:
    """The axes of one input.

    Args:
        lines: all methods of the run.
        rows: its row of each line, by the place of the line; lines that have none are left out.
    """
    keys: dict[tuple[Order, str, str], list[int]] = {}
    for place, row in rows.items():
        keys.setdefault((lines[place].norm, lines[place].subject, row.get("frozen") or ""), []).append(place)
    return [_axis(key, places, lines, rows) for key, places in sorted(keys.items())]


def kind_of(line: Line) -> str:
    """The kind of its numbers: certificates are proofs, or hold with a probability."""
    if line.kind == "certificate":
        return "probable" if line.promise.alpha > 0 else "proof"
    return line.kind


def _axis(key: tuple[Order, str, str], places: Sequence[int], lines: Sequence[Line], rows: Mapping[int, Row]) -> Axis:
    norm, subject, frozen = key
    marks = [_mark(place, lines[place], rows[place]) for place in places]
    marks += _found_elsewhere(key, places, lines, rows)
    marks.sort(key=lambda mark: (math.isnan(mark.value), mark.value, ORDER.get(mark.kind, 1)))
    treated = [rows[place] for place in places if rows[place]["kind"] in VALUES]
    axis = Axis(norm=norm, subject=subject, frozen=frozen, marks=marks, gap=NOWHERE)
    return replace(axis, gap=_gap(axis, lines, treated))


def _mark(place: int, line: Line, row: Row) -> Mark:
    value, status = row.get(VALUES.get(row["kind"], "")), row["status"]
    if status in ("abstained", "misclassified") and row["kind"] == "certificate":
        value = None
    if value is None or value == math.inf:
        value = math.nan
    if status == "misclassified":
        status = f"misclassified as {row['prediction']}"
    elif row["kind"] == "certificate" and status == "certified":
        status = _certainty(line)
    elif row["kind"] in ("estimate", "noise", "random"):
        status += ", bounds nothing"
    if row.get("blind") is True:
        status += ", blind: all gradients were 0"
    return Mark(line=place, kind=kind_of(line), value=value, text=bound(line, value), status=status)


def _found_elsewhere(
    key: tuple[Order, str, str], own: Sequence[int], lines: Sequence[Line], rows: Mapping[int, Row]
) -> Iterator[Mark]:
    """The nearest adversarial example of other searches, if it is nearer than all that were sought in this norm.

    One that keeps some features counts where none need be kept, but not the reverse.
    """
    norm, subject, frozen = key
    found, nearest = [], math.inf
    for place, row in rows.items():
        if lines[place].subject != subject or frozen not in ((row.get("frozen") or ""), ""):
            continue
        distances = {order_of(order): distance for order, distance in (row.get("distances") or {}).items()}
        if place in own and row["kind"] == "witness":
            distance = row.get("attack_distance")  # none where the input was left out
            nearest = nearest if distance is None else min(nearest, distance)
        elif norm in distances:
            found.append((distances[norm], place))
    distance, place = min(found, default=(math.inf, -1))
    if distance < nearest:
        witness = replace(lines[place], norm=norm, promise=Promise(kind="witness"))
        status = f"found in {norm_name(lines[place].norm)}"
        yield Mark(line=place, kind="witness", value=distance, text=bound(witness, distance), status=status)


def _gap(axis: Axis, lines: Sequence[Line], rows: Sequence[Row]) -> Gap:
    """The gap and its name; rows are those of the axis, of methods that gave a result."""
    if rows and not any(row["correct"] for row in rows):
        silent = all(row["status"] == "abstained" for row in rows)
        name = "the classifier abstains here" if silent else "the classifier is wrong here without any perturbation"
        return Gap(low="", high="", name=f"no gap: {name}", tone="wrong")
    found = [mark for mark in axis.marks if mark.kind == "witness" and mark.value >= 0]
    best, nearest = axis.best(), min(found, key=lambda mark: mark.value, default=None)
    low, high = "" if best is None else best.text, "" if nearest is None else nearest.text
    proved = "" if best is None else f"{{low}} {_certainty(lines[best.line])}"
    if best is not None and nearest is not None:
        if best.value > nearest.value:
            name = f"contradiction: {proved}, but an adversarial example at {{high}}: one of the two is wrong"
            return Gap(low=low, high=high, name=name, tone="contradiction")
        if best.value == nearest.value:
            return Gap(low=low, high=high, name=f"no gap: {proved}, and {{high}} found", tone="closed")
        return Gap(low=low, high=high, name=f"gap: between {proved} and {{high}} found", tone="open")
    attacked = any(row["kind"] == "witness" for row in rows)
    open_end = f"no adversarial example was {'found' if attacked else 'sought'}"
    name = f"gap: {proved or 'nothing is certified'}, {'{high} found' if high else open_end}"
    return Gap(low=low, high=high, name=name, tone="open")


def _certainty(line: Line) -> str:
    return "proved" if line.promise.alpha == 0 else f"with probability {1 - line.promise.alpha:g}"
