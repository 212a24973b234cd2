"""Minimum-norm attack: the smallest perturbation found that changes a prediction.

Projected gradient ascent on a margin inside a ball whose radius follows each input: it shrinks while the attack
succeeds and grows while it fails (in the manner of Rony et al. 2019, arXiv:1811.09600, and Pintor et al. 2021,
arXiv:2102.12827). Restarts aim at different classes. A step onto the linearised boundary (Croce, Hein 2020,
arXiv:1907.02044) and a bisection make what was found exact to the last digits.
"""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from certify.attacks.geometry import clip, dual_length, inner_side, length, per_row, project, steepest_ascent
from certify.attacks.search import Search
from certify.models import frozen, predictions, probe
from certify.results import Witness

MOST_TARGETS = 9  # classes considered as the next aim, at most
PATIENCE = 2  # failures in a row after which a descent goes back to its nearest success
SHRINK = (0.2, 0.001)  # share by which a radius changes, at the first and at the last step
STEP = {math.inf: (0.5, 0.02), 2.0: (0.2, 0.02)}  # length of a step in units of the radius, likewise
BISECTIONS = 20
POLISHES = 2
BEYOND = 1 + 1e-5  # a step onto the boundary ends behind it, whatever the rounding
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
        generator: source of random starts, and of random points that are tried where no search succeeds.

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
    checks.at_least("batch_size", batch_size, 1)
    x = x.detach()
    box = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        labels = checks.labels(labels, len(x), num_classes).to(x.device)
        clean = predictions(model, x, batch_size) if len(x) else labels
        adversarial, queries = x.clone(), 2 * min(len(x), 1)
        searched = ((clean == labels) | (clean < 0)).nonzero().squeeze(1)  # the others are wrong as they are
        for rows in searched.split(batch_size) if len(searched) else ():
            search = Search(model, x[rows], labels[rows], float(norm), *box, generator)
            adversarial[rows] = _attack(search, num_classes, steps, restarts)
            queries = max(queries, 2 + search.queries)
        predicted = predictions(model, adversarial, batch_size) if len(x) else labels
    inside = (clip(adversarial, *box) == adversarial).flatten(1).all(1)
    found = inside & (predicted != labels) & (predicted >= 0)
    return Witness(
        label=clean,
        distance=torch.where(found, length(adversarial.double() - x.double(), norm), math.inf),
        adversarial=torch.where(per_row(found, x), adversarial, x),
        found=found,
        adversarial_label=torch.where(found, predicted, clean),
        norm=float(norm),
        queries=queries,
        method="minimal_perturbation",
    )


