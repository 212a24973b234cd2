"""DeepFool: from one linearised boundary to the next until the prediction changes."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.numerics import per_row
from certify.attacks.common.streams import undrawn
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.search.driver import run
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
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
    Checks and result are those of :func:`minimal_perturbation`.

    Args:
        model: see :func:`minimal_perturbation`.
        x: likewise.
        labels: likewise.
        norm: 2 or ``math.inf``.
        low: see :func:`minimal_perturbation`.
        high: likewise.
        frozen_features: likewise.
        steps: linearisations at most, each a backward pass for every class that is looked at (nine at most).
        batch_size: see :func:`minimal_perturbation`.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Moosavi-Dezfooli, Fawzi, Frossard (2016), DeepFool, Algorithm 2 and Section 3.3, arXiv:1511.04599.
    """
    checks.at_least("steps", steps, 1)

    def attack(state: MinimumNormState) -> None:
        deepfool_steps(state, state.x, steps)
        polish(state)

    threat, settings = Threat(norm, low, high, frozen_features), Settings(batch_size, undrawn(generator))
    return run("deepfool", {"deepfool": attack}, model, x, labels, threat, settings)


def deepfool_steps(state: MinimumNormState, start: Tensor, steps: int) -> Tensor:
    """Points behind the boundary that DeepFool reaches from ``start``, (N, *D); where it ends, if it does not."""
    points = start
    for _ in range(steps):
        ahead = ~state.wrong(points)  # the others are behind the boundary and stay there
        if not ahead.any():
            break
        _, margin, gradient = state.nearest_boundary(points, points)
        level = -margin.clamp(max=0)
        # The overshoot moves the plane, since entries at the edge of the box cannot move beyond it.
        covered = (gradient * (points - start)).flatten(1).sum(1).abs() + level
        step = state.onto_plane(gradient, level + OVERSHOOT * covered, points)
        points = torch.where(per_row(ahead, points), state.inside(points + step), points)
    return points
