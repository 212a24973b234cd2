"""One perturbation for all inputs, and how often it changes predictions compared with random noise of its size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from bounds.sets.distances import distance
from bounds.sets.norms import clip, inner_side, length, project, steepest_ascent
from certify.attacks.common.formats import Format
from certify.attacks.common.gradients import gradient_of
from certify.attacks.common.passes import logits_of, probed
from certify.attacks.common.projections import pull_within
from certify.attacks.common.threat import BoundedThreat, Threat
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.studies.noise_accuracy import unit_noise
from certify.models import frozen, predictions
from certify.results import Record, share_interval

STEP = (0.2, 0.01)  # length of the first and the last step, in units of epsilon
MOMENTUM = 0.8  # weight of the gradients before
SOFTNESS = (1.0, 0.1)  # width of the clamp at the first and the last step, in units of the median clean margin


@dataclass(frozen=True, eq=False, kw_only=True)
class UniversalPerturbation:
    """One perturbation for all inputs, as found; how often it succeeds on others is a matter of :func:`fooling_rate`.

    Attributes:
        perturbation: (*D), to be added to inputs before they are clipped to the box.
        size: its norm, recomputed in float64, at most the budget.
        norm: order of the norm.
        training_rate: share of the inputs it was made on whose prediction it moves away from their label: no estimate
            of the rate on other inputs.
        passes: forward passes per input, and as many backward passes.
    """

    perturbation: Tensor
    size: float
    norm: float
    training_rate: float
    passes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class FoolingRate(Record):
    """Shares of predictions changed by one perturbation, and by random noise of the same norm.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        fooled: (N,) bool, True where the model predicts another class for the perturbed input.
        fooled_by_noise: (N,) bool, the same under noise drawn for that row, uniform among perturbations of that norm.
        size: norm of the perturbation.
        norm: order of the norm.
        subject: the classifier it speaks of.
    """

    fooled: Tensor
    fooled_by_noise: Tensor
    size: float
    norm: float
    subject: str = "base"

    @property
    def rate(self) -> float:
        """Share of the rows whose prediction the perturbation changes."""
        return float(self.fooled.double().mean())

    @property
    def noise_rate(self) -> float:
        """Share of the rows whose prediction the noise changes."""
        return float(self.fooled_by_noise.double().mean())

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Exact (Clopper-Pearson) interval for the rate on inputs drawn as these were, independent of the perturbation.

        It holds with probability at least ``1 - alpha``, and not for inputs that the perturbation was made on.
        """
        return share_interval(self.fooled, alpha)

    def noise_interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Confidence interval for the noise."""
        return share_interval(self.fooled_by_noise, alpha)


@isolated
def universal_perturbation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float,
    epsilon: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    steps: int = 100,
    restarts: int = 3,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> UniversalPerturbation:
    """One perturbation within a budget that changes the predictions of many inputs at once.

    Projected gradient ascent on the mean over the inputs of their margin, the lead of the best other class, clamped
    softly on both sides: inputs that are fooled already and those that are out of reach hardly count. The clamp becomes
    harder with the steps; the perturbation that fools most inputs of all steps and restarts is kept.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box; not the inputs that the rate is to be stated for.
        labels: (N,) classes to lead away from; what the model predicts if None, as in the definition.
        norm: 1, 2 or ``math.inf``.
        epsilon: largest norm of the perturbation, in units of the input, above 0.
        low: lower side of the box to which perturbed inputs are clipped: a number, a tensor that broadcasts to one
            input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True for the entries that may not move.
        steps: gradient steps over all inputs, for each restart.
        restarts: random starts.
        batch_size: inputs per pass.
        generator: source of random starts.

    Raises:
        InvalidInput: a bad argument; no input.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Moosavi-Dezfooli et al. (2017), Universal adversarial perturbations, equation (1), arXiv:1610.08401; Shafahi et
        al. (2020), Universal adversarial training, section 4, arXiv:1811.11304, for ascent on a clamped loss.
    """
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=checks.positive("epsilon", epsilon))
    threat.check(x)
    checks.at_least("number of inputs", len(x), 1)
    checks.at_least("batch_size", batch_size, 1)
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    generator = checks.generator(generator, x.device)
    x = x.detach()
    with frozen(model), torch.no_grad():
        model, num_classes = probed(model, x, batch_size)
        if labels is None:
            labels = predictions(model, x, batch_size)
            x, labels = x[labels >= 0], labels[labels >= 0]
        else:
            labels = checks.labels(labels, len(x), num_classes).to(x.device)
        climb = _Climb(model, x, labels, threat, batch_size)
        for _ in range(restarts):
            climb.run(unit_noise(climb.best, norm, "sphere", generator), steps)
    return UniversalPerturbation(
        perturbation=climb.best[0].to(x.dtype),
        size=float(distance(climb.best, torch.zeros_like(climb.best), norm)),
        norm=float(norm),
        training_rate=int(climb.most) / len(x),
        passes=climb.passes,
    )


class _Climb:
    """Ascent of one perturbation (1, *D) over all inputs, and the best one of all that were looked at."""

    def __init__(self, model: nn.Module, x: Tensor, labels: Tensor, threat: BoundedThreat, batch_size: int) -> None:
        self.model, self.threat, self.format = model, threat, Format(x.dtype)
        box = inner_side(threat.low, x, math.inf), inner_side(threat.high, x, -math.inf)
        self.box = [None if side is None else side.to(self.format.working) for side in box]
        x = x.to(self.format.working)
        self.batches = x.split(batch_size), labels.split(batch_size)
        self.best, self.passes = torch.zeros_like(x[:1]), 0
        self.most = labels.new_zeros(())  # inputs that it fools; on their device, so that no step waits
        mask = threat.frozen_features
        self.free = torch.ones_like(x[:1]) if mask is None else (~mask.to(x.device)).to(x.dtype).expand_as(x[:1])
        leads = torch.cat([self._lead(part, y) for part, y in zip(*self.batches, strict=True)])
        self.width = leads[leads.isfinite()].abs().median().clamp(min=torch.finfo(x.dtype).tiny)

    def _lead(self, points: Tensor, labels: Tensor) -> Tensor:
        """Lead of the best other class at inputs, (N,)."""
        return margin(logits_of(self.model, points, self.format)[0], labels)

    def run(self, start: Tensor, steps: int) -> None:
        """Steps of falling length from a random start."""
        epsilon = float(self.threat.epsilon)
        point, average = self._within(0.5 * epsilon * start), torch.zeros_like(start)
        for step in range(steps):
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            gradient = self._gradient(point, self.width * (SOFTNESS[1] + (SOFTNESS[0] - SOFTNESS[1]) * share))
            average = MOMENTUM * average + gradient
            size = epsilon * (STEP[1] + (STEP[0] - STEP[1]) * share)
            point = self._within(point + size * self._direction(average))
        self._gradient(point, self.width)

    def _gradient(self, point: Tensor, width: Tensor) -> Tensor:
        """Gradient of the sum of clamped margins, (1, *D); the point that fools most inputs is remembered."""
        fooled, gradient = torch.zeros_like(self.most), torch.zeros_like(point)
        for x, labels in zip(*self.batches, strict=True):
            moved = point.clone().requires_grad_()
            with torch.enable_grad():
                lead = self._lead(clip(x + moved, *self.box), labels)
                gradient += gradient_of((lead / width).sigmoid(), moved).nan_to_num(0.0, 0.0, 0.0)
            fooled += (lead > 0).sum()
        self.passes += 1
        self.best = torch.where(fooled > self.most, point, self.best)
        self.most = torch.maximum(fooled, self.most)
        return gradient * self.free

    def _direction(self, gradient: Tensor) -> Tensor:
        """The steepest step of length 1; in l_1 along the gradient, since the projection makes it sparse."""
        if self.threat.norm != 1:
            return steepest_ascent(gradient, self.threat.norm)
        direction = steepest_ascent(gradient, 2)
        return direction / length(direction, 1).clamp(min=torch.finfo(gradient.dtype).tiny)

    def _within(self, point: Tensor) -> Tensor:
        """The nearest perturbation within the budget, as float64 measures it."""
        epsilon = self.threat.budgets(point)
        nearest = project(point * self.free, epsilon.to(point.dtype), self.threat.norm)
        origin = torch.zeros_like(point)
        nearest = pull_within(nearest, origin, epsilon, self.threat.norm)
        return self.format.within(nearest, origin, epsilon, self.threat.norm)


@isolated
def fooling_rate(
    model: nn.Module,
    x: Tensor,
    perturbation: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> FoolingRate:
    """Share of predictions that a perturbation changes, next to random noise of the same norm.

    Changed predictions are counted, not errors: the labels of the inputs do not matter.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating, finite, inside the box; none that the perturbation was made on.
        perturbation: (*D), added to every input before it is clipped to the box.
        norm: 1, 2 or ``math.inf``; that in which the noise is as large as the perturbation.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        batch_size: inputs per pass.
        generator: source of the noise.

    Raises:
        InvalidInput: a bad argument; no input.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Moosavi-Dezfooli et al. (2017), Universal adversarial perturbations, arXiv:1610.08401.
    """
    Threat(norm, low, high).check(x)
    checks.at_least("number of inputs", len(x), 1)
    checks.at_least("batch_size", batch_size, 1)
    if checks.tensor("perturbation", perturbation).shape != x.shape[1:]:
        raise InvalidInput(
            f"perturbation must have the shape of one input, {tuple(x.shape[1:])}, got {tuple(perturbation.shape)}"
        )
    if not perturbation.isfinite().all():
        raise InvalidInput("perturbation must be finite, but holds NaN or infinity")
    checks.generator(generator)
    x, added = x.detach(), perturbation.detach().to(x)[None]
    size = distance(added, torch.zeros_like(added), norm)
    box = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    with frozen(model), torch.no_grad():
        model, _ = probed(model, x, batch_size)
        clean = predictions(model, x, batch_size)
        fooled, by_noise = [], []
        for part in x.split(batch_size):
            precise = part.to(Format(x.dtype).working)
            noise = unit_noise(precise, norm, "sphere", generator) * per_row(size.to(precise.dtype), part)
            fooled.append(predictions(model, clip(part + added, *box), batch_size))
            by_noise.append(predictions(model, clip((precise + noise).to(x.dtype), *box), batch_size))
    changed = [(other != clean) & (other >= 0) & (clean >= 0) for other in (torch.cat(fooled), torch.cat(by_noise))]
    return FoolingRate(label=clean, fooled=changed[0], fooled_by_noise=changed[1], size=float(size), norm=float(norm))
