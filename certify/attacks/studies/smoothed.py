"""Attacks on a smoothed classifier: witnesses that its certificates can be compared with.

The search follows the gradient of the logarithm of the mean softmax probability under noise draws that all steps share.
Whether the smoothed classifier errs at a point that it found is a question about votes, which fresh draws answer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import in_deployed_precision
from bounds.numerics import per_row
from bounds.sets.distances import distance
from bounds.sets.norms import clip
from certify.attacks.common.formats import Format
from certify.attacks.common.gradients import symptoms
from certify.attacks.common.streams import Streams
from certify.attacks.common.threat import BoundedThreat, Threat
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.square import square_steps
from certify.attacks.fixed_budget.state import FixedBudgetState, Outcome
from certify.attacks.search.default_search import descend_with_restarts
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.without_gradients import boundary_walk_steps
from certify.attacks.studies.smoothed_votes import Votes, parts
from certify.models import frozen
from certify.results import AttackedAccuracy, Witness
from certify.smoothing.classifiers.classifier import SmoothedClassifier

FARTHER = (1.0, 1.25, 1.5, 2.0, 3.0)  # how far towards and beyond the point found by gradients the votes are asked
HALVINGS = 7  # of the way between the last point that was not clearly misclassified and the first that was
OUTWARD = (1.0, 1.01, 1.02, 1.05, 1.1, 1.25)  # from where they end: points at which fresh draws decide
SHARES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.0)  # of a perturbation, for one on the grid that is not too long
BLIND_WALK, BLIND_QUERIES = (6, 20), 200  # passes without gradients, where these say nothing
CROSSING = 2.5  # length of all steps at a fixed budget together, in units of epsilon


@dataclass(frozen=True, eq=False, kw_only=True)
class SmoothedWitness(Witness):
    """Inputs at which a smoothed classifier errs, with the probability that one of them is none.

    Attributes:
        abstained: (N,) bool, True where the prediction of the clean input is an abstention; ``label`` is then only
            the class with the most votes.
        alpha: probability, per row, that ``found`` is wrong: that the smoothed classifier returns the given label for
            ``adversarial``. Points at which the prediction abstains do not count as found.
        n: noise draws of each prediction.
        draws: noise draws behind each gradient.
    """

    abstained: Tensor
    alpha: float
    n: int
    draws: int


@dataclass(frozen=True, eq=False, kw_only=True)
class SmoothedAttackedAccuracy(AttackedAccuracy):
    """The accuracy that is left of a smoothed classifier after an attack at a fixed budget.

    ``misclassified`` includes the rows whose clean prediction is an abstention. ``margin`` and ``blind`` are about
    the logarithms of the mean softmax probabilities that the attack followed.

    Attributes:
        abstained: (N,) bool, True where the prediction of the clean input is an abstention.
        alpha: probability, per row, that ``found`` is wrong; abstentions do not count as found.
        n: noise draws of each prediction.
        draws: noise draws behind each gradient.
    """

    abstained: Tensor
    alpha: float
    n: int
    draws: int


@in_deployed_precision
def smoothed_minimal_perturbation(
    smoothed: SmoothedClassifier,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float = 2,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    draws: int = 64,
    steps: int = 40,
    restarts: int = 2,
    n: int = 10_000,
    alpha: float = 1e-3,
    generator: torch.Generator | None = None,
) -> SmoothedWitness:
    """The nearest input found for each row at which the smoothed classifier errs: an upper bound on its distance.

    A row counts as found wrongly with probability at most ``alpha`` over the draws of the predictions that decide:
    that of the clean input and those of a few points, which share alpha. The witness is about the same classifier as
    its certificates: where those draw noise on a grid, witnesses lie on the grid.

    The search of :func:`minimal_perturbation` runs on mean softmax probabilities under ``draws`` draws, in pairs of
    opposite sign. Votes then say where on the way from x through the point found, or somewhat beyond it, predictions
    cease to abstain. So distances exceed that of the boundary even where the search is perfect, under Gaussian noise
    by about ``5 * sigma / sqrt(n)``.

    Args:
        smoothed: with Gaussian, Laplace or uniform noise, and a base model that is differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 1, 2 or ``math.inf``.
        low: lower side of the box of adversarial inputs, not of noisy ones: a number, a tensor that broadcasts to one
            input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where an entry must stay as it is.
        draws: noise draws behind each gradient, an even number.
        steps: gradient steps of each restart, ``draws`` passes each.
        restarts: number of searches per input.
        n: noise draws of each prediction; there are 10 to 20 predictions per row.
        alpha: probability, per row, that what counts as found is not misclassified.
        generator: source of all draws.

    Returns:
        One row per input; distance 0 where the clean input is misclassified, infinite where nothing was found.

    Raises:
        InvalidInput: a bad argument; noise that is not added to every entry independently.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Salman et al. (2019), Provably robust deep learning via adversarially trained smoothed classifiers, section 2.2,
        arXiv:1906.04584, for the gradient; Cohen et al. (2019), arXiv:1902.02918, PREDICT, for the verdict.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    threat = Threat(norm, low, high, frozen_features)
    votes = Votes.of(smoothed, threat, x, labels, n=n, alpha=alpha, looks=1 + len(OUTWARD), generator=generator)
    x, labels = votes.x, votes.labels
    label, abstained = votes.predicted(x)
    right = (label == labels) | abstained
    ended = _near_points(votes, right, threat, draws, steps, restarts)
    adversarial, other, found = _confirmed(votes, right, threat, ended.points, label)
    return SmoothedWitness(
        label=label,
        distance=torch.where(found, distance(adversarial, x, norm), math.inf),
        adversarial=adversarial,
        found=found,
        adversarial_label=other,
        norm=float(norm),
        queries=max(votes.passes.tolist(), default=0),
        backward_passes=max(ended.backward.tolist(), default=0),
        blind=ended.blind,
        symptoms=symptoms(*ended.shown),
        queries_per_row=votes.passes,
        backward_passes_per_row=ended.backward,
        method="smoothed_minimal_perturbation",
        subject=votes.subject,
        abstained=abstained,
        alpha=alpha,
        n=n,
        draws=draws,
    )


