"""Evaluations made by hand: any certified radii and attack distances, on the same inputs or on others."""

import math
from collections.abc import Sequence

from oracles.pages import SMOOTHED

from certify import Evaluation

NOT = -1.0  # in place of a radius: the prediction is wrong


def record(
    method: str, norm: str, values: Sequence[float], *, kind: str = "certificate", alpha: float = 0.0, subject="base"
) -> dict:
    """One unit of work; a value of ``NOT`` is a wrong prediction."""
    rows = []
    for i, value in enumerate(values):
        row = {"index": i, "label": i % 3, "base_prediction": i % 3, "subject": subject, "alpha": alpha}
        wrong = value == NOT
        row["prediction"] = (i + wrong) % 3
        if subject == "base":
            row["base_prediction"] = row["prediction"]
        if kind == "certificate":
            status = "misclassified" if wrong else "certified" if value > 0 else "not certified"
            row |= {"status": status, "certified_radius": max(value, 0.0)}
        elif value < math.inf:
            row |= {"status": "misclassified" if wrong else "found", "attack_distance": max(value, 0.0)}
            row |= {"adversarial_label": (i + 1) % 3, "distances": {norm: max(value, 0.0)}}
        else:
            row |= {"status": "not found"}
        rows.append(row)
    unit = f"{method}/{norm}/0-{len(rows)}"
    return {"unit": unit, "method": method, "kind": kind, "norm": norm, "seconds": 1.0, "rows": rows}


def proved(values: Sequence[float], *, norm: str = "2", method: str = "ibp") -> dict:
    return record(method, norm, values)


def smoothed(values: Sequence[float], *, method: str = "smoothing", subject: str = SMOOTHED) -> dict:
    return record(method, "2", values, alpha=0.001, subject=subject)


def attacked(values: Sequence[float], *, norm: str = "2", method: str = "attack") -> dict:
    return record(method, norm, values, kind="witness")


def evaluation(*records: dict, data: str = "ab" * 32, **configuration: object) -> Evaluation:
    """The records with a manifest that names the data by a hash."""
    settings = {"norms": ["2"], "methods": {}, "low": 0.0, "high": 1.0, "units": len(records), **configuration}
    manifest = {"configuration": settings, "source": {}, "data_sha256": data, "versions": {}}
    return Evaluation(manifest, list(records))
