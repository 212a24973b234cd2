r"""Losses that train a network for its own certificates: upper bounds on the cross-entropy over perturbation sets.

Write :math:`v_j = f_j - f_y` for the logits f and the correct class y. The cross-entropy is
:math:`\log \sum_j e^{v_j}`, and lower bounds :math:`m_j \le -v_j` over a set, as of :func:`bounds.margin_bounds`,
bound it from above by :math:`\log \sum_j e^{-m_j}`. A loss takes a batch and returns a scalar to call
``.backward()`` on; it is an upper bound up to rounding errors. A loss promises nothing about a trained
network; the certificate comes from :func:`certify.certified_radius` or another verifier.

Bounds are about the network in evaluation mode, with the running statistics of batch normalisation. The clean part
of a loss runs in the mode that the caller has set.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import Graph, InvalidInput, InvalidModel, checks, margin_bounds
from bounds.circumstances import isolated
from bounds.linear.ladder import margin_rows
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.rows import other_rows
from bounds.sets.balls import PerturbationSet


def epsilon_schedule(
    step: float, *, start: float, end: float, epsilon: float, mid: float = 0.25, beta: float = 4.0
) -> float:
    r"""Radius at a step of training: 0 up to ``start``, then slowly and at last linearly up to ``epsilon`` at ``end``.

    With the progress t from 0 to 1 in between, the radius is :math:`a t^\beta` up to ``mid`` and continues there as
    the tangent, which fixes a: the radius and its first derivative are continuous on ``(start, end)``.

    Args:
        step: of training, in any unit: batches, epochs or a share of all.
        start: where the radius leaves 0, in the same unit.
        end: where it arrives, later than ``start``.
        epsilon: the final radius, in units of the input. To certify at some radius, train slightly above it.
        mid: the t at which the linear part begins, between 0 and 1.
        beta: the power of the first part, at least 1.

    Raises:
        InvalidInput: an argument out of range.

    References:
        The authors' program for Zhang et al. (2020), arXiv:1906.06316, with these defaults.
    """
    epsilon, mid = checks.nonnegative("epsilon", epsilon), checks.probability("mid", mid)
    if not 1 <= beta < math.inf:
        raise InvalidInput(f"beta must be a finite number of at least 1, got {beta!r}")
    progress = _schedule_progress(step, start, end)
    corner, slope = float(mid**beta), float(beta * mid ** (beta - 1))  # where a = 1 changes into its tangent
    reached = float(progress**beta) if progress <= mid else corner + slope * (progress - mid)
    full = corner + slope * (1 - mid)
    return epsilon * reached / full


def kappa_schedule(step: float, *, start: float, end: float, first: float = 1.0, last: float = 0.5) -> float:
    """Weight of the clean loss at a step of training: linear from ``first`` at ``start`` to ``last`` at ``end``.

    Args:
        step: of training, in any unit.
        start: where the weight begins to change, in the same unit.
        end: where it arrives, later than ``start``.
        first: the weight up to ``start``, from 0 to 1.
        last: the weight from ``end`` on, from 0 to 1; the authors use 0.5.

    Raises:
        InvalidInput: an argument out of range.

    References:
        Gowal et al. (2018), On the effectiveness of interval bound propagation, arXiv:1810.12715, section 3.
    """
    first, last = _checked_weight("first", first), _checked_weight("last", last)
    return first + (last - first) * _schedule_progress(step, start, end)


def worst_case_logits(margins: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, K), 0 at the label, whose cross-entropy is at least that of every input the margins hold for.

    Args:
        margins: (N, K) lower bounds on ``logit_label - logit_k``, as of :func:`bounds.margin_bounds`; entries at
            the label are ignored.
        labels: (N,) correct classes.

    Raises:
        InvalidInput: margins that are no floating (N, K); labels out of range.

    References:
        Gowal et al. (2018), arXiv:1810.12715, section 3; Wong, Kolter (2018), arXiv:1711.00851, theorem 2.
    """
    if not checks.tensor("margins", margins).is_floating_point() or margins.ndim != 2:
        raise InvalidInput(
            f"margins must be floating, of shape (N, K), got {margins.dtype} of {tuple(margins.shape)}: "
            f"pass what bounds.margin_bounds returns"
        )
    label = checks.labels(labels, len(margins), margins.shape[1]).to(margins.device)
    return (-margins).scatter(1, label[:, None], 0.0)


