"""Deterministic methods run once more: whether a record is what they give. It proves nothing, and shows edits."""

from collections.abc import Mapping
from typing import Any

import torch

from bounds.errors import BoundsError
from certify.auditing.tally import Tally
from certify.methods import CompleteSearch, Method, Problem
from certify.report.columns import LEFT_OUT

AGAIN = "methods run again"
TOLERANCE = 1e-6  # relative, of radii


def can_run_again(method: Method) -> bool:
    """Whether a method gives the same again: searches that end by the clock do not."""
    return not isinstance(method, CompleteSearch)


def run_again(tally: Tally, record: Mapping[str, Any], method: Method, problem: Problem, alike: bool) -> None:
    """Run the method of a unit of certificates again, and compare classes and radii."""
    unit, rows = record["unit"], record["rows"]
    start = rows[0]["index"] - problem.first_index
    try:
        found = method.run(problem.for_method(method.name), slice(start, start + len(rows)), float(record["norm"]))
    except (BoundsError, RuntimeError) as error:
        tally.leave(AGAIN, f"its method ended with an error: {' '.join(str(error).split())}", unit)
        return
    radii = getattr(found, "radius", torch.zeros(0)).tolist()
    for row, radius, label in zip(rows, radii, found.label.tolist(), strict=True):
        if row["status"] == LEFT_OUT or row.get("carried_from"):
            continue
        stated = row["certified_radius"]
        same = label == row["prediction"] and abs(stated - radius) <= TOLERANCE * max(stated, radius)
        if not same and not alike:
            tally.leave(
                AGAIN,
                "its method gives another radius on this machine, which is not that of the run",
                unit,
                row["index"],
            )
        else:
            tally.judge(AGAIN, same, f"its radius is {stated!r}, but its method gives {radius!r}", unit, row["index"])
