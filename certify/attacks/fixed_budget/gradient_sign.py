"""Attacks of one step, and their iterations."""

from functools import partial

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.norms import per_row
from certify.attacks.common.threat import Threat
from certify.attacks.fixed_budget.driver import run
from certify.attacks.fixed_budget.losses import cross_entropy
from certify.attacks.fixed_budget.task import Task
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
    """What withstands one step to where the linearised cross-entropy is largest within the budget and the box.

    In l_infinity this is the fast gradient sign method. Nothing is drawn: ``generator`` is there because all attacks
    are called alike. Arguments, result and errors as in
    :func:`certify.attacks.robust_accuracy`.

    References:
        Goodfellow, Shlens, Szegedy (2015), Explaining and harnessing adversarial examples, arXiv:1412.6572.
    """
    threat = Threat(norm, epsilon, low, high, frozen_features)
    return run(model, x, labels, threat=threat, attacks={"fgsm": one_step}, batch_size=batch_size, generator=generator)


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
    """What withstands a random step of half the budget and then one along the gradient: R+FGSM.

    Arguments, result and errors as in :func:`certify.attacks.robust_accuracy`.

    References:
        Tramer et al. (2018), Ensemble adversarial training, section 4.1, arXiv:1705.07204.
    """
    threat = Threat(norm, epsilon, low, high, frozen_features)
    attack = {"random_fgsm": random_and_one_step}
    return run(model, x, labels, threat=threat, attacks=attack, batch_size=batch_size, generator=generator)


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
    """What withstands ``steps`` projected gradient steps from the input itself: the basic iterative method.

    Nothing is drawn: ``generator`` is there because all attacks are called alike. Other arguments, result and errors as
    in :func:`certify.attacks.robust_accuracy`.

    References:
        Kurakin, Goodfellow, Bengio (2017), Adversarial examples in the physical world, arXiv:1607.02533.
    """
    checks.at_least("steps", steps, 1)
    threat = Threat(norm, epsilon, low, high, frozen_features)
    attack = partial(climb, steps=steps)
    attacks = {"iterative_fgsm": attack}
    return run(model, x, labels, threat=threat, attacks=attacks, batch_size=batch_size, generator=generator)


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
    """What withstands ``steps`` projected gradient steps on the cross-entropy, from ``restarts`` random starts.

    The projection is exact for the ball and the box together; in l_1 each step moves a few entries only. Other
    arguments, result and errors as in :func:`certify.attacks.robust_accuracy`.

    References:
        Madry et al. (2018), Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
        Croce, Hein (2021), Mind the box, arXiv:2103.01208, for l_1.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)

    def attack(task: Task) -> None:
        for _ in task.while_standing(range(restarts)):
            climb(task, task.random_start(), steps=steps)

    threat = Threat(norm, epsilon, low, high, frozen_features)
    return run(model, x, labels, threat=threat, attacks={"pgd": attack}, batch_size=batch_size, generator=generator)


def one_step(task: Task) -> None:
    """The attack behind :func:`fgsm`."""
    _leap(task, task.x, task.radius)


def random_and_one_step(task: Task) -> None:
    """The attack behind :func:`random_fgsm`: the random step is the steepest one of a random linear function."""
    noise = task.streams.normal(task.x)
    _leap(task, task.leap(task.x, noise, task.radius / 2), task.radius / 2)


def _leap(task: Task, points: Tensor, radius: Tensor) -> None:
    """One step from the points to where the linearised loss is largest."""
    _, gradient = task.loss_and_gradient(points, task.untargeted(cross_entropy))
    task.logits(task.leap(points, gradient, radius))


def climb(task: Task, start: Tensor | None = None, *, steps: int) -> None:
    """The attack behind :func:`iterative_fgsm` and :func:`pgd`: steps of equal length, which could cross the ball."""
    loss, points = task.untargeted(cross_entropy), task.x if start is None else start
    for step in range(1, steps + 1):
        _, gradient = task.loss_and_gradient(points, loss)
        move = task.direction(points, gradient) * per_row(task.radius * (CROSSING / steps), points)
        points = task.project(points + move)
        if step % LOOK == 0:
            points = points[task.drop_found()]
            if not len(points):
                return
    task.logits(points)
