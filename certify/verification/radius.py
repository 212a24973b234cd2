"""Deterministic certificates of the model itself, from proved bounds: how far, and whether up to a given radius."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from bounds import DEFAULT_RULES, Graph, LpBall, SparseBall, capture, checks, margin_bounds
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.linear.intervals import layers_in_turn
from bounds.memory import MEMORY
from bounds.sets.balls import PerturbationSet
from certify.models import frozen, predictions, probe
from certify.results import Certificate

# The search stops where even this share of the largest useful radius is not proved.
SMALLEST_SHARE = 1e-9


@isolated
def certified_radius(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    method: str = "crown",
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    tolerance: float = 1e-3,
    sound: str = "rounding",
    batch_size: int = 256,
    memory: int = MEMORY,
) -> Certificate:
    """Largest radius found within which the model is proved to predict the given label.

    Every returned radius was itself proved: no input of the ball and the box [low, high] gets another label. See
    :func:`bounds.ibp` and :func:`bounds.crown` for what the proof is about and rests on.

    The search is a bisection of all inputs at once, over what is proved; it starts where the bounds, continued as a
    straight line, would reach 0.

    Args:
        model: any network that the bounding method follows; its weights are widened to float64.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for the number of changed entries.
        method: bounding method, ``"ibp"``, ``"crown_ibp"``, ``"fast_lin"``, ``"crown"`` or ``"alpha_crown"``; see
            :func:`bounds.margin_bounds`.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where no perturbation may change it.
        tolerance: relative width at which the bisection stops.
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        batch_size: inputs bounded at once.
        memory: bytes that the coefficients of linear bounds may take.

    Returns:
        A certificate. The radius is 0 where the model is wrong or nothing is proved, and at most the distance
        to the farthest corner of the box.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the method knows no rule for a layer.
    """
    checks.inputs(x, low, high)
    checks.positive("tolerance", tolerance)
    batch_size = checks.at_least("batch_size", batch_size, 1)
    order = norm_of_set(norm, low, high)
    checks.frozen_features(frozen_features, x)
    limits = (*outer_box(x, low, high), frozen_features)
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        labels = checks.labels(labels, len(x), num_classes).to(x.device)
        predicted = predictions(model, x, batch_size) if len(x) else labels
        bounded = bounded_form(model, x, method, order, sound)  # captured once, for all radii

        def margins(points: Tensor, radius: Tensor, label: Tensor) -> Tensor:
            """The least proved margin of each row."""
            found = margin_bounds(
                bounded, perturbations(points, radius, order, limits), label, method, sound=sound, memory=memory
            )
            return least_margin(found, label)

        search = _most_changes if order == 0 else _largest_proved
        parts = [
            search(margins, LpBall(points.double(), 0.0, math.inf if order == 0 else order, *limits), label, tolerance)
            for points, label in zip(x.detach().split(batch_size), labels.split(batch_size), strict=True)
            if len(points)
        ]
    radius = torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64)
    right = predicted == labels  # never where a logit overflows, of which the proof, in real arithmetic, knows nothing
    return Certificate(
        label=predicted,
        radius=torch.where(right, radius, 0.0),
        abstained=torch.zeros_like(predicted, dtype=torch.bool),
        norm=order,
        alpha=0.0,
        subject="base",
        method=method,
        sound=sound,
    )


Margins = Callable[[Tensor, Tensor, Tensor], Tensor]  # of points, radii and labels, the least proved margins


def _largest_proved(margins: Margins, point: LpBall, labels: Tensor, tolerance: float) -> Tensor:
    """Bisection over what is proved, all inputs at once; (N,) float64."""
    reach = _reach(point)
    proved, failed = torch.zeros_like(reach), torch.full_like(reach, math.inf)
    above = margins(point.center, proved, labels)  # the margin at what is proved; at what has failed:
    below = torch.full_like(reach, -math.inf)
    guess = torch.where(reach.isfinite(), reach / 64, point.center.flatten(1).abs().amax(1) / 64 + 1e-3)
    smallest = SMALLEST_SHARE * guess
    active = above > 0
    step = 0
    while active.any():
        rows = active.nonzero().squeeze(1)
        found = margins(point.center[rows], guess[rows], labels[rows])
        success = found > 0  # False for NaN
        # Before anything has failed, bounds as a straight line through this point and the last one.
        ahead = guess[rows] + found * (guess[rows] - proved[rows]) / (above[rows] - found)
        proved[rows] = torch.where(success, guess[rows], proved[rows])
        above[rows] = torch.where(success, found, above[rows])
        failed[rows] = torch.where(success, failed[rows], guess[rows])
        below[rows] = torch.where(success, below[rows], found)
        line = torch.full_like(reach, math.nan)
        line[rows] = ahead
        guess = _next_guess(proved, failed, line, (above, below), reach, halve=step % 2 == 1)
        finished = (failed - proved <= tolerance * proved) | (proved >= reach) | (failed < smallest)
        between = (guess > proved) & (guess < failed)  # False where neighbouring numbers have been reached
        active &= ~finished & between & guess.isfinite()
        step += 1
    return proved


def _next_guess(
    proved: Tensor, failed: Tensor, line: Tensor, margins: tuple[Tensor, Tensor], reach: Tensor, *, halve: bool
) -> Tensor:
    """Where a straight line would reach 0, kept well between what is proved and what has failed; or their middle."""
    above, below = margins
    growing = torch.minimum(torch.fmin(line * 1.05, 4 * proved).clamp(min=1.2 * proved), reach)
    width = failed - proved
    share = (above / (above - below)).nan_to_num(0.5).clamp(0.05, 0.95)
    between = proved + width * (0.5 if halve else share)
    shrinking = torch.where(proved > 0, between, torch.fmax(failed / 8, torch.fmin(line, failed / 2)))
    return torch.where(failed.isinf(), growing, shrinking)


def _most_changes(margins: Margins, point: LpBall, labels: Tensor, tolerance: float) -> Tensor:
    """The largest number of changed entries that is proved, one more at a time; (N,) float64."""
    proved = point.center.new_zeros(len(point.center))
    entries = point.center[0].numel()
    active = margins(point.center, proved, labels) > 0
    for changes in range(1, entries + 1):
        rows = active.nonzero().squeeze(1)
        if len(rows) == 0:
            break
        success = margins(point.center[rows], torch.full_like(proved[rows], changes), labels[rows]) > 0
        proved[rows] = torch.where(success, float(changes), proved[rows])
        active[rows] = success
    return proved


# ------------------------------------------------------------------------------------------------------- for verdicts


def norm_of_set(norm: float, low: Limit, high: Limit) -> float:
    """The order of a norm, or 0 for the number of changed entries, which needs a box."""
    if norm == 0:
        if low is None or high is None:
            raise InvalidInput("low and high must be given with norm=0: a changed entry may go anywhere between them")
        return 0.0
    return checks.norm(norm)


def perturbations(
    center: Tensor, radius: Tensor, order: float, limits: tuple[Limit, Limit, Tensor | None]
) -> PerturbationSet:
    """The perturbed inputs of each row, in float64; radii (N,), of which norm 0 takes one for all.

    The limits are the sides of the box and the frozen features.
    """
    if order == 0:
        return SparseBall(center.double(), int(radius.max()) if len(radius) else 0, *limits)
    return LpBall(center.double(), radius, order, *limits)


def bounded_form(model: nn.Module, x: Tensor, method: str, order: float, sound: str) -> nn.Module | Graph:
    """The model as the bounding method wants it: captured, unless intervals of its layers are enough."""
    if len(x) == 0:
        return model
    if method == "ibp" and order >= 2:
        point = LpBall(x[:1].double(), 0.0, order, None, None)
        if layers_in_turn(model, point, DEFAULT_RULES, sound) is not None:
            return model
    return capture(model, x.double())


def least_margin(margins: Tensor, labels: Tensor) -> Tensor:
    """The least of the margins (N, K) to the other classes, (N,); not above 0 where one is NaN."""
    others = margins.scatter(1, labels[:, None], math.inf)
    return others.amin(1)


def outer_box(x: Tensor, low: Limit, high: Limit) -> tuple[Limit, Limit]:
    """The box in float64. Inputs are held against it in the dtype of ``x``, where it may lie farther out."""
    return _outer_side(low, x, torch.minimum), _outer_side(high, x, torch.maximum)


def _outer_side(side: Limit, x: Tensor, outer: Callable[[Tensor, Tensor], Tensor]) -> Limit:
    if side is None:
        return None
    exact = torch.as_tensor(side, dtype=torch.float64, device=x.device)
    return outer(exact, exact.to(x.dtype).double())


def _reach(point: LpBall) -> Tensor:
    """Distance from each centre to the farthest corner of the box; infinite where a side is open."""
    box = replace(point, radius=math.inf).hull()
    farthest = torch.maximum(point.center - box.lower, box.upper - point.center).flatten(1)
    distance: Tensor = torch.linalg.vector_norm(farthest, point.norm, dim=1)
    return distance
