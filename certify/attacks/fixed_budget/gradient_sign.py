"""Attacks of one step, and their iterations."""

from functools import partial

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.numerics import per_row
from certify.attacks.common.streams import undrawn
from certify.attacks.common.threat import BoundedThreat, Settings
from certify.attacks.fixed_budget.driver import run
from certify.attacks.fixed_budget.losses import cross_entropy
from certify.attacks.fixed_budget.state import FixedBudgetState
from certify.results import AttackedAccuracy

CROSSING = 2.5  # length of all steps together, in units of epsilon
LOOK = 10  # steps after which the rows that fell are left out


def fgsm(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under one step to where the linearised cross-entropy is largest within the budget and the box.

    In l_infinity this is the fast gradient sign method. Nothing is drawn: ``generator`` is there because all attacks
    are called alike. Arguments, result and errors as in
    :func:`certify.attacks.robust_accuracy`.

    References:
        Goodfellow, Shlens, Szegedy (2015), Explaining and harnessing adversarial examples, arXiv:1412.6572.
    """
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    return run("fgsm", {"fgsm": one_step}, model, x, labels, threat, Settings(batch_size, undrawn(generator)))


def random_fgsm(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under a random step of half the budget and then one along the gradient: R+FGSM.

    Arguments, result and errors as in :func:`certify.attacks.robust_accuracy`.

    References:
        Tramer et al. (2018), Ensemble adversarial training, section 4.1, arXiv:1705.07204.
    """
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    attack = {"random_fgsm": random_and_one_step}
    return run("random_fgsm", attack, model, x, labels, threat, Settings(batch_size, generator))


def iterative_fgsm(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    steps: int = 20,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under ``steps`` projected gradient steps from the input itself: the basic iterative method.

    Nothing is drawn: ``generator`` is there because all attacks are called alike. Other arguments, result and errors as
    in :func:`certify.attacks.robust_accuracy`.

    References:
        Kurakin, Goodfellow, Bengio (2017), Adversarial examples in the physical world, arXiv:1607.02533.
    """
    checks.at_least("steps", steps, 1)
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    attack = {"iterative_fgsm": partial(pgd_steps, steps=steps)}
    return run("iterative_fgsm", attack, model, x, labels, threat, Settings(batch_size, undrawn(generator)))


def pgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    steps: int = 40,
    restarts: int = 1,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under ``steps`` projected gradient steps on the cross-entropy, from ``restarts`` random starts.

    The projection is exact for the ball and the box together; in l_1 each step moves a few entries only. Other
    arguments, result and errors as in :func:`certify.attacks.robust_accuracy`.

    References:
        Madry et al. (2018), Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
        Croce, Hein (2021), Mind the box, arXiv:2103.01208, for l_1.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)

    def attack(state: FixedBudgetState) -> None:
        for _ in state.while_standing(range(restarts)):
            pgd_steps(state, state.random_start(), steps=steps)

    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    return run("pgd", {"pgd": attack}, model, x, labels, threat, Settings(batch_size, generator))


def one_step(state: FixedBudgetState) -> None:
    """The attack behind :func:`fgsm`."""
    _leap(state, state.x, state.radius)


def random_and_one_step(state: FixedBudgetState) -> None:
    """The attack behind :func:`random_fgsm`: the random step is the steepest one of a random linear function."""
    noise = state.streams.normal(state.x)
    _leap(state, state.leap(state.x, noise, state.radius / 2), state.radius / 2)


def _leap(state: FixedBudgetState, points: Tensor, radius: Tensor) -> None:
    """One step from the points to where the linearised loss is largest."""
    _, gradient = state.loss_and_gradient(points, state.untargeted(cross_entropy))
    state.logits(state.leap(points, gradient, radius))


def pgd_steps(state: FixedBudgetState, start: Tensor | None = None, *, steps: int) -> None:
    """The attack behind :func:`iterative_fgsm` and :func:`pgd`: steps of equal length, which could cross the ball."""
    loss, points = state.untargeted(cross_entropy), state.x if start is None else start
    for step in range(1, steps + 1):
        _, gradient = state.loss_and_gradient(points, loss)
        move = state.direction(points, gradient) * per_row(state.radius * (CROSSING / steps), points)
        points = state.project(points + move)
        if step % LOOK == 0:
            points = points[state.drop_found()]
            if not len(points):
                return
    state.logits(points)
