"""Work that an evaluation left out, and why."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bounds.sets.orders import order_of
from certify.report import norm_name
from certify.report.columns import LEFT_OUT

OUT_OF_BUDGET = "out of budget"
NOT_SERVED = "not_served"  # key of the configuration in a manifest


def is_left_out(record: Mapping[str, Any]) -> bool:
    """Whether a part of a unit was not computed and may be, when the run is continued."""
    return any(row["status"] == LEFT_OUT for row in record["rows"])


def standing(lines: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The line that counts for each unit: the first one, unless it left rows out and a later one was written for it."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        if line["unit"] not in found or is_left_out(found[line["unit"]]):
            found[line["unit"]] = line
    return found


def left_out(records: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> list[str]:
    """A sentence for each method, norm and reason, and for each norm that a method of a preset does not serve."""
    inputs: Counter[tuple[str, str]] = Counter()
    missing: Counter[tuple[str, str, str]] = Counter()
    preset = bool(manifest.get("configuration", {}).get("preset"))
    for record in records:
        place = record["method"], record["norm"]
        for row in record["rows"]:
            inputs[place] += 1
            if row["status"] == LEFT_OUT or (preset and row["status"] == "unsupported"):
                missing[*place, row.get("reason") or ""] += 1
    sentences = [
        f"{method} in {norm_name(order_of(norm))}: {_share(count, inputs[method, norm])} left out: {reason}"
        for (method, norm, reason), count in missing.items()
    ]
    return [*sentences, *manifest.get("configuration", {}).get(NOT_SERVED, [])]


def _share(count: int, inputs: int) -> str:
    return f"all {count} inputs" if count == inputs else f"{count} of {inputs} inputs"
