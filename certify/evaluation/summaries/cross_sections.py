"""Cross sections through some inputs of a run, for the page, and the file of a run that holds them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import msgspec
import torch
from torch import Tensor

from bounds.errors import InvalidConfiguration
from bounds.geometry import cross_section
from bounds.sets.orders import Order, order_key
from certify.evaluation.storage.run_directory import reported
from certify.evaluation.summaries.tables import rows_of
from certify.methods import Problem
from certify.report.inputs.details import spread
from certify.report.inputs.planes import CLASSES, Place, Plane, unit_sizes
from certify.report.inputs.regions import regions_of
from certify.report.words import norm_name

FILE = "cross_sections.json"
GRID = 41  # points along each side: the input is in the middle
MARGIN = 1.8  # beyond the farthest adversarial example
APART = 0.05  # sine of the least angle between two directions that span a plane
COMPARABLE = 4  # times longer or shorter than the first may a second adversarial direction be
SLACK = 1e-6  # beyond the box, from rounding
LOGIT = 8  # bytes, at most
DIRECTIONS = 8  # of a plane, with what they are made from
PLACE = 2**40  # in the run's stream of random numbers, far beyond those of searches


class _Found(NamedTuple):
    """The nearest adversarial example of an input in one norm."""

    row: Mapping[str, Any]
    clean: Tensor
    adversarial: Tensor

    @property
    def change(self) -> Tensor:
        return self.adversarial - self.clean

    @property
    def name(self) -> str:
        return f"the adversarial example of {self.row['method']} in {norm_name(self.row['norm'])}"


def inputs_with_planes(
    records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Mapping[str, Tensor]], count: int
) -> list[int]:
    """Inputs that get a cross section: evenly spread among those that the model itself gets right until attacked."""
    return spread(sorted(_found(records, tensors)), count) if count else []


def bytes_of_planes(problem: Problem) -> int:
    """Bytes that cross sections take besides batches: logits of all points, twice, and directions."""
    return 2 * GRID**2 * problem.num_classes * LOGIT + DIRECTIONS * problem.x[:1].numel() * LOGIT


def planes_of(
    problem: Problem,
    records: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, Mapping[str, Tensor]],
    norms: Sequence[Order],
    indices: Sequence[int],
) -> list[Plane]:
    """Cross sections through inputs, ``GRID**2`` rows of forward passes each.

    The first direction is that to the nearest adversarial example in l2, or else in the smallest norm there is. The
    second is that to one in another norm if that is of comparable length, or else a random one, of the run's seed.

    Args:
        problem: the model and its inputs.
        records: all of a run.
        tensors: by unit, clean and adversarial inputs.
        norms: of the run, in which balls are to be drawn.
        indices: of inputs of :func:`inputs_with_planes`.
    """
    found = _found(records, tensors)
    return [_plane(problem, index, found[index], norms) for index in indices]


def read_planes(folder: Path) -> list[Plane]:
    """Cross sections that a run has stored, none if it has no such file.

    Raises:
        InvalidConfiguration: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    with reported(f"{path} cannot be read"):
        content = path.read_bytes()
    try:
        return msgspec.json.decode(content, type=list[Plane])
    except (ValueError, RecursionError) as error:
        raise InvalidConfiguration(f"{path} is damaged: {error}: delete it, the next run makes it again") from error


def write_planes(folder: Path, planes: Sequence[Plane]) -> None:
    """Store cross sections with a run, all or none of them.

    Raises:
        InvalidConfiguration: the file cannot be written.
    """
    path = folder / FILE
    partial = path.with_name(path.name + ".partial")
    with reported(f"{path} cannot be written"):
        partial.write_bytes(msgspec.json.encode(planes))
        partial.replace(path)


