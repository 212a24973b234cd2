"""SuperDeepFool: DeepFool, and after each crossing the straight way from x to the boundary that was met."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.streams import undrawn
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.minimum_norm.deepfool import deepfool_steps
from certify.attacks.search.driver import run
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
from certify.results import Witness

CROSSING = 20  # steps of DeepFool at most


def superdeepfool(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float = 2,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    rounds: int = 5,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The nearest misclassified input that SuperDeepFool finds for each row: an upper bound on the distance.

    DeepFool ends where it first crosses a boundary, not where that is nearest. Each round puts x onto the boundary
    linearised there, within the box, which turns the perturbation towards the normal, and starts DeepFool again.
    Checks and result are those of :func:`minimal_perturbation`.

    Args:
        model: see :func:`minimal_perturbation`.
        x: likewise.
        labels: likewise.
        norm: 2.
        low: see :func:`minimal_perturbation`.
        high: likewise.
        frozen_features: likewise.
        rounds: crossings, each followed by a projection.
        batch_size: see :func:`minimal_perturbation`.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Abdollahpour, Abroshan, Moosavi-Dezfooli (2023), Revisiting DeepFool, Algorithm 1, arXiv:2303.12481.
    """
    checks.at_least("rounds", rounds, 1)

    def attack(state: MinimumNormState) -> None:
        superdeepfool_steps(state, rounds)
        polish(state)

    threat, settings = Threat(norm, low, high, frozen_features), Settings(batch_size, undrawn(generator))
    return run("superdeepfool", {"superdeepfool": attack}, model, x, labels, threat, settings)


def superdeepfool_steps(state: MinimumNormState, rounds: int) -> None:
    """Crossings and projections in turn; the search remembers the nearest success."""
    points = state.x
    for _ in range(rounds):
        crossed = deepfool_steps(state, points, CROSSING)
        _, gradient = state.margin_and_gradient(crossed, None)
        level = (gradient * (crossed - state.x)).flatten(1).sum(1)
        points = state.inside(state.x + state.onto_plane(gradient, level, state.x))
