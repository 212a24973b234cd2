"""DeepFool: from one linearised boundary to the next until the prediction changes."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.norms import per_row
from certify.attacks.minimum_norm.driver import checked_norm, witness_of
from certify.attacks.minimum_norm.polish import polish
from certify.attacks.minimum_norm.search import Search
from certify.results import Witness

OVERSHOOT = 0.02  # how far behind a linearised boundary a step ends, as a share of the way there from the start


def deepfool(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    steps: int = 50,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The misclassified input that DeepFool finds for each row: a cheap upper bound on the distance, rarely the best.

    Each step goes to the nearest point, within the box, of the nearest boundary linearised where it stands. Unlike
    the published attack it keeps to the box, and ends with a step onto the boundary and bisections.
    For arguments, checks and result see :func:`minimal_perturbation`.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 2 or ``math.inf``.
        low: lower side of the box.
        high: upper side of the box.
        frozen_features: bool, True where x must stay.
        steps: linearisations at most, each a backward pass for every class that is looked at (nine at most).
        batch_size: inputs attacked at once.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Moosavi-Dezfooli, Fawzi, Frossard (2016), DeepFool, Algorithm 2 and Section 3.3, arXiv:1511.04599.
    """
    checks.at_least("steps", steps, 1)

    def attack(search: Search) -> None:
        cross(search, search.x, steps)
        polish(search)

    return witness_of(
        "deepfool",
        {"deepfool": attack},
        model,
        x,
        labels,
        norm=checked_norm(norm, (2, math.inf)),
        low=low,
        high=high,
        frozen_features=frozen_features,
        batch_size=batch_size,
        generator=generator,
    )


def cross(search: Search, start: Tensor, steps: int) -> Tensor:
    """Points behind the boundary that DeepFool reaches from ``start``, (N, *D); where it ends, if it does not."""
    points = start
    for _ in range(steps):
        ahead = ~search.wrong(points)  # the others are behind the boundary and stay there
        if not ahead.any():
            break
        _, margin, gradient = search.nearest_boundary(points, points)
        level = -margin.clamp(max=0)
        # The overshoot moves the plane, since entries at the edge of the box cannot move beyond it.
        covered = (gradient * (points - start)).flatten(1).sum(1).abs() + level
        step = search.onto_plane(gradient, level + OVERSHOOT * covered, points)
        points = torch.where(per_row(ahead, points), search.inside(points + step), points)
    return points
