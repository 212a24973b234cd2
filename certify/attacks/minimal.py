"""Minimum-norm attack: the smallest perturbation found that changes a prediction.

Projected gradient ascent on a margin inside a ball whose radius follows each input: it shrinks while the attack
succeeds and grows while it fails (in the manner of Rony et al. 2019, arXiv:1811.09600, and Pintor et al. 2021,
arXiv:2102.12827). Restarts differ in their start and in the class they aim at. Steps along the linearised
boundary (Croce, Hein 2020, arXiv:1907.02044) and a bisection polish what was found.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from certify.attacks.geometry import clip, dual_length, length, per_row, project, steepest_ascent
from certify.models import frozen, probe
from certify.results import Witness

MOST_TARGETS = 9  # classes aimed at, at most, nearest first
BISECTIONS = 24


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
        restarts: number of searches per input, from different starts.
        batch_size: inputs attacked at once.
        generator: source of the random starts.

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
        labels = checks.labels(labels, len(x), probe(model, x) if len(x) else 2).to(x.device)
        parts = [
            _attack(_Search(model, part, label, float(norm), low, high, generator), steps, restarts)
            for part, label in zip(x.split(batch_size), labels.split(batch_size), strict=True)
            if len(part)
        ]
    queries = max((part.queries for part in parts), default=0)
    joined = {
        name: torch.cat([getattr(part, name) for part in parts]) if parts else empty
        for name, empty in {
            "label": labels,
            "distance": x.new_zeros(0, dtype=torch.float64),
            "adversarial": x,
            "found": labels.bool(),
            "adversarial_label": labels,
        }.items()
    }
    return Witness(**joined, norm=float(norm), queries=queries, method="minimal_perturbation")


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
        self.best = self.x.clone()
        self.distance = self.x.new_full((len(self.x),), math.inf)

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K), counted as one query of each row; successes are remembered."""
        logits: Tensor = self.model(points)
        self.queries += 1
        distance = length(points.detach() - self.x, self.norm)
        better = (logits.detach().argmax(1) != self.labels) & (distance < self.distance)
        self.distance = torch.where(better, distance, self.distance)
        self.best = torch.where(per_row(better, points), points.detach(), self.best)
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
        return clip(points, self.low, self.high)

    def random_point(self, radius: Tensor) -> Tensor:
        """A random point of the box within ``radius`` (N,) of x."""
        noise = torch.empty_like(self.x).uniform_(-1, 1, generator=self.generator)
        if self.norm == 2:
            noise = noise / per_row(length(noise, 2), noise).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.inside(self.x + noise * per_row(radius, noise))


def _attack(search: _Search, steps: int, restarts: int) -> Witness:
    with torch.no_grad():
        clean = search.logits(search.x).argmax(1)
        targets, estimate = _rank_targets(search)
        _start_from_other_inputs(search, clean)
        for restart in range(restarts):
            # First towards the nearest class by linearisation, then untargeted, then towards the next classes.
            rank = 0 if restart == 0 else restart - 1
            target = None if restart == 1 else targets[:, rank % targets.shape[1]]
            _descend(search, target, estimate, steps, start=restart)
        for _ in range(max(steps // 10, 1)):
            _step_along_boundary(search)
        _bisect(search, search.x, search.best)
        return _recheck(search, clean)


def _rank_targets(search: _Search) -> tuple[Tensor, Tensor]:
    """Classes in order of the linearised distance to their boundary (N, T), and the least distance (N,)."""
    logits = search.logits(search.x).scatter(1, search.labels[:, None], -math.inf)
    candidates = logits.topk(min(MOST_TARGETS, logits.shape[1] - 1), dim=1).indices
    distances = []
    for target in candidates.T:
        margin, gradient = search.margin_and_gradient(search.x, target)
        distances.append(-margin / dual_length(gradient, search.norm))
    ranked = torch.stack(distances, 1).nan_to_num(math.inf, math.inf).clamp(min=0).sort(1)
    return candidates.gather(1, ranked.indices), ranked.values[:, 0]


def _start_from_other_inputs(search: _Search, clean: Tensor) -> None:
    """Fallback start: for each row the nearest input of the batch with another prediction, then random points."""
    flat = search.x.flatten(1)
    gaps = torch.cdist(flat, flat, p=search.norm)
    gaps.masked_fill_(clean[None, :] == search.labels[:, None], math.inf)
    nearest = gaps.argmin(1)
    _bisect(search, search.x, search.x[nearest], steps=10)
    for scale in (0.1, 0.5, 1.0):
        search.logits(search.random_point(torch.full_like(search.distance, scale) * _extent(search)))


def _extent(search: _Search) -> float:
    """Size of the box, or of the data where a side is open, in the norm of the search."""
    low = search.x.amin() if search.low is None else torch.as_tensor(search.low).min()
    high = search.x.amax() if search.high is None else torch.as_tensor(search.high).max()
    width = float(high - low) or 1.0
    return width if search.norm == math.inf else width * math.sqrt(search.x[0].numel())


def _descend(search: _Search, target: Tensor | None, estimate: Tensor, steps: int, start: int) -> None:
    """One restart of projected gradient ascent under a radius that follows each row."""
    known = search.distance.isfinite()
    radius = torch.where(known, search.distance, estimate.clamp(max=_extent(search)))
    if start == 0:
        radius, points = torch.minimum(radius, 1.05 * estimate.nan_to_num(posinf=_extent(search))), search.x
    elif start == 1:
        points = search.best
    else:
        points = search.random_point(radius / 2)
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        margin, gradient = search.margin_and_gradient(points, target)
        success = margin > 0
        change = 0.001 + 0.1 * decay
        grown = radius * (1 + change * torch.where(search.distance.isfinite(), 1.0, 2.0))
        radius = torch.where(success, torch.minimum(radius, search.distance) * (1 - change), grown)
        radius = torch.minimum(radius, search.distance).clamp(max=2 * _extent(search))
        # A coordinate at the edge of the box cannot follow a gradient that points outward.
        moved = search.inside(points + torch.finfo(points.dtype).eps * gradient.sign())
        direction = steepest_ascent(torch.where(moved == points, 0.0, gradient), search.norm)
        ahead = points + direction * per_row(radius * (0.02 + decay), points)
        points = search.inside(search.x + project(ahead - search.x, radius, search.norm))


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
    predicted = search.logits(adversarial).argmax(1)
    inside = (search.inside(adversarial) == adversarial).flatten(1).all(1)
    found = inside & (predicted != search.labels)
    distance = length(adversarial.double() - search.x.double(), search.norm)
    return Witness(
        label=clean,
        distance=torch.where(found, distance, math.inf),
        adversarial=torch.where(per_row(found, adversarial), adversarial, search.x),
        found=found,
        adversarial_label=predicted,
        norm=search.norm,
        queries=search.queries,
        method="minimal_perturbation",
    )
