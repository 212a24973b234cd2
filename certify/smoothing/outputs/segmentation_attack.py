"""Projected gradient ascent on smoothed segmentations, the attack that certified scores are compared with."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.checks import Limit
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput, InvalidModel
from bounds.numerics import per_row
from bounds.sets.norms import INSIDE, clip, inner_side, project, steepest_ascent
from certify.models import frozen
from certify.smoothing.drawing.votes import precision
from certify.smoothing.outputs.segmentation import SmoothedSegmentation
from certify.smoothing.training import log_mean_softmax

FEW_DRAWS = 16  # that stand for the distribution in a gradient


@in_deployed_precision
def segmentation_pgd(
    smoothed: SmoothedSegmentation,
    x: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 20,
    draws: int = FEW_DRAWS,
    low: Limit = None,
    high: Limit = None,
    ignore_index: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Inputs within epsilon at which the smoothed model gives few pixels the right class, (N, *D).

    Ascent on the sum over pixels of :math:`-\log \hat F(x')_y`, where :math:`\hat F` is the mean softmax over
    fixed draws, in steps of length :math:`2 \epsilon / T` with projection. Nothing is checked: certify what is
    returned, at radius 0, and take what :func:`segmentation_scores` says is the most that it allows.

    Args:
        smoothed: with noise that is added, whose radii are in l_2 or l_infinity.
        x: (N, *D), floating and finite, inside the box.
        labels: (N, *P) integer, the correct classes.
        epsilon: radius in the norm of the noise, in units of the input.
        steps: the number T of steps.
        draws: noise draws, the same for all inputs and steps.
        low: lower side of the box of valid inputs; None for no limit.
        high: upper side of the box; None for no limit.
        ignore_index: a label whose pixels count nowhere.
        generator: draws the noise; torch's default if None.

    Raises:
        InvalidInput: a bad argument, noise of another kind.
        InvalidModel: the output of the model does not fit the labels.

    References:
        Salman et al. (2019), arXiv:1906.04584, objective (S), here summed over pixels.
    """
    if not isinstance(smoothed, SmoothedSegmentation):
        raise InvalidInput(f"smoothed must be a SmoothedSegmentation, got {type(smoothed).__name__}")
    norm = smoothed.noise.norm
    if norm not in (2, math.inf) or not hasattr(smoothed.noise.distribution, "reach"):
        raise InvalidInput(f"smoothed must have added noise with radii in l_2 or l_infinity, got {smoothed.noise}")
    x, steps, draws = checks.inputs(x).detach(), checks.at_least("steps", steps, 1), checks.at_least("draws", draws, 1)
    ball = LpBall(x, epsilon, norm=norm, low=low, high=high)
    sides = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    adversarial, labels = x.clone(), labels.to(x.device)
    at_once = max(1, smoothed.outputs.batch_size // draws)
    with frozen(smoothed.outputs.model) as model:
        for start in range(0, len(x), at_once):
            rows = slice(start, start + at_once)
            if start == 0:
                _check_labels(model, x, labels, ignore_index)
                noise = smoothed.noise.sample(torch.zeros_like(x[:1]), draws, generator=generator)[0].unsqueeze(1)
            delta, radius = torch.zeros_like(x[rows]), INSIDE * ball.radii[rows]
            for _ in range(steps):
                with torch.enable_grad():
                    points = (x[rows] + delta).requires_grad_()
                    loss = _loss(model, points, noise, labels[rows], ignore_index)
                    (gradient,) = torch.autograd.grad(loss, points)
                delta = delta + 2 / steps * per_row(radius, x) * steepest_ascent(gradient, norm)
                delta = project(clip(x[rows] + delta, *sides) - x[rows], radius, norm)
            adversarial[rows] = clip(x[rows] + delta, *sides)
    return adversarial


def _check_labels(model: nn.Module, x: Tensor, labels: Tensor, ignore_index: int | None) -> None:
    """Refuse labels that are no classes of the model; pixels that do not count may have any."""
    with torch.no_grad():
        logits = model(x[:1].to(precision(model, x)))
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    checks.labels(counted.flatten(), counted.numel(), logits.shape[1] if logits.ndim > 2 else 2)


def _loss(model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor, ignore_index: int | None) -> Tensor:
    """Sum over the pixels of inputs (B, *D) of the loss of the mean softmax under noise (S, 1, *D)."""
    noisy = (x + noise).flatten(0, 1)
    logits = model(noisy.to(precision(model, x)))
    if logits.ndim < 3 or len(logits) != len(noisy) or logits.shape[2:] != labels.shape[1:]:
        raise InvalidModel(
            f"the model must return logits (N, K, *P) with the pixels of labels {tuple(labels.shape)}, "
            f"got {tuple(logits.shape)} for {len(noisy)} inputs"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(0, (len(noise), len(x)))
    counted = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels.ne(ignore_index)
    log_p = log_mean_softmax(logits.flatten(3))
    picked = F.nll_loss(log_p, labels.where(counted, 0).long().flatten(1), reduction="none")
    return (picked * counted.flatten(1)).sum()
