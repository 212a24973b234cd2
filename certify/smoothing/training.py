r"""Losses that train the base of a smoothed classifier under Gaussian noise.

Each loss takes a batch and returns a scalar to call ``.backward()`` on. Here :math:`F(x)` are the softmax
probabilities of the model, :math:`\delta_1, \dots, \delta_m` are draws from :math:`N(0, \sigma^2 I)`, others for
every input, and :math:`\hat F(x) = \frac{1}{m} \sum_i F(x + \delta_i)` estimates the soft smoothed classifier.

The model runs in the mode that the caller has set, on all ``m * N`` noisy inputs at once: normalisation over the
batch, in training mode, sees them all. Train and certify with the same sigma. A loss promises nothing by itself;
the certificate comes from :class:`certify.SmoothedClassifier`, in evaluation mode.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.checks import Limit
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput, InvalidModel
from bounds.numerics import per_row
from bounds.sets.norms import clip, inner_side, project, steepest_ascent
from certify.models import frozen


@in_deployed_precision
def gaussian_augmentation_loss(
    model: nn.Module, x: Tensor, y: Tensor, *, sigma: float, draws: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    r"""Mean cross-entropy under noise, :math:`\frac{1}{m} \sum_i -\log F(x + \delta_i)_y`.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        y: (N,) integer, the correct classes.
        sigma: standard deviation of the noise, in units of the input.
        draws: the number m of noise draws per input; the authors use 1.
        generator: draws the noise, on the device of ``x``; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Lecuyer et al. (2019), arXiv:1802.03471, section III; Cohen et al. (2019), arXiv:1902.02918, section 3.3.
    """
    noise = _draw(x, sigma, draws, generator)
    logits = _noisy_logits(model, x, noise)
    return _cross_entropy(logits, checks.labels(y, len(x), logits.shape[2]))


@in_deployed_precision
def smoothadv_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    epsilon: float | Tensor,
    draws: int = 2,
    steps: int = 10,
    low: Limit = None,
    high: Limit = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Mean cross-entropy under noise at adversarial inputs of the soft smoothed classifier.

    The value is :math:`\frac{1}{m} \sum_i -\log F(\hat x + \delta_i)_y`, where :math:`\hat x` is the answer of
    :func:`smoothed_pgd` for the same draws; it counts as a constant in the gradient.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        y: (N,) integer, the correct classes.
        sigma: standard deviation of the noise, in units of the input.
        epsilon: l_2 radius of the attack, in units of the input, one number or (N,). The authors try 0.25, 0.5, 1
            and 2 and let it grow linearly from 0 over the first 10 epochs, which is up to the caller.
        draws: the number m of noise draws per input; the authors use 1 to 8.
        steps: steps of the attack; the authors use 1 to 10. Each costs about as much as the training step itself.
        low: lower side of the box of valid inputs; None for no limit.
        high: upper side of the box; None for no limit.
        generator: draws the noise, on the device of ``x``; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Salman et al. (2019), arXiv:1906.04584, objective (S) and Pseudocode 1.
    """
    noise = _draw(x, sigma, draws, generator)
    adversarial = smoothed_pgd(model, x, y, noise=noise, epsilon=epsilon, steps=steps, low=low, high=high)
    return _cross_entropy(_noisy_logits(model, adversarial, noise), y.long())


@in_deployed_precision
def smoothed_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    noise: Tensor,
    epsilon: float | Tensor,
    steps: int = 10,
    low: Limit = None,
    high: Limit = None,
) -> Tensor:
    r"""Inputs within epsilon at which the soft smoothed classifier has a large loss, (N, *D).

    Projected gradient ascent on :math:`-\log \hat F(x')_y` within :math:`\|x' - x\|_2 \le \epsilon` and the box, from
    x itself, in steps of length :math:`2 \epsilon / T`. It attacks the smoothed classifier, not the mean of the losses
    under noise; whether an input found is misclassified is not checked. All steps see the same draws. The model runs in
    evaluation mode, so that batch statistics stay as they are, and the gradients of its weights are left alone.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite, inside the box.
        y: (N,) integer, the correct classes.
        noise: (m, N, *D), the draws that stand for the distribution of the noise.
        epsilon: l_2 radius, in units of the input, one number or (N,).
        steps: the number T of steps.
        low: lower side of the box of valid inputs; None for no limit.
        high: upper side of the box; None for no limit.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Salman et al. (2019), arXiv:1906.04584, objective (S).
    """
    x, steps = x.detach(), checks.at_least("steps", steps, 1)
    radius = LpBall(x, epsilon, norm=2, low=low, high=high).radii
    if noise.ndim != x.ndim + 1 or noise.shape[1:] != x.shape or len(noise) == 0:
        raise InvalidInput(f"noise must have shape (m, *x.shape) for x of {tuple(x.shape)}, got {tuple(noise.shape)}")
    sides = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    delta = torch.zeros_like(x)
    with frozen(model):
        with torch.no_grad():
            y = checks.labels(y, len(x), _noisy_logits(model, x[:1], noise[:1, :1]).shape[2])
        for _ in range(steps):
            with torch.enable_grad():
                points = (x + delta).requires_grad_()
                loss = F.nll_loss(log_mean_softmax(_noisy_logits(model, points, noise)), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, points)
            delta = delta + 2 / steps * per_row(radius, x) * steepest_ascent(gradient, 2)
            delta = project(clip(x + delta, *sides) - x, radius, 2)
    return clip(x + delta, *sides)


