"""Curves of sets of perturbations: what is certified, what an attack left, and random draws, against the size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.evaluation.summaries.tables import rows_of
from certify.methods.sets.kinds import all_sets
from certify.sets.curves import SetCurves
from certify.sets.draws import SetAccuracy
from certify.sets.stated import StatedSet

Record = Mapping[str, Any]


def set_curves(
    manifest: Mapping[str, Any], records: Sequence[Record], tensors: Mapping[str, Mapping[str, Tensor]]
) -> dict[StatedSet, SetCurves]:
    """Curves of each set of perturbations for which there are certificates.

    Of several methods, the largest certified radius of each input counts, and the nearest example; draws are joined.

    Args:
        manifest: which states the sets.
        records: all of a run.
        tensors: by unit, those of random draws.
    """
    found: dict[StatedSet, SetCurves] = {}
    for over in all_sets(manifest.get("configuration", {})):
        here = [record for record in records if record["norm"] == over]
        certified, attacked = (_limits(here, kind) for kind in ("certificate", "witness"))
        if certified:
            about: dict[str, Any] = {"norm": over, "subject": "base", "unit": over.unit}
            proved, names = _tensor(certified), _methods(here)
            found[over] = over.CURVES(
                certified=CertifiedAccuracyCurve(limit=proved, method=names["certificate"], **about),
                attacked=AttackedAccuracyCurve(limit=_tensor(attacked), method=names["witness"], **about)
                if attacked
                else None,
                random=_random(here, tensors, over),
                reach=over.reach,
                unit=over.unit,
            )
    return found


def _limits(records: Sequence[Record], kind: str) -> dict[int, float]:
    """The limit of each input: the best of all certificates, or of all witnesses."""
    limits: dict[int, float] = {}
    for row in rows_of([record for record in records if record["kind"] == kind]):
        if kind == "certificate":
            radius = row["certified_radius"] if row["correct"] and row["certified_radius"] is not None else -math.inf
            limits[row["index"]] = max(radius, limits.get(row["index"], -math.inf))
        else:
            distance = math.inf if row["attack_distance"] is None else row["attack_distance"]
            limits[row["index"]] = min(distance, limits.get(row["index"], math.inf))
    return dict(sorted(limits.items()))


def _tensor(limits: Mapping[int, float]) -> Tensor:
    return torch.tensor(list(limits.values()), dtype=torch.float64, device="cpu")


def _methods(records: Sequence[Record]) -> dict[str, str]:
    names: dict[str, dict[str, None]] = {}
    for record in records:
        names.setdefault(record["kind"], {})[record["method"]] = None
    return {kind: ", ".join(sorted(each)) for kind, each in names.items()}


def _random(
    records: Sequence[Record], tensors: Mapping[str, Mapping[str, Tensor]], over: StatedSet
) -> SetAccuracy | None:
    """The draws of the first method that has some, of all inputs."""
    drawn = [record for record in records if record["kind"] == "random" and "right" in tensors.get(record["unit"], {})]
    drawn = [record for record in drawn if record["method"] == drawn[0]["method"]]
    if not drawn:
        return None
    right, distance = (
        torch.cat([tensors[record["unit"]][name].cpu() for record in drawn]) for name in ("right", "distance")
    )
    rows = [row for record in drawn for row in record["rows"]]
    return over.accuracy(
        label=torch.tensor([row.get("prediction", -1) for row in rows], device="cpu"),
        correct=right.sum(1),
        right=right,
        distance=distance,
        draws=right.shape[1],
        unit=over.unit,
        reach=over.reach,
    )
