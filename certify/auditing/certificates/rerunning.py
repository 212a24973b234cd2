"""Deterministic methods run once more: whether a record is what they give. It proves nothing, and shows edits."""

from collections.abc import Mapping
from typing import Any

import torch

from bounds.errors import BoundsError
from bounds.sets.orders import Order
from certify.auditing.tally import Tally
from certify.methods import CompleteSearch, Method, Problem
from certify.promises import Promise
from certify.report.columns import LEFT_OUT

AGAIN = "methods run again"
TOLERANCE = 1e-6  # relative, of radii


def can_run_again(method: Method) -> bool:
    """Whether a method gives the same again: searches that end by the clock do not."""
    return not isinstance(method, CompleteSearch) and getattr(method, "timeout", None) is None


def run_again(
    tally: Tally, record: Mapping[str, Any], method: Method, problem: Problem, alike: bool, order: Order
) -> None:
    """Run the method of a unit of certificates, or of random draws, again; compare classes, and radii or counts."""
    unit, rows = record["unit"], record["rows"]
    start = rows[0]["index"] - problem.first_index
    size = 1 if method.one_by_one else len(rows)
    value, key = ("correct", "draws_right") if record["kind"] == "random" else ("radius", "certified_radius")
    try:
        places, problem = range(start, start + len(rows), size), problem.for_method(method.name)
        found = [method.run(problem, slice(place, place + size), order) for place in places]
    except (BoundsError, RuntimeError) as error:
        tally.leave(AGAIN, f"its method ended with an error: {' '.join(str(error).split())}", unit)
        return
    _judge_promise(tally, record, Promise.of(found[0]))
    values = [one for part in found for one in getattr(part, value, torch.zeros(0)).tolist()]
    labels = [label for part in found for label in part.label.tolist()]
    for row, again, label in zip(rows, values, labels, strict=True):
        if row["status"] == LEFT_OUT or row.get("carried_from"):
            continue
        stated = row[key]
        same = label == row["prediction"] and abs(stated - again) <= TOLERANCE * max(stated, again)
        what = "radius" if value == "radius" else "number of right draws"
        if not same and not alike:
            reason = f"its method gives another {what} on this machine, which is not that of the run"
            tally.leave(AGAIN, reason, unit, row["index"])
        else:
            tally.judge(AGAIN, same, f"its {what} is {stated!r}, but its method gives {again!r}", unit, row["index"])


def _judge_promise(tally: Tally, record: Mapping[str, Any], promise: Promise) -> None:
    """Refute a record that speaks of another classifier or arithmetic than its method."""
    subjects = {row["subject"] for row in record["rows"] if row["status"] != LEFT_OUT}
    if Promise(**record["promise"]) != promise or subjects - {promise.subject}:
        reason = f"its promise is not that of its method: {promise}, of {promise.subject}"
        tally.refute(AGAIN, reason, record["unit"])
