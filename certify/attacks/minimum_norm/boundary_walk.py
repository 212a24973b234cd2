"""A decision-based attack: only predicted classes are looked at, no logits and no gradients."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.search.driver import run
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.without_gradients import boundary_walk_steps, try_without_gradients
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
    Checks and result are those of :func:`minimal_perturbation`.

    Args:
        model: see :func:`minimal_perturbation`; only the order of its logits counts.
        x: likewise.
        labels: likewise.
        norm: 1, 2 or ``math.inf``.
        low: see :func:`minimal_perturbation`.
        high: likewise.
        frozen_features: likewise.
        steps: estimates of the normal.
        probes: forward passes for the first estimate; the t-th takes sqrt(t) times as many.
        batch_size: see :func:`minimal_perturbation`.
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

    def attack(state: MinimumNormState) -> None:
        try_without_gradients(state)
        boundary_walk_steps(state, steps, probes)

    threat, settings = Threat(norm, low, high, frozen_features), Settings(batch_size, generator)
    return run("boundary_walk", {"boundary_walk": attack}, model, x, labels, threat, settings)
