"""The units of work of an evaluation: some inputs, one method, one norm; each is stored as soon as it is done."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bounds.errors import BoundsError, InvalidConfiguration, InvalidInput, UnsupportedLayer
from bounds.sets.orders import Order, order_key
from certify.evaluation.rows import (
    certificate_rows,
    drawing_of,
    estimate_rows,
    noise_rows,
    random_rows,
    with_verdicts,
    witness_rows,
)
from certify.evaluation.storage.proofs import is_proof, with_stored_proofs
from certify.methods import (
    METHODS,
    ChangeBounds,
    Clever,
    CompleteSearch,
    CounterfactualAttack,
    IntervalBounds,
    LinearBounds,
    LinearBoundsBehindIntervals,
    Lipschitz,
    Method,
    MinimalPerturbation,
    OptimisedLinearBounds,
    Problem,
    RandomChanges,
    RandomNoise,
    RandomTransformations,
    SmoothedAttack,
    Smoothing,
    TransformationAttack,
    TransformationBounds,
)
from certify.methods.frozen import WithFrozenFeatures
from certify.models import frozen
from certify.promises import Promise
from certify.results import Estimate, NoiseTolerance, VerdictCertificate, Witness
from certify.sets.draws import SetAccuracy
from certify.verification.proving.radius_proofs import CertificateWithProofs

FROM_CHEAP_TO_DEAR = (  # and both sides early, since a witness spares dear proofs
    *(IntervalBounds, RandomTransformations, TransformationAttack, RandomChanges, CounterfactualAttack),
    *(MinimalPerturbation, TransformationBounds, ChangeBounds),
    *(LinearBoundsBehindIntervals, LinearBounds, Smoothing, Lipschitz),
    *(RandomNoise, Clever, OptimisedLinearBounds, SmoothedAttack, CompleteSearch),
)
Pair = tuple[Method, Order]  # a method and a norm that it serves, or a set of perturbations in its place
Found = tuple[dict[str, Any], dict[str, Tensor]]  # the record of a unit, and the tensors that belong to it


class Unit(NamedTuple):
    """One method in one norm on a few inputs.

    Attributes:
        name: by which records and tensors are stored.
        method: settings.
        norm: order of the norm, or the set of perturbations.
        rows: of the inputs at hand, which may be a part of a data set.
    """

    name: str
    method: Method
    norm: Order
    rows: slice


def method_pairs(methods: Sequence[Method], norms: Sequence[Order]) -> list[Pair]:
    """Each method with each norm that it serves.

    Raises:
        InvalidInput: two methods of one name, or a norm that none of them serves.
    """
    names = [method.name for method in methods]
    if not names:
        raise InvalidInput('methods must name at least one, got []: pass "standard", or some of certify.methods')
    if len(set(names)) < len(names):
        remedy = f'give each settings of its own name, such as {type(methods[0]).__name__}(name="...")'
        raise InvalidInput(f"methods must have different names, got {', '.join(names)}: {remedy}")
    for norm in norms:
        if not any(method.serves(norm) for method in methods):
            what = f"the set {norm!r}" if isinstance(norm, str) else f"the norm {norm:g}"
            raise InvalidInput(f"none of the methods ({', '.join(names)}) serves {what}")
    return [(method, norm) for method in methods for norm in norms if method.serves(norm)]


def cheap_first(method: Method, norm: Order) -> tuple[int, bool]:
    """A place among methods of which nobody knows the cost: what is mostly cheap first, then the norms one by one."""
    places = [i for i, kind in enumerate(FROM_CHEAP_TO_DEAR) if isinstance(method, kind)]
    return (places[0] if places else len(FROM_CHEAP_TO_DEAR)), norm not in method.norms[-1:]


def units_of(
    methods: Sequence[Method],
    norms: Sequence[Order],
    count: int,
    first_index: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> list[Unit]:
    """All units of an evaluation of so many inputs, in order.

    Units begin at multiples of their size in the whole data set, and their names say where they stand in it, so that
    parts of a data set that are cut at such places have the units of the whole.

    Args:
        methods: settings.
        norms: orders, and sets of perturbations.
        count: number of inputs.
        first_index: place of the first of them.
        sizes: inputs in a unit of a method, by its name; ``rows_per_unit`` where it is not named.
    """
    units = []
    for method, norm in method_pairs(methods, norms):
        size = (sizes or {}).get(method.name, method.rows_per_unit)
        for block in _blocks(size, count, first_index):
            start, stop = _ends(block, size, count, first_index)
            rows = slice(start - first_index, stop - first_index)
            units.append(Unit(f"{method.name}/{order_key(norm)}/{start}-{stop}", method, norm, rows))
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


class UnitOutcome(NamedTuple):
    """Results of a method for some inputs, as they are stored.

    Attributes:
        promise: of all rows.
        details: a mapping for each input, in plain numbers.
        tensors: clean and adversarial inputs, where there are such; proofs of single inputs.
        drawing: what the draws are a function of, where there are such.
    """

    promise: Promise
    details: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    drawing: Mapping[str, Any] = MappingProxyType({})


def outcome_of(method: Method, problem: Problem, rows: slice, norm: Order, norms: Sequence[Order]) -> UnitOutcome:
    """The results of a method for some inputs.

    Args:
        method: settings.
        problem: the model and all inputs.
        rows: of the inputs.
        norm: order of the norm.
        norms: in which the distances of witnesses are stated.
    """
    if method.one_by_one and rows.stop - rows.start > 1:
        alone = (slice(row, row + 1) for row in range(rows.start, rows.stop))
        return joined([outcome_of(method, problem, row, norm, norms) for row in alone])
    problem = problem.for_method(method.name)
    if type(method) in METHODS:  # others may look at all inputs
        problem, rows = problem.held(rows)
    kept = method.frozen_name(problem) if isinstance(method, WithFrozenFeatures) else ""
    clean, targets = problem.x[rows].cpu(), problem.y[rows].cpu()
    result = method.run(problem, rows, norm).cpu()
    tensors: dict[str, Tensor] = {}
    if isinstance(result, Witness):
        details = witness_rows(result, clean, targets, norms, norm)
    elif isinstance(result, Estimate):
        details = estimate_rows(result, targets)
    elif isinstance(result, NoiseTolerance):
        details = noise_rows(result, targets)
    elif isinstance(result, SetAccuracy):
        details = random_rows(result, targets, getattr(method, "alpha", 0.05))
        tensors = {"right": result.right, "distance": result.distance}
    else:
        details = certificate_rows(result, targets)
        if isinstance(result, VerdictCertificate):
            details = with_verdicts(details, result, clean, norms)
    if isinstance(result, CertificateWithProofs):
        details, tensors = with_stored_proofs(details, result, problem.place(rows))
    if isinstance(result, Witness | VerdictCertificate):
        tensors = _with_logits(problem, rows, clean, result.adversarial)
    details = [{**detail, "frozen": kept} for detail in details] if kept else details
    return UnitOutcome(Promise.of(result), details, tensors, drawing_of(result))


def _with_logits(problem: Problem, rows: slice, clean: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
    """Clean and adversarial inputs with the logits of the model for both, to be stored."""
    with frozen(problem.model), torch.no_grad():
        logits, others = (
            torch.cat([problem.model(part) for part in points.split(problem.batch_size)]).cpu()
            for points in (problem.x[rows], adversarial.to(problem.x.device))
        )
    return {"clean": clean, "adversarial": adversarial.cpu(), "logits": logits, "adversarial_logits": others}


def joined(parts: Sequence[UnitOutcome]) -> UnitOutcome:
    """The outcomes of several parts, one after the other."""
    whole = [name for name in parts[0].tensors if not is_proof(name)]
    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in whole}
    tensors |= {name: proof for part in parts for name, proof in part.tensors.items() if is_proof(name)}
    drawing = next((part.drawing for part in parts if part.drawing), {})
    return UnitOutcome(parts[0].promise, [detail for part in parts for detail in part.details], tensors, drawing)


def refused(error: BoundsError, lenient: bool) -> bool:
    """Whether an error says that the method cannot treat the model, and not that a caller is wrong.

    Methods of a preset, which nobody chose one by one, are left out at any refusal.
    """
    return isinstance(error, UnsupportedLayer) or (lenient and not isinstance(error, InvalidConfiguration))


def record_of(
    unit: Unit, problem: Problem, base: Sequence[int], outcome: UnitOutcome, seconds: float = 0.0
) -> dict[str, Any]:
    """The record of a unit.

    Args:
        unit: what was done.
        problem: the model and all inputs.
        base: predicted class of each input, -1 where there is none.
        outcome: for all inputs of the unit.
        seconds: that it took.
    """
    rows, labels = unit.rows, problem.y[unit.rows].tolist()
    shared = [
        {"index": problem.place(rows) + i, "label": labels[i], "base_prediction": base[rows.start + i], **detail}
        for i, detail in enumerate(outcome.details)
    ]
    return {
        "unit": unit.name,
        "method": unit.method.name,
        "kind": outcome.promise.kind,
        "promise": asdict(outcome.promise),
        "norm": order_key(unit.norm),
        "seconds": seconds,
        **outcome.drawing,
        "rows": shared,
    }


def run_unit(
    unit: Unit, problem: Problem, base: Sequence[int], norms: Sequence[Order], lenient: Collection[str] = ()
) -> Found:
    """The record of a unit that is run as a whole, and the tensors that belong to it.

    Args:
        unit: what is to be done.
        problem: the model and all inputs.
        base: predicted class of each input, -1 where there is none.
        norms: in which the distances of witnesses are stated.
        lenient: methods of a preset, see :func:`refused`.
    """
    started = time.perf_counter()
    try:
        outcome = outcome_of(unit.method, problem, unit.rows, unit.norm, norms)
    except BoundsError as error:
        if not refused(error, unit.method.name in lenient):
            raise
        outcome = without_result(unit, Promise(kind="unsupported"), "unsupported", str(error))
    return record_of(unit, problem, base, outcome, time.perf_counter() - started), outcome.tensors


def without_result(unit: Unit, promise: Promise, status: str, reason: str, rows: int | None = None) -> UnitOutcome:
    """The outcome of a unit that was not computed; the promise is that of the method, where it is known."""
    detail: dict[str, Any] = {"status": status, "subject": promise.subject, "reason": reason}
    if promise.alpha or promise.kind == "certificate":
        detail["alpha"] = promise.alpha
    return UnitOutcome(promise, [detail] * (unit.rows.stop - unit.rows.start if rows is None else rows), {})
