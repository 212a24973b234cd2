"""A decision-based attack: only predicted classes are looked at, no logits and no gradients."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.norms import length, per_row
from certify.attacks.common.threat import checked_norm
from certify.attacks.minimum_norm.default_search import try_without_gradients
from certify.attacks.minimum_norm.driver import witness_of
from certify.attacks.minimum_norm.polish import bisect
from certify.attacks.minimum_norm.search import Search
from certify.results import Witness

PROBE = (0.3, 0.03)  # how far probes lie from the boundary, in units of the distance, at the first and the last step
SHARES = (1.0, 0.5, 0.25, 0.1)  # lengths of the steps tried, in units of the distance
BISECTIONS = 12


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
        for step in range(1, steps + 1):
            size = PROBE[0] * (PROBE[1] / PROBE[0]) ** (step / steps)
            _approach(search, _normal(search, size, round(probes * math.sqrt(step))))
        bisect(search, search.x, steps=2 * BISECTIONS)

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


def _normal(search: Search, size: float, probes: int) -> Tensor:
    """Mean of random directions, weighted by whether the class is wrong there, (N, *D).

    The weights are centred: a point that lies on one side of the boundary would otherwise add noise.
    """
    centre = search.best
    free = (search.high > search.low).to(centre.dtype)
    scale = size * length(centre - search.x, 2) / free.flatten(1).sum(1).clamp(min=1).sqrt()
    total, weighted, wrong = torch.zeros_like(centre), torch.zeros_like(centre), torch.zeros_like(search.distance)
    for _ in range(probes):
        noise = free * torch.empty_like(centre).normal_(generator=search.generator)
        # In the box the two sides of an entry are not equally far: what counts is where the probe ended.
        probed = search.inside(centre + per_row(scale, centre) * noise)
        moved = probed - centre
        hit = search.wrong(probed).to(centre.dtype)
        total, wrong = total + moved, wrong + hit
        weighted = weighted + per_row(hit, centre) * moved
    return (weighted - per_row(wrong / probes, total) * total).nan_to_num(0.0, 0.0, 0.0)


def _approach(search: Search, normal: Tensor) -> None:
    """Step from the best points into the wrong region, then walk home to x; the search remembers what it meets."""
    start = search.best
    level = (normal * (start - search.x)).flatten(1).sum(1)
    direction = search.onto_plane(normal, level.abs(), search.x)
    size = length(direction, search.norm).clamp(min=torch.finfo(direction.dtype).tiny)
    step = direction * per_row(length(start - search.x, search.norm) / size, direction)
    for share in SHARES:
        bisect(search, search.x, steps=BISECTIONS, far=search.inside(start + share * step))
