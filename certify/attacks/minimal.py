"""Minimum-norm attack: the smallest perturbation found that changes a prediction.

Projected gradient ascent on a margin inside a ball whose radius follows each input: it shrinks while the attack
succeeds and grows while it fails (in the manner of Rony et al. 2019, arXiv:1811.09600, and Pintor et al. 2021,
arXiv:2102.12827). Restarts aim at different classes. Steps along the linearised boundary (Croce, Hein 2020,
arXiv:1907.02044) and a bisection polish what was found.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from certify.attacks.geometry import clip, dual_length, inner_side, length, per_row, project, steepest_ascent
from certify.models import frozen, probe
from certify.results import Witness

MOST_TARGETS = 9  # classes considered as the next aim, at most
PATIENCE = 2  # failures in a row after which a descent goes back to its nearest success
SHRINK = (0.2, 0.001)  # share by which a radius changes, at the first and at the last step
STEP = {math.inf: (0.5, 0.02), 2.0: (0.2, 0.02)}  # length of a step in units of the radius, likewise
BISECTIONS = 24
RANDOM_POINTS = 20
FAR = 1e9  # stands for a distance that is infinite or not a number


def minimal_perturbation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    steps: int = 100,
    restarts: int = 3,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The nearest misclassified input found for each row: an upper bound on its distance to the boundary.

    Every witness is run through the model once more after the search. It counts as found only if the model
    misclassifies exactly the stored tensor and the tensor lies in the box; its distance is recomputed in
    float64 from the stored tensors. That nothing is found proves nothing.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 2 or ``math.inf``.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        steps: gradient steps of each restart.
        restarts: number of searches per input, towards different classes.
        batch_size: inputs attacked at once.
        generator: source of the random points that are tried where no search succeeds.

    Returns:
        A witness; distance 0 where the clean input is misclassified, infinite where nothing was found.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    if norm not in (2, math.inf):
        raise InvalidInput(f"norm must be 2 or math.inf, got {norm}")
    checks.inputs(x, low, high)
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    x = x.detach()
    with frozen(model):
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        labels = checks.labels(labels, len(x), num_classes).to(x.device)
        parts = [
            _attack(_Search(model, part, label, float(norm), low, high, generator), steps, restarts)
            for part, label in zip(x.split(batch_size), labels.split(batch_size), strict=True)
            if len(part)
        ]
    if not parts:
        empty = _Search(model, x, labels, float(norm), low, high, generator)
        return _witness(empty, clean=labels, predicted=labels, found=labels.bool())
    return Witness(
        label=torch.cat([part.label for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        adversarial=torch.cat([part.adversarial for part in parts]),
        found=torch.cat([part.found for part in parts]),
        adversarial_label=torch.cat([part.adversarial_label for part in parts]),
        norm=float(norm),
        queries=max(part.queries for part in parts),
        method="minimal_perturbation",
    )


@dataclass
class _Search:
    """One batch under attack: the model, the box, and the best perturbation of each row so far."""

    model: nn.Module
    x: Tensor
    labels: Tensor
    norm: float
    low: Limit
    high: Limit
    generator: torch.Generator | None
    queries: int = 0
    best: Tensor = field(init=False)  # (N, *D) adversarial points, x where there is none yet
    distance: Tensor = field(init=False)  # (N,) their distance, infinite where there is none yet

    def __post_init__(self) -> None:
        self.low, self.high = inner_side(self.low, self.x, math.inf), inner_side(self.high, self.x, -math.inf)
        self.best = self.x
        self.distance = self.x.new_full((len(self.x),), math.inf)

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K), counted as one query of each row; successes are remembered."""
        logits: Tensor = self.model(points)
        self.queries += 1
        found = points.detach()
        distance = length(found - self.x, self.norm)
        wrong = (logits.detach().argmax(1) != self.labels) & logits.detach().isfinite().all(1)
        better = wrong & (distance < self.distance)
        self.distance = torch.where(better, distance, self.distance)
        self.best = torch.where(per_row(better, found), found, self.best)
        return logits

    def margin_and_gradient(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logit of the target (the runner-up if None) minus that of the label, (N,), and its gradient."""
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(points)
            own = logits.gather(1, self.labels[:, None]).squeeze(1)
            if target is None:
                other = logits.scatter(1, self.labels[:, None], -math.inf).amax(1)
            else:
                other = logits.gather(1, target[:, None]).squeeze(1)
            (gradient,) = torch.autograd.grad((other - own).sum(), points)
        return (other - own).detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

    def inside(self, points: Tensor) -> Tensor:
        """The nearest points of the box."""
        return clip(points, self.low, self.high)

    def random_point(self) -> Tensor:
        """A point between x and a random point of the box, or of the range of the data where it is open, (N, *D)."""
        low = self.x.amin(0) if self.low is None else self.low
        high = self.x.amax(0) if self.high is None else self.high
        target = low + torch.empty_like(self.x).uniform_(generator=self.generator) * (high - low)
        share = torch.empty_like(self.distance).uniform_(generator=self.generator)
        return self.inside(self.x + per_row(share, target) * (target - self.x))

    def extent(self, norm: float) -> Tensor:
        """The largest distance worth looking at, (N,): to the far corner of the box, or of the data if it is open."""
        low = self.x.amin(0) if self.low is None else self.low
        high = self.x.amax(0) if self.high is None else self.high
        reach = torch.maximum((self.x - low).abs(), (high - self.x).abs())
        return length(reach, norm).clamp(min=1e-3)


def _attack(search: _Search, steps: int, restarts: int) -> Witness:
    with torch.no_grad():
        logits = search.logits(search.x)
        clean = logits.argmax(1)
        avoided = torch.zeros_like(logits, dtype=torch.bool).scatter(1, search.labels[:, None], True)
        for restart in range(restarts):
            # First towards whatever class comes nearest, then towards classes that no restart has reached yet, at
            # last from the best point. Rows without any success start from random points.
            last = restart == restarts - 1
            target = None if restart == 0 or last else _nearest_class(search, avoided)
            origin = search.best if last and restart else search.x
            found = search.distance.isfinite() | (restart == 0)
            start = torch.where(per_row(found, origin), origin, search.random_point())
            _restart(search, target, start, steps, both=search.norm == 2 or (last and restart > 0))
            if restart == 0:
                _try_other_inputs(search, clean)
            reached = target if target is not None else search.logits(search.best).argmax(1)
            avoided = avoided.scatter(1, reached[:, None], True)
        for _ in range(max(steps // 10, 1)):
            _step_along_boundary(search)
        _bisect(search, search.x, search.best)
        return _recheck(search, clean)


def _restart(search: _Search, target: Tensor | None, start: Tensor, steps: int, *, both: bool) -> None:
    """One descent; if ``both``, its first third goes in the other norm.

    Sign steps cross regions of vanishing gradients, in which a network trained against l_infinity attacks holds
    up a descent along the gradient itself; that one, in turn, leaves the corners in which sign steps end.
    """
    first = steps // 3 if both else 0
    norm = search.norm if not both else 2.0 if search.norm == math.inf else math.inf
    margin, gradient = search.margin_and_gradient(search.x, target)
    linear = (-margin / dual_length(gradient, norm)).nan_to_num(FAR, FAR, FAR).clamp(min=0)
    reach = torch.maximum(torch.minimum(linear, search.extent(norm)), length(start - search.x, norm))
    if both:
        start = _descend(search, norm, target, start, reach, first)
        reach = length(start - search.x, search.norm)
    _descend(search, search.norm, target, start, reach, steps - first)


def _nearest_class(search: _Search, avoided: Tensor) -> Tensor:
    """Per row, the class not to be avoided whose boundary, linearised at the best point, is nearest to x."""
    logits = search.logits(search.best).masked_fill(avoided, -math.inf)
    candidates = logits.topk(min(MOST_TARGETS, logits.shape[1] - 1), dim=1).indices
    distances = []
    for target in candidates.T:
        margin, gradient = search.margin_and_gradient(search.best, target)
        level = (gradient * (search.best - search.x)).flatten(1).sum(1) - margin
        distances.append(level / dual_length(gradient, search.norm))
    ranked = torch.stack(distances, 1).nan_to_num(FAR, FAR, FAR).masked_fill(avoided.gather(1, candidates), FAR)
    return candidates.gather(1, ranked.argmin(1, keepdim=True)).squeeze(1)


def _descend(search: _Search, norm: float, target: Tensor | None, start: Tensor, radius: Tensor, steps: int) -> Tensor:
    """Projected gradient ascent in a ball whose radius follows each row; its nearest success, or where it ends."""
    points, nearest = start, start
    distance = torch.full_like(radius, math.inf)
    failures = torch.zeros_like(radius)
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        margin, gradient = search.margin_and_gradient(points, target)
        success = margin > 0
        length_now = length(points - search.x, norm)
        better = success & (length_now < distance)
        distance = torch.where(better, length_now, distance)
        nearest = torch.where(per_row(better, points), points.detach(), nearest)
        # A row that keeps failing goes back to its nearest success.
        failures = torch.where(success, 0, failures + 1)
        lost = (failures > PATIENCE) & distance.isfinite()
        failures = torch.where(lost, 0, failures)
        change = SHRINK[1] + (SHRINK[0] - SHRINK[1]) * decay
        grown = radius * (1 + change * torch.where(distance.isfinite(), 1.0, 2.0))
        radius = torch.where(success, torch.minimum(radius, distance) * (1 - change), grown)
        radius = torch.minimum(radius, distance)
        # A coordinate at the edge of the box cannot follow a gradient that points outward.
        moved = search.inside(torch.nextafter(points, torch.full_like(points, math.inf).copysign(gradient)))
        direction = steepest_ascent(torch.where(moved == points, 0.0, gradient), norm)
        rate = STEP[norm][1] + (STEP[norm][0] - STEP[norm][1]) * decay
        origin = torch.where(per_row(lost, points), nearest, points)
        ahead = origin + torch.where(per_row(lost, points), 0.0, direction) * per_row(radius * rate, points)
        points = search.inside(search.x + project(ahead - search.x, radius, norm))
    return torch.where(per_row(distance.isfinite(), points), nearest, points)


def _try_other_inputs(search: _Search, clean: Tensor) -> None:
    """What needs no gradient: another input of the batch that is classified differently, then random points."""
    differs = clean[None, :] != search.labels[:, None]
    other = search.x[differs.int().argmax(1)]
    _bisect(search, search.x, torch.where(per_row(search.distance.isfinite(), other), search.best, other))
    for _ in range(RANDOM_POINTS):
        search.logits(search.random_point())


def _step_along_boundary(search: _Search) -> None:
    """Replace each best point by the nearest point of the boundary linearised there, if that is adversarial."""
    margin, gradient = search.margin_and_gradient(search.best, None)
    level = (gradient * (search.best - search.x)).flatten(1).sum(1) - margin
    direction = steepest_ascent(gradient, search.norm)
    reach = per_row(2 * search.distance.nan_to_num(posinf=0.0), gradient)
    low, high = torch.zeros_like(reach), reach
    for _ in range(BISECTIONS):  # how far along the direction, clipped to the box, the hyperplane is met
        middle = (low + high) / 2
        moved = search.inside(search.x + middle * direction) - search.x
        met = per_row((gradient * moved).flatten(1).sum(1) >= level, gradient)
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    step = search.inside(search.x + high * direction) - search.x
    for overshoot in (1.0, 1.01, 1.05):
        search.logits(search.inside(search.x + overshoot * step))
    _bisect(search, search.x, search.best, steps=4)


def _bisect(search: _Search, near: Tensor, far: Tensor, steps: int = BISECTIONS) -> None:
    """Walk from ``far``, where adversarial, towards ``near`` while the prediction stays wrong."""
    low = torch.zeros_like(search.distance)
    high = torch.ones_like(search.distance)
    search.logits(far)
    for _ in range(steps):
        middle = (low + high) / 2
        points = search.inside(near + per_row(middle, far) * (far - near))
        wrong = search.logits(points).argmax(1) != search.labels
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)


def _recheck(search: _Search, clean: Tensor) -> Witness:
    """Run the stored tensors once more and keep what the model really misclassifies inside the box."""
    adversarial = torch.where(per_row(search.distance.isfinite(), search.x), search.best, search.x)
    logits = search.logits(adversarial)
    predicted = logits.argmax(1)
    inside = (search.inside(adversarial) == adversarial).flatten(1).all(1)
    found = inside & (predicted != search.labels) & logits.isfinite().all(1)
    search.best = torch.where(per_row(found, adversarial), adversarial, search.x)
    return _witness(search, clean, predicted, found)


def _witness(search: _Search, clean: Tensor, predicted: Tensor, found: Tensor) -> Witness:
    distance = length(search.best.double() - search.x.double(), search.norm)
    return Witness(
        label=clean,
        distance=torch.where(found, distance, math.inf),
        adversarial=search.best,
        found=found,
        adversarial_label=predicted,
        norm=search.norm,
        queries=search.queries,
        method="minimal_perturbation",
    )
