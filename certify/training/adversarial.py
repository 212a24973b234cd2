r"""Adversarial training: the loss at inputs that an attack found, and TRADES.

Each loss takes a batch of balls and returns a scalar to call ``.backward()`` on. Write :math:`\ell(x, y)` for the
cross-entropy of the model, and :math:`B(x)` for the ball around x within the box. An attack looks at the model in
evaluation mode, so that statistics of a batch of attacked inputs stay out of the running ones; the loss that is
returned runs in the mode that the caller has set. The adversarial inputs count as constants in the gradient.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.circumstances import in_deployed_precision
from certify.models import frozen
from certify.training.perturbing import Labelled, Moves

CROSSING = 2.5  # length of all steps of an attack together, in radii: Madry et al. and many after them
FAST_STEP = 1.25  # length of the one step of FAST, in radii
NEARBY = 1e-3  # standard deviation of the start of TRADES


@in_deployed_precision
def adversarial_inputs(
    model: nn.Module,
    ball: LpBall,
    y: Tensor,
    *,
    steps: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Inputs (N, *D) of the balls at which the cross-entropy is large, found by projected gradient ascent.

    From a uniform start :math:`\delta_0`, :math:`\delta_{t+1} = \Pi(\delta_t + a\, s(\nabla_x \ell(x + \delta_t, y)))`,
    where s is the sign in l_infinity and the unit vector in l_2. Whether an input found is misclassified is not
    checked: see :mod:`certify.attacks` for attacks that say so. In half precision, rounding may lead out of the ball.

    Args:
        model: maps (N, *D) to logits (N, K); comes back as it was, its gradients too.
        ball: N balls ``LpBall(x, epsilon)`` of norm 2 or infinity.
        y: (N,) integer, the correct classes.
        steps: number of steps.
        step_size: the length a, in units of the input; None for ``2.5 / steps`` radii.
        generator: draws the start; torch's default if None.

    Raises:
        InvalidInput: a bad argument; a batch without inputs.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Madry et al. (2018), Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083, section 2.
    """
    moves, steps = Moves.within(ball), checks.at_least("steps", steps, 1)
    task = Labelled(model, y)
    return climb(task, moves, moves.uniform(generator), task.losses, steps, moves.size(step_size, CROSSING / steps))


def climb(
    task: Labelled, moves: Moves, delta: Tensor, objective: Callable[[Tensor], Tensor], steps: int, size: Tensor
) -> Tensor:
    """Inputs (N, *D) after ascent on the objective (N,) of each, from a start, with the model in evaluation mode."""
    with frozen(task.model):
        for _ in range(steps):
            with torch.enable_grad():
                points = moves.points(delta).requires_grad_()
                (gradient,) = torch.autograd.grad(objective(points).sum(), points)
            delta = moves.step(delta, gradient, size)
    return moves.points(delta)


@in_deployed_precision
def pgd_loss(
    model: nn.Module,
    ball: LpBall,
    y: Tensor,
    *,
    steps: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Mean cross-entropy at adversarial inputs, :math:`\ell(\hat x, y)`: adversarial training.

    :math:`\hat x` is what :func:`adversarial_inputs` finds, with the same arguments and errors; the authors use 7 to 40
    steps. It is a lower bound on the worst case, :math:`\max_{x' \in B(x)} \ell(x', y)`.

    Returns:
        Scalar, the mean over the batch.

    References:
        Madry et al. (2018), arXiv:1706.06083, equation (2.1).
    """
    adversarial = adversarial_inputs(model, ball, y, steps=steps, step_size=step_size, generator=generator)
    return Labelled(model, y).loss(adversarial)


@in_deployed_precision
def fast_loss(
    model: nn.Module,
    ball: LpBall,
    y: Tensor,
    *,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean cross-entropy after one step from a random start: FAST, also called FGSM-RS.

    One step of :func:`pgd_loss`, of 1.25 radii. With a longer step or many epochs, training can end in catastrophic
    overfitting: the model resists this one step and nothing else. :func:`certify.track` sees that, and
    :func:`certify.training.grad_align_loss` prevents it. Arguments, result, errors: see :func:`pgd_loss`.

    References:
        Wong, Rice, Kolter (2020), Fast is better than free, arXiv:2001.03994, algorithm 3.
    """
    moves, task = Moves.within(ball), Labelled(model, y)
    size = moves.size(step_size, FAST_STEP)
    return task.loss(climb(task, moves, moves.uniform(generator), task.losses, 1, size))


@in_deployed_precision
def trades_loss(
    model: nn.Module,
    ball: LpBall,
    y: Tensor,
    *,
    weight: float = 6.0,
    steps: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Clean cross-entropy, and how far predictions change nearby: TRADES.

    The value is :math:`\ell(x, y) + \beta\, KL(p(x) \| p(\hat x))` for the softmax p of the logits. :math:`\hat x`
    comes from ascent on that divergence, from a start of standard deviation 0.001. The gradient goes through both p.

    Args:
        model: see :func:`adversarial_inputs`.
        ball: see :func:`adversarial_inputs`.
        y: (N,) integer, the correct classes.
        weight: the number beta, :math:`1 / \lambda` in the paper; the authors use 1 and 6. More of it trades clean
            accuracy for robustness.
        steps: of the ascent.
        step_size: of the ascent; None for ``2.5 / steps`` radii.
        generator: draws the start; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Zhang et al. (2019), Theoretically principled trade-off between robustness and accuracy, arXiv:1901.08573,
        section 3 and algorithm 1.
    """
    weight, steps = checks.nonnegative("weight", weight), checks.at_least("steps", steps, 1)
    moves, task = Moves.within(ball), Labelled(model, y)
    with frozen(model), torch.no_grad():
        target = F.log_softmax(task.logits(ball.center), 1)

    def change(points: Tensor) -> Tensor:
        return divergence(target, F.log_softmax(task.logits(points), 1))

    start, size = moves.normal(NEARBY, generator), moves.size(step_size, CROSSING / steps)
    adversarial = climb(task, moves, start, change, steps, size)
    clean = task.logits(ball.center.detach())
    moved = divergence(F.log_softmax(clean, 1), F.log_softmax(task.logits(adversarial), 1))
    return task.cross_entropy(clean).mean() + weight * moved.mean()


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Kullback-Leibler divergence (N,) of the second distribution from the first, both logarithms (N, K)."""
    return (first.exp() * (first - second)).sum(1)