def _found(
    records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Mapping[str, Tensor]]
) -> dict[int, dict[float, _Found]]:
    """The nearest adversarial examples of the model itself, by input and norm of at least 1."""
    nearest: dict[int, dict[float, _Found]] = {}
    for record in records:
        stored = tensors.get(record["unit"], {})
        if record["kind"] != "witness" or "adversarial" not in stored or stored["clean"][0].numel() < 2:
            continue
        # In the order of the record, as the tensors are.
        rows = {row["index"]: row for row in rows_of([record])}
        for i, index in enumerate(row["index"] for row in record["rows"]):
            row = rows[index]
            if row["status"] != "found" or row["subject"] != "base" or not _is_norm(row["norm"]):
                continue
            best = nearest.setdefault(index, {}).get(row["norm"])
            if best is None or row["attack_distance"] < best.row["attack_distance"]:
                nearest[index][row["norm"]] = _Found(row, stored["clean"][i], stored["adversarial"][i])
    return nearest


def _is_norm(order: Order) -> TypeGuard[float]:
    return not isinstance(order, str) and order >= 1


def _plane(problem: Problem, index: int, found: Mapping[float, _Found], norms: Sequence[Order]) -> Plane:
    main, *others = (found[norm] for norm in sorted(found, key=lambda norm: (norm != 2, norm)))
    x, first = main.clean.to(problem.x.device), main.change.to(problem.x.device)
    one, length = first / first.norm(), float(first.norm())
    for other in others:
        across = _across(other.change.to(one), one)
        apart = across.norm() > APART * other.change.norm()
        if apart and length / COMPARABLE < across.norm() < length * COMPARABLE:  # else one of them were hardly seen
            name, places = other.name, [main, other]
            break
    else:
        generator = problem.generator(PLACE + index)
        across = _across(torch.randn(one.shape, generator=generator, dtype=one.dtype, device=one.device), one)
        name, places = "a random direction", [main]
    two = across / across.norm()
    at = [(_along(each.change, one), _along(each.change, two)) for each in places]
    extent = MARGIN * max(abs(part) for place in at for part in place)
    shown = cross_section(problem.model, x, one, two, extent=extent, grid=GRID, batch_size=problem.batch_size)
    return Plane(
        index=index,
        first=main.name,
        second=name,
        extent=extent,
        labels=shown.label.tolist(),
        regions={label: regions_of(shown.logits, label) for label in _commonest(shown.label)},
        places=[
            Place(method=each.row["method"], norm=order_key(each.row["norm"]), at=place)
            for each, place in zip(places, at, strict=True)
        ],
        sizes={order_key(norm): unit_sizes(one, two, norm) for norm in norms if _is_norm(norm)},
        outside=_share_outside(problem, x, (one, two), shown.coordinates),
    )


def _commonest(labels: Tensor) -> list[int]:
    """Classes that get a region of their own; a point without finite logits has none."""
    values, counts = labels[labels >= 0].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:CLASSES]
    return [int(each) for each in values[order]]


def _across(direction: Tensor, one: Tensor) -> Tensor:
    """The part of a direction that is orthogonal to a unit vector."""
    return direction - (direction * one).sum() * one


def _along(change: Tensor, one: Tensor) -> float:
    return float((change.to(one).double() * one.double()).sum())


def _share_outside(problem: Problem, x: Tensor, plane: tuple[Tensor, Tensor], places: Tensor) -> float:
    """Share of the points of a plane that leave the box of valid inputs, beyond rounding."""
    low, high = (
        torch.as_tensor(side * math.inf if limit is None else limit, dtype=x.dtype, device=x.device)
        for limit, side in ((problem.low, -1), (problem.high, 1))
    )
    wide = (-1, *[1] * x.ndim)
    outside = torch.zeros((), dtype=torch.int64, device=x.device)  # counted there, and read once
    for part in torch.cartesian_prod(places, places).split(problem.batch_size):
        points = x + part[:, 0].view(wide) * plane[0] + part[:, 1].view(wide) * plane[1]
        outside += ((points < low - SLACK) | (points > high + SLACK)).flatten(1).any(1).sum()
    return int(outside) / len(places) ** 2
