"""The run as a whole: units, inputs, labels and statuses against the manifest, and records against each other."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bounds.sets.orders import order_of, refutes
from certify.auditing.tally import Tally
from certify.evaluation.left_out import is_left_out, standing
from certify.methods import BY_NAME, QuantisedCopy
from certify.methods.smoothed import Smoothed
from certify.promises import refuting_subject
from certify.report.columns import LEFT_OUT, VALUES

Record = Mapping[str, Any]
CHAIN, UNITS, INPUTS, STATUSES, ALPHAS = "hash chain", "units", "inputs and labels", "statuses", "alphas"
CONTRADICTIONS = "certificates against witnesses"
CERTIFIED, NOT_CERTIFIED, MISCLASSIFIED, ABSTAINED = "certified", "not certified", "misclassified", "abstained"


def planned_units(manifest: Mapping[str, Any]) -> dict[str, tuple[str, str, range]] | None:
    """Method, norm and indices of every unit of a run by name; None where the manifest has no plan."""
    stated = manifest["configuration"]
    plan, first, count = stated.get("plan"), stated.get("first_index", 0), stated.get("inputs", 0)
    if plan is None:
        return None
    units = {}
    for method, part in plan.items():
        size = part["rows_per_unit"]
        for norm in part["norms"]:
            for start in range(first - first % size, first + count, size):
                places = range(max(start, first), min(start + size, first + count))
                units[f"{method}/{norm}/{places.start}-{places.stop}"] = (method, norm, places)
    return units


def audit_structure(tally: Tally, manifest: Mapping[str, Any], lines: Sequence[Record]) -> None:
    """Judge what needs no formula: which units there are, what rows are about, and what they say of themselves."""
    _judge_lines(tally, lines)
    records = list(standing(lines).values())
    _judge_units(tally, manifest, records)
    _judge_inputs(tally, records)
    _judge_groups(tally, manifest, records)
    for record in records:
        for row in record["rows"]:
            for check, fine, reason in _row_verdicts(record, row, _settings(manifest, record)):
                tally.judge(check, fine, reason, record["unit"], row["index"])
    _judge_contradictions(tally, records)
    _judge_carried(tally, records)


def _settings(manifest: Mapping[str, Any], record: Record) -> Mapping[str, Any]:
    table = manifest["configuration"].get("methods", {}).get(record["method"], {})
    return table if isinstance(table, Mapping) else {}


def _judge_lines(tally: Tally, lines: Sequence[Record]) -> None:
    seen: dict[str, Record] = {}
    for line in lines:
        before = seen.get(line["unit"])
        if before is None or is_left_out(before):  # a run that was continued knows more of such a unit
            seen[line["unit"]] = line
        elif before != line:
            tally.refute(UNITS, "it is stored twice, with different contents", line["unit"])


def _judge_units(tally: Tally, manifest: Mapping[str, Any], records: Sequence[Record]) -> None:
    planned = planned_units(manifest)
    if planned is None:
        tally.leave(UNITS, "the manifest does not say which units there are")
        return
    stated = manifest["configuration"]
    if stated["units"] != len(planned):
        tally.refute(UNITS, f"the manifest states {stated['units']} units, but its plan has {len(planned)}")
    if stated.get("methods", {}).keys() != stated["plan"].keys():
        tally.refute(UNITS, "the methods of the manifest are not those of its plan")
    for record in records:
        wanted = planned.get(record["unit"])
        if wanted is None:
            tally.refute(UNITS, "it is no unit of this run", record["unit"])
            continue
        method, norm, places = wanted
        same = (record["method"], record["norm"]) == (method, norm)
        tally.judge(UNITS, same, "its method or norm is not that of its name", record["unit"])
        indices = [row["index"] for row in record["rows"]]
        whole = indices == list(places)
        tally.judge(
            INPUTS, whole, f"its rows are not those of inputs {places.start} to {places.stop - 1}", record["unit"]
        )
    missing = len(planned.keys() - {record["unit"] for record in records})
    if missing:
        tally.leave(UNITS, f"{missing} of {len(planned)} units are not finished, or were removed")


def _judge_inputs(tally: Tally, records: Sequence[Record]) -> None:
    """All records say the same of an input: its label, the class that the model gives it, its group."""
    first: dict[int, tuple[str, Any]] = {}
    for record in records:
        for row in record["rows"]:
            said = row["label"], row["base_prediction"], row.get("group")
            unit, known = first.setdefault(row["index"], (record["unit"], said))
            reason = f"it says label, class and group {said} of the input, but {unit} says {known}"
            tally.judge(INPUTS, said == known, reason, record["unit"], row["index"])


def _judge_groups(tally: Tally, manifest: Mapping[str, Any], records: Sequence[Record]) -> None:
    """The groups of all inputs are those that the manifest has the hash of."""
    stated = manifest["configuration"]
    first, count = stated.get("first_index", 0), stated.get("inputs", 0)
    groups = {row["index"]: row.get("group") for record in records for row in record["rows"]}
    if "groups_sha256" in manifest and all(index in groups for index in range(first, first + count)):
        found = hashlib.sha256(repr([groups[index] for index in range(first, first + count)]).encode()).hexdigest()
        tally.judge(INPUTS, found == manifest["groups_sha256"], "the groups are not those of the manifest")


def _speaks_of(record: Record, table: Mapping[str, Any], smoothed: bool) -> bool:
    """Whether a method may speak of a smoothed classifier, or else of another one than the model.

    Nothing is known of a method of the user's own, which is written as module:class.
    """
    kind = BY_NAME.get(table.get("class", record["method"]))
    return kind is None or issubclass(kind, Smoothed if smoothed else QuantisedCopy)


def _row_verdicts(record: Record, row: Record, table: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    kind, status, label = record["kind"], row["status"], row["label"]
    prediction, alpha = row.get("prediction"), row.get("alpha")
    smoothed = row["subject"].startswith("smoothed(")
    if status == LEFT_OUT:
        result = any(row.get(key) is not None for key in VALUES.values())
        yield STATUSES, not result, "it has a result, though it was left out"
        return
    if "alpha" in table and kind not in ("unsupported", "noise", "random"):  # of random noise it is that of an interval
        yield ALPHAS, alpha == table["alpha"], f"alpha is {alpha}, but the manifest asks for {table['alpha']}"
    elif kind == "certificate" and alpha is not None:
        yield ALPHAS, (alpha > 0) <= smoothed, f"alpha is {alpha} of a statement without draws"
    if row["subject"] != "base":
        yield STATUSES, _speaks_of(record, table, smoothed), f"its method says nothing about {row['subject']!r}"
    if kind == "unsupported":
        yield STATUSES, status == kind, f"its status {status!r} is none of a method that cannot treat the model"
        return
    if refuting_subject(row["subject"]) == "base":
        yield INPUTS, prediction == row["base_prediction"], "its class is not the one that the model gives the input"
    if kind == "estimate":
        told = status.replace("_", "").replace(" ", "").isalnum() and (status == MISCLASSIFIED) == (prediction != label)
        yield STATUSES, told, f"its status is {status!r} with class {prediction} and label {label}"
    elif kind == "random":
        right, draws = row["draws_right"], row["draws"]
        wanted = MISCLASSIFIED if prediction != label else "changed" if right < draws else "not changed"
        fine = status == wanted and right <= draws and row["error_lower"] <= 1 - right / draws <= row["error_upper"]
        yield STATUSES, fine, f"its status is {status!r} with {right} of {draws} draws right"
    elif kind == "noise":
        yield STATUSES, (status == MISCLASSIFIED) == (prediction != label), f"its status is {status!r}"
    elif kind == "certificate":
        radius = row.get("certified_radius", math.nan)
        proved = CERTIFIED if radius > 0 else NOT_CERTIFIED
        wanted = (
            ABSTAINED
            if status == ABSTAINED and row["subject"] != "base"
            else MISCLASSIFIED
            if prediction != label
            else proved
        )
        yield STATUSES, status == wanted, f"its status is {status!r}, with class {prediction} and label {label}"
        yield STATUSES, 0 <= radius < math.inf, f"its radius is {radius}"
        if "verdict" in row:
            fine = radius == (table.get("epsilon") if row["verdict"] == "verified" else 0)
            yield STATUSES, fine, f"its radius is {radius} with the verdict {row['verdict']!r}"
    else:
        wrong = prediction != label and not row.get("abstained", False)
        fine = (status == MISCLASSIFIED) == wrong and status in (MISCLASSIFIED, "found", "not found")
        yield STATUSES, fine, f"its status is {status!r}, with class {prediction} and label {label}"


def _judge_contradictions(tally: Tally, records: Sequence[Record]) -> None:
    """No radius around the right class is refuted by the distance of an example of the same classifier."""
    nearest: dict[tuple[int, str, str, str], float] = {}
    for record in records:
        for row in record["rows"]:
            for norm, distance in (row.get("distances") or {}).items():
                for frozen in {row.get("frozen") or "", ""}:
                    key = (row["index"], norm, row["subject"], frozen)
                    nearest[key] = min(distance, nearest.get(key, math.inf))
    for record in records:
        for row in record["rows"] if record["kind"] == "certificate" else ():
            subject = refuting_subject(row["subject"])
            distance = nearest.get((row["index"], record["norm"], subject, row.get("frozen") or ""))
            if row["status"] in (ABSTAINED, LEFT_OUT) or distance is None:
                continue
            if row["prediction"] == row["label"]:
                radius = row["certified_radius"]
                reason = f"it certifies {radius!r}, but an example lies at {distance!r}"
                tally.judge(
                    CONTRADICTIONS,
                    not refutes(distance, radius, order_of(record["norm"])),
                    reason,
                    record["unit"],
                    row["index"],
                )


def _judge_carried(tally: Tally, records: Sequence[Record]) -> None:
    """A radius that was taken over from another method is one that this method states of the same input."""
    stated: dict[tuple[int, str, str, str], float] = {}
    for record in records:
        for row in record["rows"] if record["kind"] == "certificate" else ():
            if not row.get("carried_from") and row["status"] != LEFT_OUT:
                stated[row["index"], record["norm"], row["subject"], record["method"]] = row["certified_radius"]
    for record in records:
        for row in record["rows"]:
            if source := row.get("carried_from"):
                radius = stated.get((row["index"], record["norm"], row["subject"], source))
                reason = f"it takes {row['certified_radius']!r} over from {source}, which states {radius!r}"
                tally.judge(STATUSES, row["certified_radius"] == radius, reason, record["unit"], row["index"])
