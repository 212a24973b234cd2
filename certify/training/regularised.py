r"""Training on gradients with respect to the input: GradAlign, CURE, and input-gradient regularisation.

Write :math:`\ell(x, y)` for the cross-entropy of the model. A penalty looks at the model in evaluation mode: passes
at perturbed inputs leave running statistics alone, and dropout is no part of a gradient. The clean part of a loss runs
in the mode that the caller has set. Gradients of a penalty need second derivatives: a network of ReLUs has them, as
those of its first derivatives with respect to the weights.
"""

import torch
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from bounds.models import evaluation_mode
from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.training.adversarial import fast_loss
from certify.training.perturbing import Labelled, Moves


@in_deployed_precision
def grad_align_penalty(
    model: nn.Module, ball: LpBall, y: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Penalty on input gradients that turn within the balls: GradAlign.

    The value is :math:`1 - \cos(\nabla_x \ell(x, y), \nabla_x \ell(x + \eta, y))`, where :math:`\eta` is uniform in
    the ball. It is 0 where the loss is linear, so that one step is as good an attack as many. Rows with a gradient of
    0 have no angle and are left out.

    Args:
        model: maps (N, *D) to logits (N, K), twice differentiable almost everywhere.
        ball: N balls ``LpBall(x, epsilon)`` of norm 2 or infinity.
        y: (N,) integer, the correct classes.
        generator: draws eta; torch's default if None.

    Returns:
        Scalar, the mean over the batch, from 0 to 2.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Andriushchenko, Flammarion (2020), Understanding and improving fast adversarial training, arXiv:2007.02617,
        section 5.
    """
    moves, task = Moves.within(ball), Labelled(model, y)
    nearby = moves.points(moves.uniform(generator))
    graph = torch.is_grad_enabled()
    with evaluation_mode(model):
        first, second = (
            _direction(task.input_gradient(points, differentiable=graph)) for points in (ball.center, nearby)
        )
    cosine = (first * second).flatten(1).sum(1)
    known = (first != 0).flatten(1).any(1) & (second != 0).flatten(1).any(1)
    return torch.where(known, 1 - cosine, 0.0).sum() / known.sum().clamp(min=1)


@in_deployed_precision
def grad_align_loss(
    model: nn.Module,
    ball: LpBall,
    y: Tensor,
    *,
    weight: float,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Sum of :func:`fast_loss` and ``weight`` times :func:`grad_align_penalty`: FAST without catastrophic overfitting.

    Args:
        model: see :func:`grad_align_penalty`.
        ball: see :func:`grad_align_penalty`.
        y: (N,) integer, the correct classes.
        weight: the number lambda; the authors use 0.2 for radius 8/255 on CIFAR-10, and more for larger ones.
        step_size: of the one step, in units of the input; None for 1.25 radii.
        generator: draws the start and eta; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Andriushchenko, Flammarion (2020), arXiv:2007.02617, section 5.
    """
    weight = checks.nonnegative("weight", weight)
    attacked = fast_loss(model, ball, y, step_size=step_size, generator=generator)
    return attacked + weight * grad_align_penalty(model, ball, y, generator=generator)


@in_deployed_precision
def cure_loss(model: nn.Module, x: Tensor, y: Tensor, *, weight: float, h: float) -> Tensor:
    r"""Clean cross-entropy with a penalty on curvature along the sign of the gradient: CURE.

    The value is :math:`\ell(x, y) + \gamma\, \| \nabla_x \ell(x + h z, y) - \nabla_x \ell(x, y) \|_2^2` for
    :math:`z = s / \|s\|_2`, :math:`s = \mathrm{sign}(\nabla_x \ell(x, y))`, a constant in the gradient. With small h
    the penalty is :math:`h^2 \|H z\|_2^2` for the Hessian H of the loss.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        y: (N,) integer, the correct classes.
        weight: the number gamma; the authors use 4 for CIFAR-10.
        h: l_2 length of the finite difference, in units of the input; the authors raise it from 0 to 1.5 in five
            epochs.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Moosavi-Dezfooli et al. (2019), Robustness via curvature regularization, and vice versa, arXiv:1811.09716,
        section 4.
    """
    weight, h = checks.nonnegative("weight", weight), checks.positive("h", h)
    x, task, graph = checks.not_empty(checks.inputs(x)).detach(), Labelled(model, y), torch.is_grad_enabled()
    with evaluation_mode(model):
        here = task.input_gradient(x, differentiable=graph)
        sign = here.detach().sign()
        move = h * sign / per_row(length(sign, 2), sign).clamp(min=1)  # a sign has length 0, or at least 1
        ahead = task.input_gradient((x + move).to(x.dtype), differentiable=graph)
    curvature = (ahead - here).square().flatten(1).sum(1)
    return task.loss(x) + weight * curvature.mean()


@in_deployed_precision
def input_gradient_loss(
    model: nn.Module, x: Tensor, y: Tensor, *, weight: float, norm: float = 2.0, power: int = 2
) -> Tensor:
    r"""Clean cross-entropy with a penalty on its slope, :math:`\ell(x, y) + \lambda \|\nabla_x \ell(x, y)\|_q^k`.

    q is the dual of the norm of perturbations. ``power=1`` with the radius as weight is what the loss gains, to first
    order, in a ball around x; ``power=2`` in l_2 is double backpropagation.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        y: (N,) integer, the correct classes.
        weight: the number lambda.
        norm: order of the norm of perturbations, at least 1; ``math.inf`` penalises the l_1 norm of the gradient.
        power: the number k, 1 or 2.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Ross, Doshi-Velez (2018), Improving the adversarial robustness and interpretability of deep neural networks by
        regularizing their input gradients, arXiv:1711.09404, for l_2 and power 2; Simon-Gabriel et al. (2019),
        First-order adversarial vulnerability of neural networks and input dimension, arXiv:1802.01421, for
        power 1.
    """
    weight, norm = checks.nonnegative("weight", weight), checks.norm(norm)
    if power not in (1, 2):
        raise InvalidInput(f"power must be 1 or 2, got {power!r}: pass 2 for the squared norm")
    x, task = checks.not_empty(checks.inputs(x)).detach(), Labelled(model, y)
    with evaluation_mode(model):
        gradient = task.input_gradient(x, differentiable=torch.is_grad_enabled())
    if power == 2 and norm == 2:
        slope = gradient.square().flatten(1).sum(1)  # whose derivative is finite at 0
    else:
        slope = length(gradient, LpBall(x[:1], 0.0, norm, None, None).dual_norm) ** power
    return task.loss(x) + weight * slope.mean()


def _direction(gradient: Tensor) -> Tensor:
    """Gradients (N, *D) at length 1, those of 0 as they are; derivatives are finite, and squares do not underflow."""
    largest = per_row(length(gradient.detach(), float("inf")), gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)  # the angle does not depend on the scale
    size = scaled.square().flatten(1).sum(1)
    return scaled / per_row(torch.where(size > 0, size, 1.0).sqrt(), scaled)
