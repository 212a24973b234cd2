"""Losses that keep a classifier from being sure about inputs of no known class.

Both are added to the cross-entropy of known inputs, with a weight.
"""

import math

import torch
from torch import Tensor, nn

from bounds import Graph, PerturbationSet, checks
from bounds.checks import Limit
from bounds.circumstances import in_deployed_precision, isolated
from bounds.linear.pairs import pairwise_margins
from certify.attacks.studies.confidence import highest_confidence, leading


@in_deployed_precision
def acet_loss(
    model: nn.Module,
    outside: Tensor,
    *,
    norm: float = math.inf,
    epsilon: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    steps: int = 40,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean logarithm of the largest confidence that an attack reaches around inputs of no known class (ACET).

    The attack sees the model in evaluation mode; the loss is computed in the mode that the caller has set.

    Args:
        model: maps (M, *D) to logits (M, K).
        outside: (M, *D), inputs of no known class, inside the box: noise, permuted pixels, another data set.
        norm: 1, 2 or ``math.inf``.
        epsilon: largest norm of a perturbation, in units of the input.
        low: lower side of the box, see :func:`certify.attacks.highest_confidence`.
        high: upper side of the box, likewise.
        steps: of ascent.
        generator: source of random starts.

    Returns:
        Scalar, at most 0.

    Raises:
        InvalidInput: a bad argument.

    References:
        Hein, Andriushchenko, Bitterwolf (2019), Why ReLU networks yield high-confidence predictions far away from the
        training data and how to mitigate the problem, equation (3), arXiv:1812.05720.
    """
    found = highest_confidence(
        model,
        outside,
        norm=norm,
        epsilon=epsilon,
        low=low,
        high=high,
        steps=steps,
        restarts=1,
        targets=0,
        generator=generator,
    )
    return leading(model(found.adversarial)).mean()


@isolated
def good_loss(model: nn.Module, ball: PerturbationSet, *, quantile: float = 1.0, graph: Graph | None = None) -> Tensor:
    r"""Mean of :math:`\log(d^2 / 2 + 1)`, where d bounds all differences of two logits over the sets from above (GOOD).

    Bounds are those of intervals. With a ``quantile`` q below 1, only the share q of the sets with the smallest d count
    so; the others count with the differences at their centres, in the mode that the caller has set.

    Args:
        model: maps (M, *D) to logits (M, K).
        ball: M sets around inputs of no known class.
        quantile: above 0 and at most 1.
        graph: ``bounds.capture(model, x)``, which shares the weights of the model; see :func:`certify.ibp_loss`.

    Returns:
        Scalar, at least 0.

    Raises:
        InvalidInput: a bad argument.
        UnsupportedLayer: a layer without a rule.

    References:
        Bitterwolf, Meinke, Hein (2020), Certifiably adversarially robust detection of out-of-distribution data,
        equations (6) to (8), arXiv:2007.08473.
    """
    quantile = checks.at_most("quantile", checks.positive("quantile", quantile), 1.0)
    least = pairwise_margins(model if graph is None else graph, ball, "ibp", sound="real")
    largest = -least.flatten(1).amin(1)
    if quantile < 1:
        logits = model(ball.center)
        clean = logits.amax(1) - logits.amin(1)
        kept = max(1, round(quantile * len(largest)))
        rank = largest.detach().argsort().argsort()
        largest = torch.where(rank < kept, largest, clean)
    return (largest.square() / 2).log1p().mean()
