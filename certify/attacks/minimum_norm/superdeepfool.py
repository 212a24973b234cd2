"""SuperDeepFool: DeepFool, and after each crossing the straight way from x to the boundary that was met."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.minimum_norm.deepfool import cross
from certify.attacks.minimum_norm.driver import checked_norm, witness_of
from certify.attacks.minimum_norm.polish import polish
from certify.attacks.minimum_norm.search import Search
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
    For arguments, checks and result see :func:`minimal_perturbation`.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 2.
        low: lower side of the box.
        high: upper side of the box.
        frozen_features: bool, True where x must stay.
        rounds: crossings, each followed by a projection.
        batch_size: inputs attacked at once.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Abdollahpour, Abroshan, Moosavi-Dezfooli (2023), Revisiting DeepFool, Algorithm 1, arXiv:2303.12481.
    """
    checks.at_least("rounds", rounds, 1)

    def attack(search: Search) -> None:
        turn(search, rounds)
        polish(search)

    return witness_of(
        "superdeepfool",
        {"superdeepfool": attack},
        model,
        x,
        labels,
        norm=checked_norm(norm, (2,)),
        low=low,
        high=high,
        frozen_features=frozen_features,
        batch_size=batch_size,
        generator=generator,
    )


def turn(search: Search, rounds: int) -> None:
    """Crossings and projections in turn; the search remembers the nearest success."""
    points = search.x
    for _ in range(rounds):
        crossed = cross(search, points, CROSSING)
        _, gradient = search.margin_and_gradient(crossed, None)
        level = (gradient * (crossed - search.x)).flatten(1).sum(1)
        points = search.inside(search.x + search.onto_plane(gradient, level, search.x))
