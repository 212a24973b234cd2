"""The units of work of an evaluation: some inputs, one method, one norm; each is stored as soon as it is done."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor

from bounds.errors import InvalidInput, UnsupportedLayer
from certify.evaluation.manifest import norm_key
from certify.evaluation.rows import certificate_rows, estimate_rows, with_verdicts, witness_rows
from certify.methods import Method, Problem
from certify.methods.frozen import WithFrozenFeatures
from certify.promises import Promise
from certify.results import Estimate, VerdictCertificate, Witness


class Unit(NamedTuple):
    """One method in one norm on a few inputs.

    Attributes:
        name: by which records and tensors are stored.
        method: settings.
        norm: order of the norm.
        rows: of the inputs at hand, which may be a part of a data set.
    """

    name: str
    method: Method
    norm: float
    rows: slice


def units_of(methods: Sequence[Method], norms: Sequence[float], count: int, first_index: int = 0) -> list[Unit]:
    """All units of an evaluation of so many inputs, in order.

    Units begin at multiples of their size in the whole data set, and their names say where they stand in it, so that
    parts of a data set that are cut at such places have the units of the whole.
    """
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        remedy = f'give each settings of its own name, such as {type(methods[0]).__name__}(name="...")'
        raise InvalidInput(f"methods must have different names, got {', '.join(names)}: {remedy}")
    for norm in norms:
        if not any(norm in method.norms for method in methods):
            raise InvalidInput(f"none of the methods ({', '.join(names) or 'none given'}) serves the norm {norm:g}")
    units = []
    for method, norm in [(method, norm) for method in methods for norm in norms if norm in method.norms]:
        for block in _blocks(method.rows_per_unit, count, first_index):
            start, stop = _ends(block, method.rows_per_unit, count, first_index)
            rows = slice(start - first_index, stop - first_index)
            units.append(Unit(f"{method.name}/{norm_key(norm)}/{start}-{stop}", method, norm, rows))
    return units


def units_done(
    names: Collection[str], plan: Mapping[str, Mapping[str, Any]], count: int, first_index: int
) -> tuple[int, int]:
    """Numbers of the names that are units of a run, and of all its units, from the plan in its manifest."""
    pairs = {f"{method}/{norm}": plan[method]["rows_per_unit"] for method in plan for norm in plan[method]["norms"]}
    units = sum(len(_blocks(size, count, first_index)) for size in pairs.values())
    done = 0
    for name in names:
        pair, _, part = name.rpartition("/")
        start = part.partition("-")[0]
        if pair in pairs and start.isdecimal():
            block = int(start) // pairs[pair]
            known = block in _blocks(pairs[pair], count, first_index)
            done += known and name == "{}/{}-{}".format(pair, *_ends(block, pairs[pair], count, first_index))
    return done, units


def unit_names(configuration: Mapping[str, Any]) -> list[str]:
    """Names of all units of a run, in order, from the configuration in its manifest."""
    plan, ends = configuration.get("plan") or {}, (configuration["inputs"], configuration["first_index"])
    return [
        "{}/{}/{}-{}".format(method, norm, *_ends(block, size, *ends))
        for method, norms, size in ((name, units["norms"], units["rows_per_unit"]) for name, units in plan.items())
        for norm in norms
        for block in _blocks(size, *ends)
    ]


def in_order(records: Iterable[Mapping[str, Any]], configuration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Records in the order of their units, since workers finish some before earlier ones; unknown ones stay behind."""
    plan = configuration.get("plan") or {}
    pairs = [f"{method}/{norm}" for method, units in plan.items() for norm in units["norms"]]
    places = {pair: place for place, pair in enumerate(pairs)}

    def place(record: Mapping[str, Any]) -> tuple[int, int]:
        pair, _, part = record["unit"].rpartition("/")
        start = part.partition("-")[0]
        return (places[pair], int(start)) if pair in places and start.isdecimal() else (len(places), 0)

    return sorted(records, key=place)


def _blocks(size: int, count: int, first_index: int) -> range:
    """Numbers of the units, of that size in the whole data set, that these inputs have a share in."""
    return range(first_index // size, -(-(first_index + count) // size))


def _ends(block: int, size: int, count: int, first_index: int) -> tuple[int, int]:
    """Places of the first of these inputs in a unit and of the one behind its last."""
    return max(block * size, first_index), min((block + 1) * size, first_index + count)


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
    frozen = unit.method.frozen_name(problem) if isinstance(unit.method, WithFrozenFeatures) else ""
    clean, targets = problem.x[rows].cpu(), problem.y[rows].cpu()
    try:
        result = unit.method.run(problem, rows, unit.norm)
    except UnsupportedLayer as error:
        promise = Promise(kind="unsupported")
        details = [{"status": promise.kind, "subject": promise.subject, "reason": str(error)}] * (
            rows.stop - rows.start
        )
    else:
        promise = Promise.of(result)
        if isinstance(result, Witness):
            details = witness_rows(result.cpu(), clean, targets, norms)
            tensors = {"clean": clean, "adversarial": result.adversarial.cpu()}
        elif isinstance(result, Estimate):
            details = estimate_rows(result.cpu(), targets)
        else:
            details = certificate_rows(result.cpu(), targets)
            if isinstance(result, VerdictCertificate):
                details = with_verdicts(details, result.cpu(), clean, norms)
                tensors = {"clean": clean, "adversarial": result.adversarial.cpu()}
        details = [{**detail, "frozen": frozen} for detail in details] if frozen else details
    labels = problem.y[rows].tolist()
    shared = [
        {"index": problem.place(rows) + i, "label": labels[i], "base_prediction": base[rows.start + i], **detail}
        for i, detail in enumerate(details)
    ]
    record = {
        "unit": unit.name,
        "method": unit.method.name,
        "kind": promise.kind,
        "promise": asdict(promise),
        "norm": norm_key(unit.norm),
        "seconds": time.perf_counter() - started,
        "rows": shared,
    }
    return record, tensors
