"""A decision-based attack: only predicted classes are looked at, no logits and no gradients."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.threat import checked_norm
from certify.attacks.minimum_norm.driver import witness_of
from certify.attacks.minimum_norm.search import Search
from certify.attacks.minimum_norm.without_gradients import try_without_gradients, walk_by_classes
from certify.results import Witness


def boundary_walk(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    steps: int = 20,
    probes: int = 50,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The nearest misclassified input found for each row from predicted classes alone: an upper bound on the distance.

    Each step draws points around the best one, estimates from their classes the normal of the boundary there, and
    goes towards the point of that plane, within the box, which is nearest to x. For models without useful
    gradients; where gradients exist, attacks that use them find nearer points with fewer passes.
    For arguments, checks and result see :func:`minimal_perturbation`.

    Args:
        model: maps (N, *D) to logits (N, K); only their order counts.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 1, 2 or ``math.inf``.
        low: lower side of the box.
        high: upper side of the box.
        frozen_features: bool, True where x must stay.
        steps: estimates of the normal.
        probes: forward passes for the first estimate; the t-th takes sqrt(t) times as many.
        batch_size: inputs attacked at once.
        generator: source of starting points and probes.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Chen, Jordan, Wainwright (2020), HopSkipJumpAttack, Section III (the estimate), arXiv:1904.02144;
        Rahmati, Moosavi-Dezfooli, Frossard, Dai (2020), GeoDA, Section 3 (the step), arXiv:2003.06468.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("probes", probes, 1)

    def attack(search: Search) -> None:
        try_without_gradients(search)
        walk_by_classes(search, steps, probes)

    return witness_of(
        "boundary_walk",
        {"boundary_walk": attack},
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