def _attack(search: Search, num_classes: int, steps: int, restarts: int) -> Tensor:
    """The nearest adversarial points found, (N, *D); x where nothing was found."""
    tried = nn.functional.one_hot(search.labels, num_classes).bool()
    for restart in range(restarts):
        # First towards whatever class comes nearest, then towards classes that no restart has reached yet, at last
        # from the best point. Rows without any success start from random points.
        if restart == 0:
            target, start = None, search.x
        elif restart < restarts - 1:
            target, start = _nearest_class(search, tried), search.random_start()
            tried = tried.scatter(1, target[:, None], True)
        else:
            missing = per_row(search.distance.isinf(), search.x)
            target, start = None, torch.where(missing, search.random_point(), search.best)
        _restart(search, target, start, steps, detour=0 < restart == restarts - 1)
        tried = tried.scatter(1, search.reached[:, None], True)
        if restart == 0 and search.distance.isinf().any():
            _try_without_gradients(search)
    for _ in range(POLISHES):
        _bisect(search, _onto_boundary(search), steps=BISECTIONS // 3)
    _bisect(search, search.x, steps=BISECTIONS)
    return search.best


def _restart(search: Search, target: Tensor | None, start: Tensor, steps: int, *, detour: bool) -> None:
    """One search, in both norms where the search is in l_2 or takes a ``detour``.

    Sign steps cross regions of vanishing gradients, in which a network trained against l_infinity attacks holds
    up a descent along the gradient itself; that one, in turn, leaves the corners in which sign steps end. Minima
    in l_2 are often sparse, so half of that descent starts with the large entries made larger.
    """
    third = steps // 3
    if search.norm == 2:
        half = (steps - third) // 2
        start = _descend(search, math.inf, target, start, third)
        start = _descend(search, 2.0, target, start, steps - third - half)
        delta = start - search.x
        sharp = steepest_ascent(delta * delta.abs(), 2.0) * per_row(length(delta, 2.0), delta)
        _descend(search, 2.0, target, search.inside(search.x + sharp), half)
    else:
        first = third if detour else 0
        start = _descend(search, 2.0, target, start, first)
        _descend(search, math.inf, target, start, steps - first)


def _nearest_class(search: Search, tried: Tensor) -> Tensor:
    """Per row, the class whose boundary, linearised at the best point, is nearest to x, (N,); tried ones last."""
    logits = search.logits(search.best)
    ranked = logits.masked_fill(tried, torch.finfo(logits.dtype).min).scatter(1, search.labels[:, None], -math.inf)
    targets = ranked.topk(min(MOST_TARGETS, logits.shape[1] - 1), dim=1).indices
    distances = []
    for target in targets.T:
        level, gradient = _linearised(search, target)
        distances.append(level / dual_length(gradient, search.norm))
    nearest = torch.stack(distances, 1).nan_to_num(FAR, FAR, FAR).masked_fill(tried.gather(1, targets), FAR)
    return targets.gather(1, nearest.argmin(1, keepdim=True)).squeeze(1)


def _linearised(search: Search, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """The boundary to a class, linearised at the best point: perturbations d with <gradient, d> = level, (N,)."""
    margin, gradient = search.margin_and_gradient(search.best, target)
    return (gradient * (search.best - search.x)).flatten(1).sum(1) - margin, gradient


def _descend(search: Search, norm: float, target: Tensor | None, start: Tensor, steps: int) -> Tensor:
    """Projected gradient ascent in a ball whose radius follows each row; its nearest success, or where it ends."""
    points, nearest = start, start
    distance = torch.full_like(search.distance, math.inf)
    radius, failures = distance, torch.zeros_like(distance)
    for step in range(steps):
        margin, gradient = search.margin_and_gradient(points, target)
        size, success = length(points - search.x, norm), margin > 0
        if step == 0:  # the boundary is about as far as the linearised model says
            ahead = (-margin / dual_length(gradient, norm)).nan_to_num(FAR, FAR, FAR).clamp(min=0)
            radius = torch.minimum(size + ahead, torch.maximum(search.extent(norm), size))
        better = success & (size < distance)
        distance = torch.where(better, size, distance)
        nearest = torch.where(per_row(better, points), points, nearest)
        # A row that keeps failing goes back to its nearest success.
        failures = torch.where(success, 0, failures + 1)
        lost = (failures > PATIENCE) & distance.isfinite()
        failures = torch.where(lost, 0, failures)
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        change = SHRINK[1] + (SHRINK[0] - SHRINK[1]) * decay
        grown = radius * (1 + change * torch.where(distance.isfinite(), 1.0, 2.0))
        radius = torch.where(success, distance * (1 - change), torch.minimum(grown, distance))
        # A coordinate at the edge of the box cannot follow a gradient that points outward.
        moved = search.inside(torch.nextafter(points, torch.full_like(points, math.inf).copysign(gradient)))
        direction = steepest_ascent(torch.where(moved == points, 0.0, gradient), norm)
        rate = STEP[norm][1] + (STEP[norm][0] - STEP[norm][1]) * decay
        stepped = torch.where(per_row(lost, points), nearest, points + direction * per_row(radius * rate, points))
        points = search.inside(search.x + project(stepped - search.x, radius, norm))
    return torch.where(per_row(distance.isfinite(), points), nearest, points)


def _try_without_gradients(search: Search) -> None:
    """For rows without any success: an input of the batch with another label, then random points."""
    differs = search.labels[None, :] != search.labels[:, None]
    for points in (search.x[differs.int().argmax(1)], *(search.random_point() for _ in range(RANDOM_POINTS))):
        search.logits(points)
    _bisect(search, search.x, steps=BISECTIONS)


def _onto_boundary(search: Search) -> Tensor:
    """Just behind the point of the box nearest to x on the boundary linearised at the best point, (N, *D)."""
    level, gradient = _linearised(search, None)
    direction = steepest_ascent(gradient, search.norm)
    # The nearest point is a step along the direction, clipped to the box. Its length is found by bisection.
    low = torch.zeros_like(level)
    high = 1e3 * search.distance.nan_to_num(posinf=0.0)
    for _ in range(2 * BISECTIONS):
        middle = (low + high) / 2
        moved = search.inside(search.x + per_row(middle, direction) * direction)
        met = (gradient * (moved - search.x)).flatten(1).sum(1) >= level
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    return search.inside(search.x + per_row(BEYOND * high, direction) * direction)


def _bisect(search: Search, near: Tensor, steps: int) -> None:
    """Walk from the best points to ``near`` as long as the prediction stays wrong."""
    far = search.best
    low = torch.zeros_like(search.distance)
    high = torch.where(search.wrong(near), 0.0, 1.0)
    for _ in range(steps):
        middle = (low + high) / 2
        wrong = search.wrong(search.inside(near + per_row(middle, far) * (far - near)))
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
