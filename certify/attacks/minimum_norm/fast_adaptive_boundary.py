"""Fast adaptive boundary attack: walk along the boundary on its linearisations, always leaning towards x."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.norms import length, per_row
from certify.attacks.minimum_norm.driver import checked_norm, witness_of
from certify.attacks.minimum_norm.polish import polish
from certify.attacks.minimum_norm.search import Search
from certify.results import Witness

LEAN = 0.1  # most weight of the projection of x, beside that of the current point (alpha_max)
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
    For arguments, checks and result see :func:`minimal_perturbation`.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 1, 2 or ``math.inf``.
        low: lower side of the box.
        high: upper side of the box.
        frozen_features: bool, True where x must stay.
        steps: projections of each restart, two forward passes and a backward pass each.
        restarts: searches per input.
        batch_size: inputs attacked at once.
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

    def attack(search: Search) -> None:
        walk_with_restarts(search, steps, restarts)
        polish(search)

    return witness_of(
        "fast_adaptive_boundary",
        {"fast_adaptive_boundary": attack},
        model,
        x,
        labels,
        norm=checked_norm(norm, (1, 2, math.inf)),
        low=low,
        high=high,
        frozen_features=frozen_features,
        batch_size=batch_size,
        generator=generator,
    )


def walk_with_restarts(search: Search, steps: int, restarts: int) -> None:
    """Walks towards the runner-up, then towards the nearest classes that none has aimed at."""
    tried = nn.functional.one_hot(search.labels, search.num_classes).bool()
    _walk(search, None, search.x, steps)
    for _ in range(restarts - 1):
        tried = tried.scatter(1, search.reached[:, None], True)
        target, _, _ = search.nearest_boundary(search.best, search.x, tried)
        tried = tried.scatter(1, target[:, None], True)
        _walk(search, target, search.random_start(), steps)


def _walk(search: Search, target: Tensor | None, points: Tensor, steps: int) -> None:
    for _ in range(steps):
        margin, gradient = search.margin_and_gradient(points, target)
        offset = (gradient * (points - search.x)).flatten(1).sum(1)
        near = search.onto_plane(gradient, -margin, points)
        far = search.onto_plane(gradient, offset - margin, search.x)
        sizes = length(near, search.norm), length(far, search.norm)
        weight = per_row((sizes[0] / (sizes[0] + sizes[1])).nan_to_num(0.0).clamp(max=LEAN), points)
        points = (1 - weight) * (points + BEYOND * near) + weight * (search.x + BEYOND * far)
        points = search.inside(points)
        back = search.inside(search.x + BACK * (points - search.x))
        points = torch.where(per_row(search.wrong(points), points), back, points)
