"""Tables and curves of an evaluation, from its records."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bounds.sets.orders import Order, order_of
from certify.curves import AccuracyCurve, AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.promises import NO_RESULT, Promise
from certify.report.columns import LEFT_OUT, VALUES, Column, Line

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
NUMBERS = [*VALUES.values(), "alpha"]
ROW_COLUMNS = [
    *["index", "label", "base_prediction", "prediction", "predicted", "correct", "subject", "norm", "method"],
    *["status", *NUMBERS, "seconds"],
]


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One mapping per input, norm and method, from the records of all units, each unit once.

    Here a radius gets its meaning: it is that of the label. Records keep what was proved of the predicted class.
    """
    rows = []
    for record in {record["unit"]: record for record in reversed(list(records))}.values():
        promise = _promise(record)
        for row in record["rows"]:
            abstained = row.get("abstained", row["status"] == "abstained")
            predicted = None if abstained or row.get("prediction") == -1 else row.get("prediction")
            more: Row = dict.fromkeys(VALUES.values()) | {
                "norm": order_of(record["norm"]),
                "method": record["method"],
                "kind": record["kind"],
                "promise": promise,
                "seconds": record["seconds"] / len(record["rows"]),
                "predicted": predicted,  # -1 in a record: a row without finite logits has no class
                "correct": predicted == row["label"],
            }
            if record["kind"] in VALUES:
                more[VALUES[record["kind"]]] = _value(record["kind"], row, more["correct"])
            rows.append({**row, **more})
    return sorted(rows, key=lambda row: (row["norm"], row["method"], row["index"]))


def _value(kind: str, row: Mapping[str, Any], correct: bool) -> float | None:
    if row["status"] == LEFT_OUT:
        return None
    if kind == "certificate" and not correct:
        return 0.0
    value: float | None = row.get(VALUES[kind])
    return math.inf if kind in ("witness", "noise") and value is None else value


def dataframe(rows: Sequence[Row]) -> "pd.DataFrame":
    """The rows as a table: fixed columns first, then what single methods add."""
    import pandas as pd

    names = {name for row in rows for name in row} - set(ROW_COLUMNS)
    columns = [*ROW_COLUMNS, *sorted(names | {"kind"})]
    types = dict.fromkeys(NUMBERS, "float") | {"predicted": "Int64", "correct": "bool"}
    return pd.DataFrame(rows, columns=columns).astype(types)


def curves_of(rows: Sequence[Row]) -> list[AccuracyCurve]:
    """One curve per norm, subject and method that has certificates or witnesses.

    Curves are about all inputs. One that was left out counts as not certified, and as not broken: what is a lower bound
    stays one, and so does an upper bound.
    """
    grouped: dict[tuple[Order, str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] in ("certificate", "witness", *NO_RESULT):
            grouped.setdefault((row["norm"], row["subject"], row["method"]), []).append(row)
    return [_curve(part, *key) for key, part in sorted(grouped.items()) if any(map(_judged, part))]


def _judged(row: Row) -> bool:
    return row["kind"] not in NO_RESULT and row["status"] != LEFT_OUT


def _curve(rows: Sequence[Row], norm: Order, subject: str, method: str) -> AccuracyCurve:
    if any(row["kind"] == "witness" for row in rows):
        kind: type[AccuracyCurve] = AttackedAccuracyCurve
        limits = [math.inf if row["attack_distance"] is None else row["attack_distance"] for row in rows]
    else:
        kind = CertifiedAccuracyCurve
        limits = [row["certified_radius"] if row["correct"] else -math.inf for row in rows]
    limit = torch.tensor(limits, dtype=torch.float64, device="cpu")
    return kind(limit=limit, norm=norm, subject=subject, method=method, alpha=promise_of(rows).alpha)


def lines_of(rows: Sequence[Row], eight_bit: bool = False) -> list[Line]:
    """One line per norm, method and subject; ``eight_bit`` says whether radii are printed in levels of images too."""
    grouped: dict[tuple[Order, str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["norm"], row["method"], row["subject"]), []).append(row)
    return [Line(*key, promise_of(part), part, eight_bit) for key, part in grouped.items()]


def are_images(manifest: Mapping[str, Any]) -> bool:
    """Whether the inputs of a run are 8-bit images in [0, 1]."""
    stated = manifest.get("configuration", {})
    return bool(stated.get("on_grid")) and (stated.get("low"), stated.get("high")) == (0, 1)


def summary_of(lines: Sequence[Line], columns: Sequence[Column]) -> "pd.DataFrame":
    """The columns of a table, a row for each line."""
    import pandas as pd

    there = [column for column in columns if "table" in column.places]
    table = pd.DataFrame(
        [[column.of(line) for column in there] for line in lines], columns=[column.name for column in there]
    )
    counts = [name for name in ("correct", "certified", "broken", "blind") if name in table]
    return table.astype(dict.fromkeys(counts, "Int64"))


def _promise(record: Mapping[str, Any]) -> Promise:
    """Promise of all rows of a record; from the rows, where an earlier version wrote the record."""
    if record.get("promise") is not None:
        return Promise(**record["promise"])
    rows = record["rows"]
    return Promise(
        kind=record["kind"],
        alpha=max(row.get("alpha") or 0.0 for row in rows),
        subject=rows[0]["subject"],
        within=rows[0].get("reach"),
    )


def promise_of(rows: Sequence[Row]) -> Promise:
    """The weakest promise of the rows of a method, of those that it could treat if there are any."""
    promises: list[Promise] = [row["promise"] for row in rows]
    return max(promises, key=lambda promise: (promise.kind not in NO_RESULT, promise.alpha))
