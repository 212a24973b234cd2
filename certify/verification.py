"""Deterministic certificates of the model itself, from proved bounds."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bounds import Graph, LpBall, capture, checks, margin_bounds
from bounds.checks import Limit
from certify.models import frozen, predictions, probe
from certify.results import Certificate

# The search stops where even this share of the largest useful radius is not proved.
SMALLEST_SHARE = 1e-9


def certified_radius(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    method: str = "ibp",
    low: Limit = 0.0,
    high: Limit = 1.0,
    tolerance: float = 1e-3,
    batch_size: int = 256,
) -> Certificate:
    """Largest radius found within which the model is proved to predict the given label.

    Every returned radius was itself proved: no input of the ball and the box [low, high] gets another label.
    The proof is about the network in real arithmetic with the given weights; see :func:`bounds.ibp`
    and :func:`bounds.crown`.

    Args:
        model: as the bounding method asks; its weights are widened to float64.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: order of the norm, from 1 to ``math.inf``.
        method: bounding method, ``"ibp"``, ``"crown_ibp"`` or ``"crown"``; see :func:`bounds.margin_bounds`.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        tolerance: relative width at which the bisection stops.
        batch_size: inputs bounded at once.

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
    order = checks.norm(norm)
    box = _outer_side(low, x, torch.minimum), _outer_side(high, x, torch.maximum)
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        labels = checks.labels(labels, len(x), num_classes).to(x.device)
        predicted = predictions(model, x, batch_size) if len(x) else labels
        bounded = model if method == "ibp" or len(x) == 0 else capture(model, x.double())  # once, for all radii
        parts = [
            _largest_proved(bounded, LpBall(center.double(), 0.0, order, *box), label, method, tolerance)
            for center, label in zip(x.detach().split(batch_size), labels.split(batch_size), strict=True)
            if len(center)
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
    )


def _largest_proved(model: nn.Module | Graph, point: LpBall, labels: Tensor, method: str, tolerance: float) -> Tensor:
    """Bisection over what is proved, all inputs at once; (N,) float64."""
    reach = _reach(point)
    proved = torch.zeros_like(reach)
    failed = torch.full_like(reach, math.inf)
    guess = torch.where(reach.isfinite(), reach / 64, point.center.flatten(1).abs().amax(1) / 64 + 1e-3)
    smallest = SMALLEST_SHARE * guess
    active = torch.ones_like(reach, dtype=torch.bool)
    while active.any():
        rows = active.nonzero().squeeze(1)
        ball = LpBall(point.center[rows], guess[rows], point.norm, point.low, point.high)
        margins = margin_bounds(model, ball, labels[rows], method).scatter(1, labels[rows, None], math.inf)
        success = (margins > 0).all(1)  # False for NaN
        proved[rows] = torch.where(success, guess[rows], proved[rows])
        failed[rows] = torch.where(success, failed[rows], guess[rows])
        growing = torch.minimum(4 * proved, reach)
        shrinking = torch.where(proved > 0, (proved + failed) / 2, failed / 4)
        guess = torch.where(failed.isinf(), growing, shrinking)
        finished = (failed - proved <= tolerance * proved) | (proved >= reach) | (failed < smallest)
        between = (guess > proved) & (guess < failed)  # False where neighbouring numbers have been reached
        active = ~finished & between & guess.isfinite()
    return proved


def _outer_side(side: Limit, x: Tensor, outer: Callable[[Tensor, Tensor], Tensor]) -> Limit:
    """A side of the box in float64. Inputs are held against it in the dtype of ``x``, where it may lie farther out."""
    if side is None:
        return None
    exact = torch.as_tensor(side, dtype=torch.float64, device=x.device)
    return outer(exact, exact.to(x.dtype).double())


def _reach(point: LpBall) -> Tensor:
    """Distance from each centre to the farthest corner of the box; infinite where a side is open."""
    if point.low is None or point.high is None:
        return point.center.new_full((len(point.center),), math.inf)
    farthest = torch.maximum(point.center - point.low, point.high - point.center).flatten(1)
    distance: Tensor = torch.linalg.vector_norm(farthest, point.norm, dim=1)
    return distance
