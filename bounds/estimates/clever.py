r"""CLEVER: an estimate of how far an input is from another class, by extreme values of sampled gradients.

With :math:`g = f_c - f_j`, the class cannot change to j within :math:`\min(g(x_0) / L, R)`, if L is the largest
:math:`\|\nabla g\|_q` over the ball of radius R, in the dual norm. CLEVER estimates L from gradients at random points.
It is no bound, and what makes it wrong is reported with it: gradients that vanish, maxima that take few values, an end
point that the maxima do not determine, a radius that cuts the score off.

In high dimension the largest gradient is met in a part of the ball that random points never see: the maxima then look
like any smooth distribution, the fit is excellent by every test, and its end point means nothing. Where this shows, the
largest sampled value is used, which is below L, so that the score is too large. Where it does not show, nothing in the
result tells: a ridge in a small share of the ball, as a half space off its centre is in high dimension, leaves the
status ``"fitted"`` and a score of several times the distance.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.estimates.local_lipschitz import ascend
from bounds.estimates.result import STATUSES, CleverEstimate
from bounds.estimates.reverse_weibull import bootstrap_p_values, fit_reverse_weibull
from bounds.estimates.sampled_maxima import Measured, Plan, sampled_maxima
from bounds.gradients import all_logits, gradient_norms, other_classes
from bounds.models import frozen
from bounds.sets.balls import LpBall
from bounds.sets.uniform import run_seed, stream_seed

DEAD = 1e-6  # a derivative is dead if it could not change the margin by this share within the ball
MASKED = 0.5  # of the points with a dead derivative, from which on there is no score
WIDE = 1.5  # an end point is not identified if its interval reaches beyond so many times the estimate
ASCENT = 15  # steps from the largest sampled value, to see whether there is more
SAME = 32  # maxima are the same if they differ by less than so many units of rounding


@isolated
def clever(
    model: nn.Module,
    x: Tensor,
    *,
    norm: float,
    radius: float,
    num_batches: int = 500,
    batch_size: int = 1024,
    targets: Tensor | None = None,
    low: Limit = None,
    high: Limit = None,
    chunk_size: int = 1024,
    resamples: int = 99,
    generator: torch.Generator | None = None,
) -> CleverEstimate:
    """CLEVER scores: estimates of the distance to another class, with what can be wrong with them.

    No guarantee: an estimate of a bound is no bound, and regions that no point fell into stay unseen, also where the
    status is ``"fitted"``. For every input, ``num_batches`` independent batches are drawn,
    uniform in the ball and the box. All targets share the points and the forward passes. A score depends on the model,
    the input, its place in ``x`` and the state of the generator.

    Args:
        model: maps (N, *D) to logits (N, K), row by row, differentiable; for one that is not, see
            :class:`bounds.StandIn`.
        x: (N, *D), floating, finite, inside the box, in the dtype of the model.
        norm: order of the norm of the distance, from 1 to ``math.inf``; gradients are measured in the dual norm.
        radius: R, of the ball in which points are drawn, and the largest score; above 0.
        num_batches: N_b, maxima that the distribution is fitted to.
        batch_size: N_s, points behind each maximum.
        targets: (N,) or (N, T) classes other than the predicted ones; None for all others (untargeted).
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        chunk_size: points in one forward pass, which bounds the memory.
        resamples: of the bootstrap behind the p-value; 0 for none.
        generator: source of the seed.

    Raises:
        InvalidInput: a bad argument, a target that is the predicted class.
        InvalidModel: the output is no (N, K) of finite logits.

    References:
        Weng et al. (2018), Evaluating the robustness of neural networks: an extreme value theory approach,
        arXiv:1801.10578, Algorithm 1; Goodfellow (2018), Gradient masking causes CLEVER to overestimate adversarial
        perturbation size, arXiv:1804.07870.
    """
    plan = make_plan(num_batches, batch_size, chunk_size, generator)
    ball = LpBall(checks.tensor("x", x).detach(), checks.positive("radius", radius), norm, low, high)
    checks.warn_of_another_unit(x, f"radius = {radius:g}", radius)

    def measure_of(label: int, others: Tensor, margin: Tensor) -> Callable[[Tensor], Measured]:
        limit = DEAD * margin / radius

        def measure(points: Tensor) -> Measured:
            norms = gradient_norms(model, points, label, others, ball.dual_norm)
            return Measured(norms, norms <= limit)

        return measure

    with frozen(model):
        return estimate(
            model, ball, targets, measure_of, lambda margin, start, found: margin / found, plan, resamples, order=1
        )


@isolated
def clever_curve(
    model: nn.Module,
    x: Tensor,
    *,
    norm: float,
    radii: Sequence[float],
    num_batches: int = 500,
    batch_size: int = 1024,
    targets: Tensor | None = None,
    low: Limit = None,
    high: Limit = None,
    chunk_size: int = 1024,
    resamples: int = 99,
    generator: torch.Generator | None = None,
) -> list[CleverEstimate]:
    """Scores for several radii, all from one seed; the other arguments are those of :func:`clever`.

    With the radius grow both the estimate of L and the cap of the score, so that the score first rises with R and then
    falls. A radius says something only where the score is below it.
    """
    checks.tensor("x", x)
    seed, radii = run_seed(generator), checks.several("radii", radii)
    return [
        clever(
            model,
            x,
            norm=norm,
            radius=radius,
            num_batches=num_batches,
            batch_size=batch_size,
            targets=targets,
            low=low,
            high=high,
            chunk_size=chunk_size,
            resamples=resamples,
            generator=torch.Generator(x.device).manual_seed(seed),
        )
        for radius in radii
    ]


# ------------------------------------------------------------------------------------------- shared with second order

Measure = Callable[[Tensor], Measured]


class Sampled(NamedTuple):
    """Largest values and gradients found around the inputs, float64.

    Attributes:
        maxima: (N, T, num_batches).
        dead: (N, T), share of the points with a vanishing derivative.
        start: (N, T), norms of the gradients at the inputs.
        ascended: (N, T), what ascent reaches.
    """

    maxima: Tensor
    dead: Tensor
    start: Tensor
    ascended: Tensor


def estimate(
    model: nn.Module,
    ball: LpBall,
    targets: Tensor | None,
    measure_of: Callable[[int, Tensor, Tensor], Measure],
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    plan: Plan,
    resamples: int,
    *,
    order: int,
) -> CleverEstimate:
    """Sample, fit and score all inputs.

    Args:
        model: frozen.
        ball: around all inputs.
        targets: as the caller gave them.
        measure_of: of label, targets (T,) and margins (T,), what is measured at points.
        score: of margins, norms of the gradients at the inputs, and end points, (N, T) each.
        plan: how much is sampled.
        resamples: of the bootstrap.
        order: of the derivatives measured; ascent is for gradients alone.
    """
    checks.at_least("resamples", resamples, 0)
    x = ball.center
    logits = all_logits(model, x, plan.chunk_size)
    label = logits.argmax(1)
    others = other_classes(targets, label, logits.shape[1])
    margin = logits.double().gather(1, label[:, None]) - logits.double().gather(1, others)
    sampled = _of_all_inputs(model, ball, (label, others, margin), measure_of, plan, ascent=order == 1)
    fits = _end_points(sampled, plan, resamples, torch.finfo(x.dtype).eps)
    full = score(margin, sampled.start, fits["target_lipschitz"]).nan_to_num(nan=0.0)  # 0 / 0: there is no margin
    radius = float(ball.radius)
    names = _statuses(sampled, fits, full >= radius)
    masked = sampled.dead >= MASKED
    scores = torch.where(masked, math.nan, full.clamp(max=radius))
    fits["target_lipschitz"] = torch.where(masked, math.nan, fits["target_lipschitz"])
    nearest = scores.nan_to_num(nan=-1.0).argmin(1, keepdim=True)

    def of_nearest(value: Tensor) -> Tensor:
        return value.gather(1, nearest).squeeze(1)

    return CleverEstimate(
        score=of_nearest(scores),
        lipschitz=of_nearest(fits["target_lipschitz"]),
        status=tuple(row[i] for row, i in zip(names, nearest.squeeze(1).tolist(), strict=True)),
        capped=of_nearest(scores >= radius),
        target=of_nearest(others),
        label=label,
        targets=others,
        target_score=scores,
        target_status=names,
        margin=margin,
        **sampled._asdict(),
        **fits,
        norm=ball.norm,
        radius=radius,
        num_batches=plan.num_batches,
        batch_size=plan.batch_size,
        order=order,
        seed=plan.seed,
    )


def make_plan(num_batches: int, batch_size: int, chunk_size: int, generator: torch.Generator | None) -> Plan:
    """The plan of what a caller asks for, with a fresh seed."""
    return Plan(
        checks.at_least("num_batches", num_batches, 2),
        checks.at_least("batch_size", batch_size, 1),
        checks.at_least("chunk_size", chunk_size, 1),
        run_seed(generator),
    )


def _of_all_inputs(
    model: nn.Module,
    ball: LpBall,
    classes: tuple[Tensor, Tensor, Tensor],
    measure_of: Callable[[int, Tensor, Tensor], Measure],
    plan: Plan,
    *,
    ascent: bool,
) -> Sampled:
    """Samples around all inputs, whose labels (N,), targets (N, T) and margins (N, T) are given."""
    empty = classes[2].new_zeros(0, classes[2].shape[1])
    parts = [Sampled(empty.new_zeros(*empty.shape, plan.num_batches), empty, empty, empty)]
    for row, (label, targets, margin) in enumerate(zip(*classes, strict=True)):
        measure = measure_of(int(label), targets, margin)
        parts.append(_of_one_input(model, ball.row(row), row, (label, targets), measure, plan, ascent=ascent))
    return Sampled(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _of_one_input(
    model: nn.Module,
    ball: LpBall,
    row: int,
    classes: tuple[Tensor, Tensor],
    measure: Measure,
    plan: Plan,
    *,
    ascent: bool,
) -> Sampled:
    """Samples around one input, and what ascent reaches there."""
    label, targets = classes
    maxima, dead, points = sampled_maxima(ball, row, measure, plan)
    start = gradient_norms(model, ball.center, int(label), targets, ball.dual_norm).double()
    reached = torch.full_like(start, math.nan)
    if ascent:
        # All targets at once, each from its own point.
        source = _source(plan, row, 1, points)
        reached = ascend(model, points, (label.expand(len(targets)), targets), ball, ASCENT, source)[None]
    return Sampled(maxima[None], dead[None], start, reached)


def _source(plan: Plan, row: int, stream: int, like: Tensor) -> torch.Generator:
    """Randomness of one input besides that of its batches."""
    return torch.Generator(like.device).manual_seed(stream_seed(plan.seed, row, plan.num_batches + stream))


def _end_points(sampled: Sampled, plan: Plan, resamples: int, eps: float) -> dict[str, Tensor]:
    """End points fitted to maxima, (N, T) each; where they have atoms, the largest value stands for it."""
    values = sampled.maxima.flatten(0, 1).sort(1).values  # (M, B)
    largest, ascended = values[:, -1], sampled.ascended.flatten()
    gaps = values.diff(dim=1) > SAME * eps * largest[:, None]
    distinct = 1 + gaps.sum(1)
    smooth = gaps[:, -1] & (2 * distinct > plan.num_batches)
    names = ("location", "lower", "upper", "shape", "distance", "p_value")
    found = {name: torch.full_like(largest, math.nan) for name in names}
    lipschitz, unknown = largest, torch.zeros_like(smooth)
    if smooth.any():
        fit = fit_reverse_weibull(values[smooth])
        for name in names[:-1]:
            found[name][smooth] = getattr(fit, name)
        refuted = ascended > found["upper"]
        unknown = refuted | (found["upper"] > WIDE * found["location"])
        found["upper"] = torch.where(refuted, math.inf, found["upper"])
        if resamples:
            source = _source(plan, 0, 0, values)
            found["p_value"][smooth] = bootstrap_p_values(fit, plan.num_batches, resamples, source)
        lipschitz = torch.where(~unknown & found["location"].isfinite(), found["location"], largest)
    found |= {"target_lipschitz": lipschitz, "largest": largest, "distinct": distinct, "unknown": unknown}
    return {name: value.view(sampled.dead.shape) for name, value in found.items()}


def _statuses(sampled: Sampled, fits: dict[str, Tensor], capped: Tensor) -> tuple[tuple[str, ...], ...]:
    """The status of each target: the first that applies."""
    conditions = [sampled.dead >= MASKED, fits.pop("unknown"), capped, fits["shape"].isnan()]
    first = torch.stack([*conditions, torch.ones_like(capped)]).int().argmax(0)
    known = list(STATUSES)
    return tuple(tuple(known[i] for i in row) for row in first.tolist())
