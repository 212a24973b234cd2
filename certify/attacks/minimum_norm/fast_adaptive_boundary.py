"""Fast adaptive boundary attack: walk along the boundary on its linearisations, always leaning towards x."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.search.driver import run
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
from certify.results import Witness

LEAN = 0.1  # most weight of the projection of x, next to that of the current point (alpha_max)
BEYOND = 1.05  # length of a step in units of the distance to the plane (eta)
BACK = 0.9  # share of the perturbation that is kept after a success (beta)


def fast_adaptive_boundary(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    steps: int = 100,
    restarts: int = 3,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The nearest misclassified input that the attack finds for each row: an upper bound on the distance.

    Each step projects the current point and x onto the boundary linearised at the current point, within the box and
    in the norm of the attack, and goes beyond a mean of the two. The first restart follows the runner-up class, each
    later one the nearest class that none has aimed at, from a random point (the targeted version of the attack).
    Checks and result are those of :func:`minimal_perturbation`.

    Args:
        model: see :func:`minimal_perturbation`.
        x: likewise.
        labels: likewise.
        norm: 1, 2 or ``math.inf``.
        low: see :func:`minimal_perturbation`.
        high: likewise.
        frozen_features: likewise.
        steps: projections of each restart, two forward passes and a backward pass each.
        restarts: searches per input.
        batch_size: see :func:`minimal_perturbation`.
        generator: source of random starts.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Croce, Hein (2020), Minimally distorted adversarial examples with a fast adaptive boundary attack, Algorithm 1,
        arXiv:1907.02044.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)

    def attack(state: MinimumNormState) -> None:
        fast_adaptive_boundary_steps(state, steps, restarts)
        polish(state)

    threat, settings = Threat(norm, low, high, frozen_features), Settings(batch_size, generator)
    return run("fast_adaptive_boundary", {"fast_adaptive_boundary": attack}, model, x, labels, threat, settings)


def fast_adaptive_boundary_steps(state: MinimumNormState, steps: int, restarts: int) -> None:
    """Walks towards the runner-up, then towards the nearest classes that none has aimed at."""
    tried = nn.functional.one_hot(state.labels, state.num_classes).bool()
    _walk(state, None, state.x, steps)
    for _ in range(restarts - 1):
        tried = tried.scatter(1, state.reached[:, None], True)
        target, _, _ = state.nearest_boundary(state.best, state.x, tried)
        tried = tried.scatter(1, target[:, None], True)
        _walk(state, target, state.random_start(), steps)


def _walk(state: MinimumNormState, target: Tensor | None, points: Tensor, steps: int) -> None:
    for _ in range(steps):
        margin, gradient = state.margin_and_gradient(points, target)
        offset = (gradient * (points - state.x)).flatten(1).sum(1)
        near = state.onto_plane(gradient, -margin, points)
        far = state.onto_plane(gradient, offset - margin, state.x)
        sizes = length(near, state.norm), length(far, state.norm)
        weight = per_row((sizes[0] / (sizes[0] + sizes[1])).nan_to_num(0.0).clamp(max=LEAN), points)
        points = (1 - weight) * (points + BEYOND * near) + weight * (state.x + BEYOND * far)
        points = state.inside(points)
        back = state.inside(state.x + BACK * (points - state.x))
        points = torch.where(per_row(state.wrong(points), points), back, points)
