"""Adversarial examples, judged one by one: their distances, the box, and the model alone on each."""

import math
from collections.abc import Mapping
from copy import deepcopy
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from certify.auditing.distances import Array, length
from certify.auditing.sets import SetJudge
from certify.auditing.tally import Tally

DISTANCES, INSIDE, CLASSES = (f"{what} of witnesses" for what in ("distances", "boxes", "classes"))
TOLERANCE = Fraction(1, 10**6)  # relative, by which a distance may be above the exact one
NEAR = 1e-4  # of the largest logit: a lead below it can turn by rounding alone


class Box(NamedTuple):
    """Sides of the box as arrays of one input, or numbers; None where there is none, or where it is not at hand."""

    low: Any
    high: Any
    known: bool


class Alone:
    """The model for one input at a time, in its own precision and in float64."""

    def __init__(self, model: nn.Module) -> None:
        self.own = model
        self.exact = deepcopy(model).double().cpu()

    def leads(self, x: Tensor, label: int) -> list[float]:
        """The lead of the label over the best other class, over the largest logit, in both precisions; NaN is none."""
        device = next((weight.device for weight in self.own.parameters()), x.device)
        with torch.no_grad():
            answers = [self.own(x[None].to(device)), self.exact(x[None].double().cpu())]
        return [_lead(logits[0].double().cpu(), label) for logits in answers]


def _lead(logits: Tensor, label: int) -> float:
    if not 0 <= label < len(logits):  # no class of the model
        return -math.inf
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return float((logits[label] - others.max()) / logits.abs().max().clamp(min=1e-30))


def audit_witnesses(
    tally: Tally,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    box: Box,
    alone: Alone | None,
    judge: SetJudge[Any] | None = None,
) -> None:
    """Judge all adversarial examples of a unit; rows that found none, or needed none, are asked to say so.

    Those of a set of perturbations are left to the judge of the set.
    """
    unit = record["unit"]
    clean, points = tensors.get("clean"), tensors.get("adversarial")
    for place, row in enumerate(record["rows"]):
        found = row["status"] == "found" or row.get("verdict") == "falsified"
        if not found:
            _judge_without(tally, record, row)
            if clean is not None and points is not None:  # else somebody took back what was found
                same = bool((clean[place] == points[place]).all())
                tally.judge(DISTANCES, same, "it states no example, but one is stored", unit, row["index"])
        elif clean is None or points is None:
            tally.refute(DISTANCES, "its inputs are not stored", unit, row["index"])
        else:
            if judge is not None:
                sides = (box.low, box.high) if box.known else None
                judge.judge_example(tally, record, row, (clean[place], points[place]), sides)
            else:
                pair = points[place].double().flatten().numpy(), clean[place].double().flatten().numpy()
                _judge_distances(tally, record, row, *pair)
                _judge_box(tally, record, row, points[place], box)
            if row["subject"] == "base" and alone is not None:
                _judge_classes(tally, record, row, points[place], alone)
            else:
                why = "no model is at hand" if row["subject"] == "base" else "it speaks of a smoothed classifier"
                tally.leave(CLASSES, f"the model was not asked: {why}", unit, row["index"])


def _judge_without(tally: Tally, record: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    stated = row.get("attack_distance")
    fine = stated is None and not row.get("distances") if row["status"] != "misclassified" else not stated
    tally.judge(DISTANCES, fine, "it states a distance without an example", record["unit"], row["index"])


def _judge_distances(tally: Tally, record: Mapping[str, Any], row: Mapping[str, Any], point: Array, x: Array) -> None:
    unit, index = record["unit"], row["index"]
    if not np.isfinite(point).all():
        tally.refute(DISTANCES, "its example is not finite", unit, index)
        return
    stated = dict(row.get("distances") or {})
    if not stated:
        tally.refute(DISTANCES, "it states no distances of its example", unit, index)
    if record["kind"] == "witness":
        own = row.get("attack_distance", math.inf)
        if stated.setdefault(record["norm"], own) != own:
            tally.refute(
                DISTANCES, f"it states two distances in one norm, {own!r} and {stated[record['norm']]!r}", unit, index
            )
    for norm, value in stated.items():
        exact = length(point, x, float(norm))
        below, above = value < exact.low, value > exact.high * (1 + TOLERANCE)
        reason = f"its distance {value!r} in norm {norm} is not {float(exact.high)!r}"
        tally.judge(DISTANCES, not below and not above and point.size > 0, reason, unit, index)


def _judge_box(tally: Tally, record: Mapping[str, Any], row: Mapping[str, Any], point: Tensor, box: Box) -> None:
    inside: bool | None = None
    if box.known:
        values = point.double()
        low, high = (
            None if side is None else torch.as_tensor(side, dtype=torch.float64, device="cpu")
            for side in (box.low, box.high)
        )
        inside = bool((low is None or (values >= low).all()) and (high is None or (values <= high).all()))
    tally.judge(INSIDE, inside, "its example lies outside the box", record["unit"], row["index"])


def _judge_classes(
    tally: Tally, record: Mapping[str, Any], row: Mapping[str, Any], point: Tensor, alone: Alone
) -> None:
    unit, index, label = record["unit"], row["index"], row["label"]
    leads = alone.leads(point, label)
    reason = f"the model gives its example the label {label}, alone in both precisions"
    if all(not lead >= 0 for lead in leads):
        tally.confirm(CLASSES)
    elif min(leads) >= NEAR:
        tally.refute(CLASSES, reason, unit, index)
    else:
        tally.leave(CLASSES, "the class of an example turns by rounding", unit, index)
    named = row.get("adversarial_label")
    if named == label:
        tally.refute(CLASSES, "it says that its example has the right class", unit, index)
    elif named is not None and all(lead < -NEAR for lead in alone.leads(point, named)):
        tally.refute(CLASSES, f"the model does not give its example the class {named}", unit, index)