@in_deployed_precision
def smoothed_robust_accuracy(
    smoothed: SmoothedClassifier,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float = 2,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    draws: int = 64,
    steps: int = 40,
    n: int = 10_000,
    alpha: float = 1e-3,
    generator: torch.Generator | None = None,
) -> SmoothedAttackedAccuracy:
    """Attacked accuracy of a smoothed classifier at a budget: an upper bound on its robust accuracy.

    Projected gradient ascent on the margin of the logarithms of the mean softmax probabilities, from the input itself;
    one prediction on fresh draws then judges where it ended. ``epsilon`` as in :func:`robust_accuracy`, everything
    else as in :func:`smoothed_minimal_perturbation`.
    """
    checks.at_least("steps", steps, 1)
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    votes = Votes.of(smoothed, threat, x, labels, n=n, alpha=alpha, looks=2, generator=generator)
    x, labels = votes.x, votes.labels
    label, abstained = votes.predicted(x)
    right = (label == labels) & ~abstained
    budgets = threat.budgets(x)
    points, outcome = _points_within(votes, right, threat, draws, steps)
    found, other = _fallen(votes, right, points, label)
    found |= ~right & ~abstained
    adversarial = torch.where(per_row(found, x), points, x)
    return SmoothedAttackedAccuracy(
        label=label,
        robust=right & ~found,
        misclassified=~right,
        found=found,
        adversarial=adversarial,
        adversarial_label=torch.where(found, other, label),
        distance=torch.where(found, distance(adversarial, x, norm), math.inf),
        epsilon=budgets,
        margin=outcome.margin,
        blind=(outcome.blind | outcome.broken) & right,
        symptoms=symptoms(outcome.blind & right, outcome.nonfinite & right, outcome.unforetold & right),
        attack=tuple("projected_gradient" if fell else "" for fell in (found & right).tolist()),
        forward_passes=votes.passes + draws * outcome.forward,
        backward_passes=draws * outcome.backward,
        norm=float(norm),
        method="smoothed_robust_accuracy",
        subject=votes.subject,
        abstained=abstained,
        alpha=alpha,
        n=n,
        draws=draws,
    )


