r"""Training that shares passes between attack and weights: each is a step of an optimizer, not a loss.

Gradients that the weights hold are left as found: a step uses its own. The model runs in the mode that the caller has
set, since one pass serves the attack and the weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from bounds.models import evaluation_mode
from certify.training.perturbing import Labelled, Moves


class TrainingStep(NamedTuple):
    """Result of a step of training.

    Attributes:
        loss: scalar, the mean cross-entropy over the batch and the passes of the step, without a graph.
        delta: (N, *D), the last perturbation, to begin the next batch with.
    """

    loss: Tensor
    delta: Tensor


@in_deployed_precision
def free_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ball: LpBall,
    y: Tensor,
    *,
    replays: int = 8,
    delta: Tensor | None = None,
) -> TrainingStep:
    r"""Train on one batch several times, with a perturbation that grows along: FREE adversarial training.

    Each of m replays takes :math:`\nabla \ell(x + \delta, y)` once, for the weights and for the input: the optimizer
    steps, and :math:`\delta` becomes :math:`\Pi(\delta + \epsilon\, s(\nabla_x \ell))`. So m replays cost as much as m
    plain steps; train for 1/m of the epochs.

    Args:
        model: maps (N, *D) to logits (N, K); its weights change.
        optimizer: of weights of the model.
        ball: N balls ``LpBall(x, epsilon)`` of norm 2 or infinity.
        y: (N,) integer, the correct classes.
        replays: the number m; the authors use 4 to 8.
        delta: (N, *D), where the perturbation begins: that of the batch before, as in the paper; None for 0.

    Raises:
        InvalidInput: a bad argument; ``delta`` of another shape, as at a last batch of fewer inputs.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Shafahi et al. (2019), Adversarial training for free!, arXiv:1904.12843, algorithm 1.
    """
    moves, task = Moves.within(ball), Labelled(model, y)
    replays, weights = checks.at_least("replays", replays, 1), _weights(optimizer)
    if delta is not None and checks.tensor("delta", delta).shape != ball.center.shape:
        raise InvalidInput(
            f"delta must have shape {tuple(ball.center.shape)}, got {tuple(delta.shape)}: pass None where a batch has "
            f"another size, or leave such batches out"
        )
    delta = torch.zeros_like(moves.center) if delta is None else moves.project(delta.detach().to(moves.center))
    total = moves.center.new_zeros(())
    for _ in range(replays):
        with torch.enable_grad():
            points = moves.points(delta).requires_grad_()
            loss = task.loss(points)
            gradient, *others = torch.autograd.grad(loss, [points, *weights], allow_unused=True)
        delta = moves.step(delta, gradient, moves.radius)
        _apply(optimizer, weights, others)
        total += loss.detach()
    return TrainingStep(total / replays, delta)


@in_deployed_precision
def yopo_step(
    first: nn.Module,
    rest: nn.Module,
    optimizer: torch.optim.Optimizer,
    ball: LpBall,
    y: Tensor,
    *,
    outer: int = 5,
    inner: int = 3,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> TrainingStep:
    r"""Train on one batch against an attack that goes through the first layer alone: YOPO-m-n.

    The model is :math:`g(f(x))`. From a uniform start, m times: :math:`p = \nabla_z \ell(g(z), y)` at
    :math:`z = f(x + \delta)`, by the pass that also gives gradients of the weights; then n steps
    :math:`\delta \leftarrow \Pi(\delta + a\, s(\nabla_\delta \langle p, f(x + \delta) \rangle))`. The optimizer steps
    once, with the mean of the m gradients where the paper has their sum: learning rates keep their meaning.

    Args:
        first: the layer f, of N inputs (N, *D), such as ``model[:1]``; in evaluation mode during the n steps.
        rest: the layers g, to logits (N, K), such as ``model[1:]``.
        optimizer: of weights of both.
        ball: see :func:`free_step`.
        y: (N,) integer, the correct classes.
        outer: the number m of passes through the whole model; the authors use 5.
        inner: the number n of steps for each; the authors use 3.
        step_size: the length a, in units of the input; None for ``2.5 / (m n)`` radii.
        generator: draws the start; torch's default if None.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of ``rest`` is no (N, K) of K >= 2 logits.

    References:
        Zhang et al. (2019), You only propagate once, arXiv:1905.00877, algorithm 1.
    """
    moves, task = Moves.within(ball), Labelled(rest, y)
    outer, inner = checks.at_least("outer", outer, 1), checks.at_least("inner", inner, 1)
    weights, size = _weights(optimizer), moves.size(step_size, 2.5 / (outer * inner))
    delta, total = moves.uniform(generator), moves.center.new_zeros(())
    sums: list[Tensor | None] = [None] * len(weights)
    for _ in range(outer):
        with torch.enable_grad():
            hidden = first(moves.points(delta).requires_grad_())
            loss = task.loss(hidden)
            slope, *others = torch.autograd.grad(loss, [hidden, *weights], allow_unused=True)
        sums = [
            new if old is None else old if new is None else old + new for old, new in zip(sums, others, strict=True)
        ]
        with evaluation_mode(first):
            for _ in range(inner):
                with torch.enable_grad():
                    points = moves.points(delta).requires_grad_()
                    (gradient,) = torch.autograd.grad((slope * first(points)).sum(), points)
                delta = moves.step(delta, gradient, size)
        total += loss.detach()
    _apply(optimizer, weights, [None if each is None else each / outer for each in sums])
    return TrainingStep(total / outer, delta)


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimizer changes and that ask for gradients."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInput(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: pass torch.optim.SGD("
            f"model.parameters(), lr=0.1) or another one"
        )
    return [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]


def _apply(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """One step of an optimizer with given gradients; those that its weights hold come back."""
    every = [weight for group in optimizer.param_groups for weight in group["params"]]
    before = [weight.grad for weight in every]
    try:
        for weight in every:
            weight.grad = None
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = None if gradient is None else gradient.detach()
        optimizer.step()
    finally:
        for weight, gradient in zip(every, before, strict=True):
            weight.grad = gradient
