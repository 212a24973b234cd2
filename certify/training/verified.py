r"""Training between attacks and bounds (MTL-IBP), and the weights of CROWN-IBP over training."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bounds import Graph, LpBall, checks
from bounds.circumstances import isolated
from bounds.models import evaluation_mode
from certify.training.adversarial import pgd_loss
from certify.verified_training import epsilon_schedule, ibp_loss, kappa_schedule


@isolated
def mtl_ibp_loss(
    model: nn.Module,
    ball: LpBall,
    y: Tensor,
    *,
    alpha: float,
    steps: int = 1,
    step_size: float | None = None,
    graph: Graph | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Loss between an attack and a bound, :math:`(1 - \alpha) \ell(\hat x, y) + \alpha L(-m)`: MTL-IBP.

    :math:`\hat x` is what :func:`adversarial_inputs` finds and L(-m) the worst-case cross-entropy over the balls by
    intervals, :func:`certify.verified_training.ibp_loss` at ``kappa=0``. The first is a lower and the second an upper
    bound on the worst case, so a number between 0 and 1 comes close to it, where either alone is far off.

    Args:
        model: maps (N, *D) to logits (N, K).
        ball: N balls ``LpBall(x, epsilon)`` of norm 2 or infinity.
        y: (N,) integer, the correct classes.
        alpha: weight of the bound, from 0 to 1; around 0.5 for large radii, and much less for small ones.
        steps: of the attack; the authors use few.
        step_size: of the attack, in units of the input; None for ``2.5 / steps`` radii.
        graph: see :func:`certify.verified_training.ibp_loss`.
        generator: draws the start of the attack; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        UnsupportedLayer: a layer without a rule.

    References:
        De Palma et al. (2024), Expressive losses for verified robustness via convex combinations, arXiv:2305.13991,
        section 4 (MTL-IBP).
    """
    alpha = checks.at_most("alpha", checks.nonnegative("alpha", alpha), 1.0)
    attacked = pgd_loss(model, ball, y, steps=steps, step_size=step_size, generator=generator)
    # In the mode of the caller the clean part of the loss would run, for its statistics, at weight 0.
    with evaluation_mode(model):
        bounded = ibp_loss(model, ball, y, kappa=0.0, graph=graph)
    return (1 - alpha) * attacked + alpha * bounded


class CrownIBPWeights(NamedTuple):
    """Radius and weights of CROWN-IBP at one moment of training.

    Attributes:
        epsilon: the radius, in units of the input.
        kappa: weight of the clean loss.
        beta: weight of linear bounds among the bounds.
    """

    epsilon: float
    kappa: float
    beta: float


def crown_ibp_schedule(
    step: float, *, start: float, end: float, epsilon: float, first: float = 1.0, last: float = 0.5
) -> CrownIBPWeights:
    r"""Radius and weights of :func:`certify.verified_training.crown_ibp_loss` at a step of training.

    The radius is that of :func:`certify.verified_training.epsilon_schedule`, kappa that of
    :func:`certify.verified_training.kappa_schedule`. Linear bounds begin alone and end without a say,
    :math:`\beta = 1 - \epsilon_t / \epsilon`.

    Args:
        step: of training, in any unit: batches, epochs or a share of all.
        start: where the radius leaves 0, in the same unit.
        end: where it arrives, later than ``start``.
        epsilon: the final radius, above 0, in units of the input.
        first: kappa up to ``start``, from 0 to 1.
        last: kappa from ``end`` on, from 0 to 1; the authors try 0 and 0.5.

    Raises:
        InvalidInput: an argument out of range.

    References:
        Zhang et al. (2020), Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316, section 3.

    >>> crown_ibp_schedule(10, start=2, end=10, epsilon=0.1)
    CrownIBPWeights(epsilon=0.1, kappa=0.5, beta=0.0)
    """
    largest = checks.positive("epsilon", epsilon)
    radius = epsilon_schedule(step, start=start, end=end, epsilon=largest)
    kappa = kappa_schedule(step, start=start, end=end, first=first, last=last)
    return CrownIBPWeights(radius, kappa, 1 - radius / largest)