@dataclass
class _Ended:
    """Ends of the search on mean softmax probabilities, for all rows."""

    points: Tensor  # (N, *D), the inputs themselves where it did not run
    backward: Tensor  # (N,) passes
    blind: Tensor  # (N,) bool, gradients said nothing
    shown: Tensor  # (3, N) bool, symptoms


def _near_points(votes: Votes, attacked: Tensor, threat: Threat, draws: int, steps: int, restarts: int) -> _Ended:
    """The nearest points that the search of :func:`minimal_perturbation` finds for the rows (N,) bool."""
    x, labels, form, sides = votes.x, votes.labels, Format(votes.x.dtype), threat.sides(votes.x)
    shown = torch.zeros(3, len(x), dtype=torch.bool, device=x.device)
    ended = _Ended(x.clone(), torch.zeros_like(labels), shown[0].clone(), shown)
    streams = Streams.of(votes.generator, len(x), x.device)
    for rows, soft in parts(votes, attacked, draws):
        start, low, high = (tensor[rows].to(form.working) for tensor in (x, *sides))
        classes, stream = votes.classifier.num_classes, streams.rows(rows)
        state = MinimumNormState(soft, start, labels[rows], threat.norm, low, high, classes, stream, form)
        with frozen(votes.classifier.model), torch.no_grad():
            descend_with_restarts(state, steps, restarts)
            _walk_where_blind(state)
        votes.passes[rows] += draws * (state.forward + state.more_forward)
        ended.points[rows] = state.best.to(x.dtype)
        ended.backward[rows] += draws * state.backward
        ended.blind[rows] = state.blind | state.broken
        ended.shown[:, rows] = torch.stack([state.blind, state.nonfinite, state.unforetold])
    return ended


