"""SparseFool: few entries, each moved as far as it goes, onto the boundary that DeepFool met."""

import dataclasses

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.norms import onto_hyperplane, per_row
from certify.attacks.minimum_norm.deepfool import cross
from certify.attacks.minimum_norm.driver import checked_norm, witness_of
from certify.attacks.minimum_norm.polish import polish
from certify.attacks.minimum_norm.search import Search
from certify.results import Witness

BEYOND = 3.0  # the plane lies that far behind the boundary, in units of the step of DeepFool (lambda)
CROSSING = 10  # steps of DeepFool at most


def sparsefool(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    steps: int = 20,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The misclassified input with few changed entries that SparseFool finds for each row: a cheap upper bound.

    Each step lets DeepFool cross the boundary in l_2, takes the normal there, and moves the entries with the largest
    slopes to their sides of the box until the plane is met. In l_0, changes that are not needed are taken back.
    For arguments, checks and result see :func:`minimal_perturbation`.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 0 or 1.
        low: lower side of the box.
        high: upper side of the box.
        frozen_features: bool, True where x must stay.
        steps: crossings at most.
        batch_size: inputs attacked at once.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Modas, Moosavi-Dezfooli, Frossard (2019), SparseFool, Algorithms 1 and 2, arXiv:1811.02248.
    """
    checks.at_least("steps", steps, 1)

    def attack(search: Search) -> None:
        fill(search, steps)
        polish(search)

    return witness_of(
        "sparsefool",
        {"sparsefool": attack},
        model,
        x,
        labels,
        norm=checked_norm(norm, (0, 1)),
        low=low,
        high=high,
        frozen_features=frozen_features,
        batch_size=batch_size,
        generator=generator,
    )


def fill(search: Search, steps: int) -> None:
    """Steps along the fewest entries, from x until the prediction changes; the search remembers the success."""
    points = search.x
    for _ in range(steps):
        wrong = search.wrong(points)
        if wrong.all():
            break
        in_l2 = dataclasses.replace(search, norm=2.0)
        crossed = cross(in_l2, points, CROSSING)
        search.forward, search.backward = in_l2.forward, in_l2.backward
        _, gradient = search.margin_and_gradient(crossed, None)
        level = BEYOND * (gradient * (crossed - points)).flatten(1).sum(1)
        step = onto_hyperplane(gradient, level, search.high - points, points - search.low, 1)
        points = torch.where(per_row(wrong, points), points, search.inside(points + step))
