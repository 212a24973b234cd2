"""SparseFool: few entries, each moved as far as it goes, onto the boundary that DeepFool met."""

import dataclasses

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.numerics import per_row
from bounds.sets.norms import onto_hyperplane
from certify.attacks.common.streams import undrawn
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.minimum_norm.deepfool import deepfool_steps
from certify.attacks.search.driver import run
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
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
    Checks and result are those of :func:`minimal_perturbation`.

    Args:
        model: see :func:`minimal_perturbation`.
        x: likewise.
        labels: likewise.
        norm: 0 or 1.
        low: see :func:`minimal_perturbation`.
        high: likewise.
        frozen_features: likewise.
        steps: crossings at most.
        batch_size: see :func:`minimal_perturbation`.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Modas, Moosavi-Dezfooli, Frossard (2019), SparseFool, Algorithms 1 and 2, arXiv:1811.02248.
    """
    checks.at_least("steps", steps, 1)

    def attack(state: MinimumNormState) -> None:
        sparsefool_steps(state, steps)
        polish(state)

    threat, settings = Threat(norm, low, high, frozen_features), Settings(batch_size, undrawn(generator))
    return run("sparsefool", {"sparsefool": attack}, model, x, labels, threat, settings)


def sparsefool_steps(state: MinimumNormState, steps: int) -> None:
    """Steps along the fewest entries, from x until the prediction changes; the search remembers the success."""
    points = state.x
    for _ in range(steps):
        wrong = state.wrong(points)
        if wrong.all():
            break
        in_l2 = dataclasses.replace(state, norm=2.0)
        crossed = deepfool_steps(in_l2, points, CROSSING)
        state.forward, state.backward = in_l2.forward, in_l2.backward
        _, gradient = state.margin_and_gradient(crossed, None)
        level = BEYOND * (gradient * (crossed - points)).flatten(1).sum(1)
        step = onto_hyperplane(gradient, level, state.high - points, points - state.low, 1)
        points = torch.where(per_row(wrong, points), points, state.inside(points + step))
