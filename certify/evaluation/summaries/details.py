"""Details of single inputs of a run, for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from certify.evaluation.summaries.tables import rows_of
from certify.report.columns import Line
from certify.report.inputs.details import Details, Stored
from certify.report.inputs.planes import Plane


def details_of(
    manifest: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, Mapping[str, Tensor]],
    *,
    lines: Sequence[Line],
    planes: Sequence[Plane],
    tokens: Sequence[Sequence[str]] = (),
) -> Details:
    """Details of all inputs, from the parts of an evaluation.

    Args:
        manifest: of the run.
        records: of its units.
        tensors: by unit.
        lines: results by norm and method.
        planes: cross sections.
        tokens: of inputs that are texts, in the order of the inputs.
    """
    stated = manifest.get("configuration", {})
    low, high = (stated.get(side) for side in ("low", "high"))
    boxed = isinstance(low, int | float) and isinstance(high, int | float)  # and not one side per feature
    first = stated.get("first_index", 0)
    return Details(
        lines=lines,
        stored=[one for record in records for one in _stored(record, tensors.get(record["unit"]) or {})],
        planes=planes,
        low=float(low) if boxed else None,
        high=float(high) if boxed else None,
        features=manifest.get("features", ()),
        tokens={first + i: each for i, each in enumerate(tokens)},
    )


def _stored(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[Stored]:
    """Adversarial examples of a record; tensors stand in the order of its rows."""
    if "adversarial" not in tensors:
        return []
    rows = {row["index"]: row for row in rows_of([record])}
    nothing = [None] * len(record["rows"])
    logits, others = (tensors.get(name, nothing) for name in ("logits", "adversarial_logits"))
    return [
        Stored(row=rows[row["index"]], clean=clean, adversarial=adversarial, logits=own, adversarial_logits=other)
        for row, clean, adversarial, own, other in zip(
            record["rows"], tensors["clean"], tensors["adversarial"], logits, others, strict=True
        )
    ]
