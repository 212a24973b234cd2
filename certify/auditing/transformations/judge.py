"""Statements about transformed images: parameters measured in fractions, images made again, ranges tried and proved."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from bounds.checks import Limit
from certify.auditing.certificates.networks import LayeredNetwork
from certify.auditing.certificates.proofs import PROOFS, UNPROVED
from certify.auditing.sets import NOT_SAMPLED, Evidence, Record, Row, SetJudge, Sides
from certify.auditing.tally import Tally
from certify.auditing.transformations.enclosing import Unenclosed, image_boxes
from certify.auditing.transformations.proving import is_proved
from certify.auditing.transformations.ranges import Range
from certify.methods import Problem
from certify.semantic.sets import TransformationSet

PARAMETERS, IMAGES = "parameters of transformations", "images of witnesses"
TRIED = "images within certified ranges"
ABOVE = Fraction(1, 10**6)  # relative, by which a distance may be above the exact one
ROUNDED = 1e-5  # of the largest pixel, by which an image that is made again may differ
GRID = {1: 201, 2: 15, 3: 7}  # points along each of so many parameters that vary
RANDOM = 100  # points besides the grid
SECONDS = 20.0  # of one proof


class TransformationJudge(SetJudge[TransformationSet]):
    """Judges what records say about a range of a transformation, see :class:`SetJudge`."""

    def judge_example(
        self, tally: Tally, record: Record, row: Row, pair: tuple[Tensor, Tensor], sides: Sides | None
    ) -> None:
        """Judge parameters, and make the image of them again."""
        judge_image(tally, record, row, self.over, pair, sides)

    def judge_certificate(self, tally: Tally, record: Record, row: Row, asked: Evidence, *, sampled: bool) -> None:
        """Try images within the certified range, and prove the range of those that are sampled."""
        if not try_range(tally, record, row, self.over, asked.problem, asked.leads, asked.seed):
            return
        why = why_unproved(self.over, row, asked) if sampled else NOT_SAMPLED
        if why:
            tally.leave(PROOFS, why, record["unit"], row["index"])
        else:
            tally.confirm(f"{PROOFS} by intervals")


def judge_parameters(tally: Tally, record: Mapping[str, Any], row: Row, over: TransformationSet) -> bool:
    """Whether the parameters of a wrong image lie within the range, at the stated distance or beyond the radius."""
    unit, index, values = record["unit"], row["index"], row.get("parameters") or []
    parts = over.transformation.parameters
    inside = len(values) == len(parts) and all(
        part.low - 1e-9 * part.reach <= value <= part.high + 1e-9 * part.reach
        for part, value in zip(parts, values, strict=True)
    )
    if not inside:
        tally.refute(PARAMETERS, f"its parameters {values} are not within the range", unit, index)
        return False
    shares = [
        abs(Fraction(value) - Fraction(part.identity)) / Fraction(part.reach)
        for part, value in zip(parts, values, strict=True)
    ]
    exact = max(shares) * Fraction(over.reach)
    if record["kind"] == "witness":
        stated = row["attack_distance"]
        fine = exact <= stated <= exact * (1 + ABOVE) and row.get("distances") == {record["norm"]: stated}
        reason = f"its distance {stated!r} is not {float(exact)!r}, that of its parameters"
    else:
        fine = row["certified_radius"] <= exact
        reason = f"it certifies {row['certified_radius']!r}, but states a wrong image at {float(exact)!r}"
    tally.judge(PARAMETERS, fine, reason, unit, index)
    return True


def judge_image(
    tally: Tally,
    record: Mapping[str, Any],
    row: Row,
    over: TransformationSet,
    pair: tuple[Tensor, Tensor],
    sides: Sides | None,
) -> None:
    """Judge whether an adversarial image is that of its parameters, up to the noise on top.

    Args:
        tally: verdicts.
        record: of the unit.
        row: of the input.
        over: the set.
        pair: the clean input and the adversarial image, (*D) each.
        sides: of the range of pixels; None where they are not at hand.
    """
    if not judge_parameters(tally, record, row, over):
        return
    near: bool | None = None
    x, point = pair
    if sides is not None:
        made = _images(over, x, torch.tensor([row["parameters"]], dtype=torch.float64), *sides)[0]
        rounded = max(ROUNDED, torch.finfo(point.dtype).eps) * made.abs().max().double().clamp(min=1)
        near = bool(((made.double() - point.double()).abs() <= over.epsilon + rounded).all())
    tally.judge(IMAGES, near, "its example is not the image of its parameters", record["unit"], row["index"])


def try_range(
    tally: Tally,
    record: Mapping[str, Any],
    row: Row,
    over: TransformationSet,
    problem: Problem,
    leads: Callable[[Tensor, int], list[float]],
    seed: int,
) -> bool:
    """Look for an image of another class within a certified range: on a grid, at random, and the one it names.

    Args:
        tally: verdicts.
        record: of the unit.
        row: of a certificate with a radius above 0.
        over: the set.
        problem: the model and all inputs.
        leads: the lead of a label for one input, in two precisions.
        seed: of random points.

    Returns:
        Whether nothing speaks against it.
    """
    unit, index, radius, label = record["unit"], row["index"], row["certified_radius"], row["prediction"]
    reach = over.reach
    if radius > reach:  # which is refuted without the model
        return False
    if row.get("parameters") is not None:
        judge_parameters(tally, record, row, over)
    x = problem.x[index - problem.first_index]
    source = torch.Generator().manual_seed(seed + index)
    points = _within(over, min(1.0, radius / reach), source)
    if not len(points):  # of a range without the identity
        tally.refute(TRIED, f"it certifies {radius!r}, but no image of the range is as near", unit, index)
        return False
    made = _images(over, x, points, problem.low, problem.high)
    if over.epsilon:
        signs = torch.randint(0, 2, made.shape, generator=source).to(made) * 2 - 1
        noisy = made + over.epsilon * (1 - 1e-6) * signs.to(made.device)
        beyond = (noisy.double() - made.double()).abs() > over.epsilon  # by rounding, in half precision
        made = torch.where(beyond, torch.nextafter(noisy, made), noisy)
        sides = [None if side is None else torch.as_tensor(side).to(made) for side in (problem.low, problem.high)]
        made = made if sides[0] is sides[1] is None else made.clamp(*sides)
    wrong = _classes(problem.model, made, problem.batch_size) != label
    for place in wrong.nonzero()[:, 0].tolist():
        if all(lead < 0 for lead in leads(made[place], label)):
            at = [float(f"{value:.6g}") for value in points[place].tolist()]
            tally.refute(TRIED, f"it certifies {radius!r}, but the image at {at} has another class", unit, index)
            return False
    if bool(wrong.any()):
        tally.leave(TRIED, "the class of an image turns by rounding", unit, index)
    else:
        tally.confirm(TRIED)
    return not bool(wrong.any())


def why_unproved(over: TransformationSet, row: Row, asked: Evidence) -> str:
    """Why the audit has no proof of a range by itself; empty where it has one."""
    network, problem = asked.reprover.network, asked.problem
    if not isinstance(network, LayeredNetwork):
        return f"no proof of the audit's own: {network}"
    x = problem.x[row["index"] - problem.first_index].cpu()
    layout = over.transformation.layout(x[None], channels_last=over.channels_last)
    low, high = (_on_host(layout.side(side)) for side in (problem.low, problem.high))
    image, digits = layout.to_images(x[None].double())[0], torch.finfo(x.dtype)

    def boxes(ends: Range) -> tuple[Range, Tensor]:
        found, hold = image_boxes(over.transformation, image, ends, low, high)
        found = found.wider(digits.tiny, digits.eps)  # of images that are rounded
        if over.epsilon:
            noisy = Range(found.low - over.epsilon, found.high + over.epsilon).wider(0.0)
            found = noisy.clipped(low, high)
        return Range(*(layout.back(end).flatten(1) for end in found)), hold

    ends = torch.tensor(_ends(over, min(1.0, row["certified_radius"] / over.reach)), dtype=torch.float64)
    try:
        proved = is_proved(network, boxes, Range(*ends.T[:, None]), row["prediction"], SECONDS)
    except Unenclosed as error:
        return str(error)
    return "" if proved else UNPROVED


def _ends(over: TransformationSet, share: float) -> list[tuple[float, float]]:
    """Ends of all parameters whose distance from the identity is at most a share of the range."""
    return [
        (max(part.low, part.identity - share * part.reach), min(part.high, part.identity + share * part.reach))
        if share < 1
        else (part.low, part.high)  # all of the range, whatever rounding says
        for part in over.transformation.parameters
    ]


def _within(over: TransformationSet, share: float, source: torch.Generator) -> Tensor:
    """Parameters (B, k) of the range whose distance from the identity is at most a share of it; maybe none."""
    ends = _ends(over, share)
    varying = [low < high for low, high in ends]
    steps = torch.linspace(0, 1, GRID[max(1, sum(varying))], dtype=torch.float64).tolist()
    grid = torch.tensor(list(product(*(steps if varies else [0.0] for varies in varying))), dtype=torch.float64)
    drawn = torch.rand(RANDOM, len(ends), generator=source, dtype=torch.float64)
    least, most = torch.tensor(ends, dtype=torch.float64).unbind(1)
    points = least + (most - least) * torch.cat([grid, drawn])
    return points[: len(points) if bool((least <= most).all()) else 0]


def _on_host(side: Limit) -> Tensor | None:
    return None if side is None else torch.as_tensor(side).double().cpu()


def _images(over: TransformationSet, x: Tensor, values: Tensor, low: Limit, high: Limit) -> Tensor:
    """The images (B, *D) of one input (*D) under parameters (B, k)."""
    inputs = x.expand(len(values), *x.shape)
    return over.transformation.apply(inputs, values, low=low, high=high, channels_last=over.channels_last)


def _classes(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in images.split(batch_size)]).cpu()