@in_deployed_precision
def consistency_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    weight: float,
    entropy_weight: float = 0.5,
    draws: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Mean cross-entropy under noise, with a penalty for predictions that differ between the draws.

    The value is
    :math:`\frac{1}{m} \sum_i \bigl( -\log F(x + \delta_i)_y + \lambda\, KL(\hat F(x) \| F(x + \delta_i)) \bigr)
    + \eta\, H(\hat F(x))`, where H is the entropy. The gradient goes through all of it, the mean included.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        y: (N,) integer, the correct classes.
        sigma: standard deviation of the noise, in units of the input.
        weight: the number lambda; the authors use 20 for MNIST. More of it trades accuracy for larger radii.
        entropy_weight: the number eta; the authors use 0.5.
        draws: the number m of noise draws per input; the authors use 2. A single one leaves no divergence.
        generator: draws the noise, on the device of ``x``; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Jeong, Shin (2020), arXiv:2006.04062, section 3.
    """
    weight, entropy_weight = checks.nonnegative("weight", weight), checks.nonnegative("entropy_weight", entropy_weight)
    noise = _draw(x, sigma, draws, generator)
    logits = _noisy_logits(model, x, noise)
    log_each, log_mean = F.log_softmax(logits, 2), log_mean_softmax(logits)
    mean = log_mean.exp()
    divergence = (mean * (log_mean - log_each)).sum(2).mean()
    entropy = -(mean * log_mean).sum(1).mean()
    natural = _cross_entropy(logits, checks.labels(y, len(x), logits.shape[2]))
    return natural + weight * divergence + entropy_weight * entropy


@in_deployed_precision
def macer_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    weight: float,
    gamma: float = 8.0,
    beta: float = 16.0,
    draws: int = 16,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Cross-entropy of the soft smoothed classifier, with a hinge on its radius where it is right.

    The value is :math:`-\log \hat F(x)_y + \lambda \frac{\sigma}{2} \max(\gamma - \xi, 0)`, its second part only for
    inputs whose most probable class is y. Here :math:`\xi = \Phi^{-1}(p_y) - \Phi^{-1}(\max_{c \ne y} p_c)` for the
    mean p over the draws of the softmax of ``beta`` times the logits; :math:`\sigma \xi / 2` is the radius of that
    soft smoothed classifier. As in the authors' program, beta is 1 in the first part.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        y: (N,) integer, the correct classes.
        sigma: standard deviation of the noise, in units of the input.
        weight: the number lambda; the authors use 12 at sigma 0.25 and 4 at sigma 0.5 for CIFAR-10.
        gamma: the value of :math:`\xi` beyond which a larger radius earns nothing; the authors use 8.
        beta: inverse temperature of the softmax in the radius; the authors use 16.
        draws: the number m of noise draws per input; the authors use 16, and 2 for ImageNet.
        generator: draws the noise, on the device of ``x``; torch's default if None.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output of the model is no (N, K) of K >= 2 logits.

    References:
        Zhai et al. (2020), arXiv:2001.02378, equations (16) and (17), Algorithm 1.
    """
    weight, gamma, beta = (
        checks.nonnegative("weight", weight),
        checks.positive("gamma", gamma),
        checks.positive("beta", beta),
    )
    noise = _draw(x, sigma, draws, generator)
    logits = _noisy_logits(model, x, noise)
    y = checks.labels(y, len(x), logits.shape[2])
    log_p = log_mean_softmax(beta * logits)
    others = log_p.scatter(1, y[:, None], -math.inf)
    runner_up = others.amax(1)
    right = log_p.gather(1, y[:, None]).squeeze(1) > runner_up
    # Tails, not probabilities near 1; and wrong rows leave before the quantile, so that the gradient is clean too.
    margin = -_quantile(torch.where(right, others.logsumexp(1), -1.0)) - _quantile(torch.where(right, runner_up, -1.0))
    hinge = torch.where(right, (gamma - margin).clamp(min=0.0), 0.0).mean()
    return F.nll_loss(log_mean_softmax(logits), y) + weight * sigma / 2 * hinge


def _draw(x: Tensor, sigma: float, draws: int, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise (m, N, *D) for inputs (N, *D), after checking them."""
    checks.at_least("number of inputs", len(checks.inputs(x)), 1)
    shape = (checks.at_least("draws", draws, 1), *x.shape)
    source = checks.generator(generator, x.device)
    return x.new_empty(shape).normal_(0, checks.positive("sigma", sigma), generator=source)


def _noisy_logits(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Logits (m, N, K) of every input under every draw, in single precision at least."""
    noisy = (x + noise).flatten(0, 1)
    logits: Tensor = model(noisy)
    if logits.ndim != 2 or len(logits) != len(noisy) or logits.shape[1] < 2:
        raise InvalidModel(
            f"the model must return logits (N, K) with K >= 2, got {tuple(logits.shape)} for {len(noisy)}"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(*noise.shape[:2], logits.shape[1])


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the mean over draws of the softmax of (S, N, K), (N, K); nothing underflows to 0 in it."""
    total: Tensor = F.log_softmax(logits, 2).logsumexp(0)
    return total - math.log(len(logits))


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over all inputs and draws, of logits (m, N, K) and labels (N,)."""
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)))


def _quantile(log_p: Tensor) -> Tensor:
    """Standard normal quantile of a probability below 1; at the smallest normal number its derivative is finite."""
    quantile: Tensor = torch.special.ndtri(log_p.exp().clamp(min=torch.finfo(log_p.dtype).tiny))
    return quantile