def robust_loss(margins: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the worst-case logits, a scalar: an upper bound on the mean over any choice of inputs.

    Arguments, errors and references: see :func:`worst_case_logits`.
    """
    return F.cross_entropy(worst_case_logits(margins, labels), labels.long().to(margins.device))


@isolated
def ibp_loss(
    model: nn.Module, ball: PerturbationSet, labels: Tensor, *, kappa: float, graph: Graph | None = None
) -> Tensor:
    r"""Clean and worst-case cross-entropy, mixed: :math:`\kappa L(f(x)) + (1 - \kappa) L(-m)` for margins of intervals.

    At ``kappa=0`` it is at least the mean cross-entropy of any choice of inputs from the set.

    Args:
        model: maps (N, *D) to logits (N, K), K >= 2.
        ball: N perturbation sets around the inputs, such as ``LpBall(x, epsilon)``.
        labels: (N,) correct classes.
        kappa: weight of the clean part, from 0 to 1; see :func:`kappa_schedule`.
        graph: ``bounds.capture(model, x)``, which shares the weights of the model. Capturing takes as long as hundreds
            of passes, and is needed unless the model is built from ``nn.Sequential`` of common layers: do it once,
            before training.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        UnsupportedLayer: a layer without a rule.

    References:
        Gowal et al. (2018), On the effectiveness of interval bound propagation, arXiv:1810.12715, section 3.
    """
    margins = margin_bounds(model if graph is None else graph, ball, labels, "ibp", sound="real")
    return _mixed_with_clean(model, ball, labels, kappa, robust_loss(margins, labels))


@isolated
def crown_ibp_loss(
    model: nn.Module, ball: PerturbationSet, labels: Tensor, *, kappa: float, beta: float, graph: Graph | None = None
) -> Tensor:
    r"""Like :func:`ibp_loss`, with margins :math:`\beta m_{CROWN-IBP} + (1 - \beta) m_{IBP}`.

    Args:
        model: see :func:`ibp_loss`.
        ball: see :func:`ibp_loss`.
        labels: see :func:`ibp_loss`.
        kappa: see :func:`ibp_loss`; the authors try 0 throughout, and from 1 to 0 or to 0.5.
        beta: weight of the linear bounds, from 0 to 1. The authors lower it from 1 to 0 while the radius grows,
            ``beta = 1 - epsilon / largest_epsilon``; at 0, linear bounds are not computed.
        graph: see :func:`ibp_loss`; here every model needs it.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InvalidInput: a bad argument.
        UnsupportedLayer: an operation without a rule.

    References:
        Zhang et al. (2020), Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316, section 3.
    """
    beta = _checked_weight("beta", beta)
    bounded, rows = _bounded_margins(model if graph is None else graph, ball, labels)
    margins = bounded.functions(rows, intervals=True)
    if beta > 0:
        margins = (1 - beta) * margins
        own, others = other_rows(rows, labels)
        linear = bounded.functions(own)
        margins = margins.scatter_add(1, others, beta * linear)
    return _mixed_with_clean(model, ball, labels, kappa, robust_loss(margins, labels))


@isolated
def fused_crown_ibp_loss(
    model: nn.Module, ball: PerturbationSet, labels: Tensor, *, kappa: float, beta: float, graph: Graph | None = None
) -> Tensor:
    r"""Like :func:`crown_ibp_loss`, with one linear bound for each input instead of one for each class.

    The sum :math:`\sum_j e^{v_j}` is bounded as a whole. Intervals give :math:`l_j \le v_j \le u_j`, on which the
    secants :math:`s_j v_j + t_j` lie above the exponential, and a single backward pass bounds :math:`\sum_j s_j v_j`
    from above. The bound on the sum is ``beta`` times this one and ``1 - beta`` times :math:`\sum_j e^{u_j}`.
    Arguments, errors: see :func:`crown_ibp_loss`.

    Returns:
        Scalar, the mean over the batch; at ``beta=0`` the same as :func:`ibp_loss`.

    References:
        Xu et al. (2020), Automatic perturbation analysis for scalable certified robustness and beyond,
        arXiv:2002.12920 (loss fusion; there the exponential is a node of the network).
    """
    beta = _checked_weight("beta", beta)
    bounded, rows = _bounded_margins(model if graph is None else graph, ball, labels)
    margins, opposite = bounded.functions(torch.cat([rows, -rows], 1), intervals=True).chunk(2, 1)
    upper = worst_case_logits(margins, labels)
    lower = -worst_case_logits(opposite, labels)
    shift = upper.amax(1, keepdim=True)  # at least 0, from the label; exponents are at most 0 without it
    total = (upper - shift).exp().sum(1)
    if beta > 0:
        slope, intercept = _lines_above_exp(lower - shift, upper - shift)
        largest = -bounded.functions(slope.unsqueeze(1) @ rows).squeeze(1)
        total = beta * (largest + (intercept - slope * shift).sum(1)) + (1 - beta) * total
    # The exact total is positive; rounding may take it below.
    worst = shift.squeeze(1) + total.clamp(min=torch.finfo(total.dtype).tiny).log()
    return _mixed_with_clean(model, ball, labels, kappa, worst.mean())


def initialize_for_intervals(model: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Draw the weights of linear and convolutional layers so that intervals neither grow nor shrink with depth.

    Weights become normal of standard deviation :math:`\sqrt{2 \pi} / n` for n inputs of an output: the radius of an
    interval grows by the factor :math:`n E|W| = 2` in an affine layer, and a ReLU halves it again on average. Usual
    initialisations let it grow with :math:`\sqrt{n}`. Biases stay as they are.

    Args:
        model: changed in place.
        generator: draws the weights; torch's default if None.

    Raises:
        InvalidModel: there is no such layer to be found.

    References:
        Shi et al. (2021), Fast certified robust training with short warmup, arXiv:2103.17268, section 3.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise InvalidModel(
            "the model must hold nn.Linear or nn.Conv2d layers as modules: pass it before it is scripted or wrapped"
        )
    generator = checks.generator(generator, layers[0].weight.device)
    for layer in layers:
        inputs = layer.weight[0].numel()
        nn.init.normal_(layer.weight, 0.0, math.sqrt(2 * math.pi) / inputs, generator=generator)


def _bounded_margins(model: nn.Module | Graph, ball: PerturbationSet, labels: Tensor) -> tuple[RefinedNetwork, Tensor]:
    """The network with its intervals, and the rows (N, K, K) of the functions ``f_label - f_j``."""
    network = Network(model, ball, sound="real")  # rounding errors would cost a third of the time
    return RefinedNetwork(network), margin_rows(network, labels)


def _lines_above_exp(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts of lines above the exponential on intervals."""
    # Above a convex function at both ends, a line is above it in between, whatever rounding did to its slope.
    width = (upper - lower).clamp(min=torch.finfo(upper.dtype).eps)
    slope = upper.exp() * -torch.expm1(-width) / width
    return slope, torch.maximum(lower.exp() - slope * lower, upper.exp() - slope * upper)


def _mixed_with_clean(model: nn.Module, ball: PerturbationSet, labels: Tensor, kappa: float, worst: Tensor) -> Tensor:
    kappa = _checked_weight("kappa", kappa)
    if kappa == 0 and not model.training:  # in training mode the clean pass moves the statistics of normalisation
        return worst
    return kappa * F.cross_entropy(model(ball.center), labels.long().to(ball.center.device)) + (1 - kappa) * worst


def _schedule_progress(step: float, start: float, end: float) -> float:
    """From 0 at ``start`` to 1 at ``end``."""
    if not start < end:
        raise InvalidInput(f"start must lie before end, got {start!r} and {end!r}: exchange or part them")
    return min(max((step - start) / (end - start), 0.0), 1.0)


def _checked_weight(name: str, value: float) -> float:
    return checks.at_most(name, checks.nonnegative(name, value), 1.0)