def _confirmed(
    votes: Votes, attacked: Tensor, threat: Threat, points: Tensor, label: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs on the ways through the points (N, *D) at which fresh draws return another class, these, and for whom."""
    x, labels, (lower, upper) = votes.x, votes.labels, threat.sides(votes.x)

    def at(rows: Tensor, share: Tensor) -> Tensor:
        moved = x[rows] + per_row(share.to(x.dtype), x) * (points - x)[rows]
        return votes.on_grid(clip(moved, lower[rows], upper[rows]), rows)

    share = _crossings(votes, attacked & (points != x).flatten(1).any(1), at)
    adversarial, other, found = x.clone(), label.clone(), ~attacked
    for farther in OUTWARD:
        rows = (attacked & share.isfinite() & ~found).nonzero().squeeze(1)
        tried = at(rows, farther * share[rows])
        inside = (clip(tried, lower[rows], upper[rows]) == tried).flatten(1).all(1)
        predicted, unclear = votes.predicted(tried, rows)
        hit = inside & ~unclear & (predicted != labels[rows])
        adversarial[rows[hit]], other[rows[hit]], found[rows[hit]] = tried[hit], predicted[hit], True
    return adversarial, other, found


def _points_within(
    votes: Votes, attacked: Tensor, threat: BoundedThreat, draws: int, steps: int
) -> tuple[Tensor, Outcome]:
    """Ends of projected gradient ascent within the budget for the rows (N,) bool, (N, *D), and what it met."""
    x, labels, form, sides = votes.x, votes.labels, Format(votes.x.dtype), threat.sides(votes.x)
    streams, budgets = Streams.of(votes.generator, len(x), x.device), threat.budgets(x)
    outcome, points = Outcome.blank(x.to(form.working)), x.clone()
    for rows, soft in parts(votes, attacked, draws):
        start, low, high = (tensor[rows].to(form.working) for tensor in (x, *sides))
        classes, stream, budget = votes.classifier.num_classes, streams.rows(rows), budgets[rows]
        state = FixedBudgetState(soft, start, labels[rows], threat.norm, budget, low, high, classes, stream, form)
        with frozen(votes.classifier.model), torch.no_grad():
            ended = _ascend_on_soft_votes(state, steps).to(x.dtype)
        points[rows] = _allowed(votes, ended, rows, threat.norm, budget)
        outcome.put(rows, state.outcome)
    return points, outcome


def _crossings(votes: Votes, attacked: Tensor, at: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Shares (N,) float64 of the way from x through each point at which votes cease to be unclear; infinite if none."""
    near = torch.zeros(len(attacked), dtype=torch.float64, device=attacked.device)
    far = torch.full_like(near, math.inf)
    for share in FARTHER:
        rows = (attacked & far.isinf()).nonzero().squeeze(1)
        wrong = votes.wrong(at(rows, torch.full_like(near[rows], share)), rows)
        far[rows[wrong]], near[rows[~wrong]] = share, share
    rows = far.isfinite().nonzero().squeeze(1)
    for _ in range(HALVINGS):
        middle = (near[rows] + far[rows]) / 2
        wrong = votes.wrong(at(rows, middle), rows)
        far[rows[wrong]], near[rows[~wrong]] = middle[wrong], middle[~wrong]
    return far


def _fallen(votes: Votes, attacked: Tensor, points: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N,) bool for which fresh draws return another class at their points, and that class, or the label."""
    found, other = torch.zeros_like(attacked), label.clone()
    rows = (attacked & (points != votes.x).flatten(1).any(1)).nonzero().squeeze(1)
    predicted, unclear = votes.predicted(points[rows], rows)
    found[rows], other[rows] = ~unclear & (predicted != votes.labels[rows]), predicted
    return found, other


def _ascend_on_soft_votes(state: FixedBudgetState, steps: int) -> Tensor:
    """Ends of ever shorter projected gradient steps on the margin, or a random search where gradients say nothing."""
    points = state.x
    for step in range(steps):
        _, gradient = state.loss_and_gradient(points, state.untargeted(margin))
        size = state.radius * (2 * CROSSING / steps * (1 - step / steps))
        points = state.project(points + per_row(size, points) * state.direction(points, gradient))
    outcome, x = state.outcome, state.x
    state.keep((outcome.blind | outcome.broken).nonzero().squeeze(1))
    if len(state.rows):
        square_steps(state, BLIND_QUERIES)
    fell = (outcome.blind | outcome.broken) & outcome.found
    return torch.where(per_row(fell, x), outcome.adversarial, points)


def _walk_where_blind(state: MinimumNormState) -> None:
    """By classes alone, for the rows whose gradients said nothing."""
    rows = (state.blind | state.broken).nonzero().squeeze(1)
    if len(rows):
        with state.part(rows) as part:
            boundary_walk_steps(part, *BLIND_WALK)


def _allowed(votes: Votes, points: Tensor, rows: Tensor, norm: float, epsilon: Tensor) -> Tensor:
    """The longest of some shares of each perturbation that stay within epsilon on the grid of the classifier."""
    x = votes.x[rows]
    chosen, open_ = x.clone(), torch.ones_like(rows, dtype=torch.bool)
    for share in SHARES:
        tried = votes.on_grid(x + share * (points - x), rows)
        fits = open_ & (distance(tried, x, norm) <= epsilon)
        chosen, open_ = torch.where(per_row(fits, x), tried, chosen), open_ & ~fits
    return chosen
