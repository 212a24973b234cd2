"""The units of work of an evaluation: some inputs, one method, one norm; each is stored as soon as it is done."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from bounds.errors import InvalidInput, UnsupportedLayer
from certify.evaluation.manifest import norm_key
from certify.evaluation.rows import certificate_rows, estimate_rows, witness_rows
from certify.methods import Method, Problem
from certify.results import Estimate, Witness


class Unit(NamedTuple):
    """One method in one norm on a few inputs.

    Attributes:
        name: by which records and tensors are stored.
        method: settings.
        norm: order of the norm.
        rows: of the inputs.
    """

    name: str
    method: Method
    norm: float
    rows: slice


def units_of(methods: Sequence[Method], norms: Sequence[float], count: int) -> list[Unit]:
    """All units of an evaluation of so many inputs, in order."""
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InvalidInput(f"methods must have different names, got {', '.join(names)}")
    for norm in norms:
        if not any(norm in method.norms for method in methods):
            raise InvalidInput(f"none of the methods ({', '.join(names) or 'none given'}) serves the norm {norm:g}")
    units = []
    for method, norm in [(method, norm) for method in methods for norm in norms if norm in method.norms]:
        for start in range(0, count, method.rows_per_unit):
            rows = slice(start, min(start + method.rows_per_unit, count))
            units.append(Unit(f"{method.name}/{norm_key(norm)}/{rows.start}-{rows.stop}", method, norm, rows))
    return units


def run_unit(
    unit: Unit, problem: Problem, base: Sequence[int], norms: Sequence[float]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record of a unit, and the tensors that belong to it.

    Args:
        unit: what is to be done.
        problem: the model and all inputs.
        base: predicted class of each input, -1 where there is none.
        norms: in which the distances of witnesses are stated.
    """
    started, rows = time.perf_counter(), unit.rows
    tensors: dict[str, Tensor] = {}
    clean, targets = problem.x[rows].cpu(), problem.y[rows].cpu()
    try:
        result = unit.method.run(problem, rows, unit.norm)
    except UnsupportedLayer as error:
        kind = "unsupported"
        details = [{"status": kind, "subject": "base", "reason": str(error)}] * (rows.stop - rows.start)
    else:
        if isinstance(result, Witness):
            kind, details = "witness", witness_rows(result.cpu(), clean, targets, norms)
            tensors = {"clean": clean, "adversarial": result.adversarial.cpu()}
        elif isinstance(result, Estimate):
            kind, details = "estimate", estimate_rows(result.cpu(), targets)
        else:
            kind, details = "certificate", certificate_rows(result.cpu(), targets)
    labels = problem.y[rows].tolist()
    shared = [
        {"index": rows.start + i, "label": labels[i], "base_prediction": base[rows.start + i], **detail}
        for i, detail in enumerate(details)
    ]
    record = {
        "unit": unit.name,
        "method": unit.method.name,
        "kind": kind,
        "norm": norm_key(unit.norm),
        "seconds": time.perf_counter() - started,
        "rows": shared,
    }
    return record, tensors
