"""Inputs that a model is surest about, near given ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.numerics import per_row
from certify.attacks.common.formats import Format
from certify.attacks.common.passes import logits_of, probed
from certify.attacks.common.streams import Streams
from certify.attacks.common.threat import BoundedThreat
from certify.attacks.fixed_budget.auto_pgd import apgd_in_stages, apgd_steps
from certify.attacks.fixed_budget.state import FixedBudgetState, LogitLoss
from certify.models import frozen
from certify.results import Record


@dataclass(frozen=True, eq=False, kw_only=True)
class ConfidenceWitness(Record):
    """Inputs near given ones in which a model has much confidence, each run once more afterwards.

    Attributes:
        label: (N,) int64, the class predicted for ``adversarial``.
        confidence: (N,) float64, its softmax probability there: the largest one in the set is at least this.
        clean: (N,) float64, that of the class predicted for the clean input.
        adversarial: (N, *D), the input found; the clean input where nothing better was.
        distance: (N,) float64, norm of the perturbation, recomputed from the stored tensors and rounded up.
        epsilon: (N,) float64, the budget of each row, in units of the input.
        norm: order of the norm.
        forward_passes: (N,) int64, forward passes of each row, that of the clean input and the re-check included.
        subject: the classifier it speaks of.
    """

    confidence: Tensor
    clean: Tensor
    adversarial: Tensor
    distance: Tensor
    epsilon: Tensor
    norm: float
    forward_passes: Tensor
    subject: str = "base"


@isolated
def highest_confidence(
    model: nn.Module,
    x: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    steps: int = 100,
    restarts: int = 3,
    targets: int = 3,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    first_index: int = 0,
    generator: torch.Generator | None = None,
) -> ConfidenceWitness:
    """Inputs within a budget that get as much softmax confidence as ascent finds, in any class.

    Auto-PGD raises the logarithm of the confidence: of the class that leads, from the input and from random starts; and
    of each of the ``targets`` classes that lead at the input.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        norm: 1, 2 or ``math.inf``.
        epsilon: largest norm of a perturbation, in units of the input: a number, or (N,), one for each row.
        low: lower side of the box, see :func:`certify.attacks.robust_accuracy`.
        high: upper side of the box, likewise.
        steps: of each ascent.
        restarts: ascents of the leading class: one from the input, others from random starts.
        targets: classes that are raised one by one; 0 for none.
        frozen_features: bool, broadcasts to ``x``; True for the entries that may not move.
        batch_size: inputs per pass.
        first_index: index of row 0 in its data set: random starts are a function of the seed and of this index.
        generator: source of random starts.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Hein, Andriushchenko, Bitterwolf (2019), Why ReLU networks yield high-confidence predictions far away from the
        training data and how to mitigate the problem, section 4, arXiv:1812.05720, for the aim; Croce, Hein (2020),
        arXiv:2003.01690, for the ascent.
    """
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    threat.check(x, per_row=True)
    checks.not_empty(x)
    ascents = _Ascents(
        steps=checks.at_least("steps", steps, 1),
        restarts=checks.at_least("restarts", restarts, 1),
        targets=checks.at_least("targets", targets, 0),
    )
    batch_size = checks.at_least("batch_size", batch_size, 1)
    streams = Streams.of(generator, len(x), x.device, checks.at_least("first_index", first_index, 0))
    form, given = Format(x.dtype), x.detach()
    budgets, sides = threat.budgets(given), threat.sides(given)
    found, forward = given.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with frozen(model), torch.no_grad():
        taken, classes = probed(model, given, batch_size)
        for rows in torch.arange(len(x), device=x.device).split(batch_size):
            points, lower, upper = (part[rows].to(form.working) for part in (given, *sides))
            label = torch.zeros_like(rows)
            limits = float(threat.norm), budgets[rows], lower, upper
            state = _Surest(taken, points, label, *limits, classes, streams.rows(rows), form)
            ascents.run(state)
            found[rows], forward[rows] = state.outcome.adversarial.to(x.dtype), state.outcome.forward
        reached, within = threat.measured(found, given)
        found = torch.where(per_row(within, found), found, given)
        clean, again = (_confidences(taken, part, batch_size) for part in (given, found))
    better = again[0] > clean[0]
    return ConfidenceWitness(
        label=torch.where(better, again[1], clean[1]),
        confidence=torch.where(better, again[0], clean[0]),
        clean=clean[0],
        adversarial=torch.where(per_row(better, given), found, given),
        distance=torch.where(better, reached, 0.0),
        epsilon=budgets,
        norm=float(norm),
        forward_passes=forward + 2,
    )


@dataclass
class _Surest(FixedBudgetState):
    """The state of a batch whose points are kept where the model is surest; no row is ever left out."""

    highest: Tensor = field(init=False)  # (M,) log-confidence of the points that are kept

    def __post_init__(self) -> None:
        super().__post_init__()
        self.highest = torch.full_like(self.epsilon, -math.inf)

    def logits(self, points: Tensor) -> Tensor:
        """Logits (M, K) at points (M, *D); the surest points are remembered."""
        logits, self.rounding = logits_of(self.model, points, self.format)
        self.outcome.forward += 1
        if self.widened == 1:
            value = leading(logits.detach()).double()
            higher = value > self.highest  # False for NaN
            self.highest = torch.where(higher, value, self.highest)
            kept = self.outcome.adversarial
            self.outcome.adversarial = torch.where(per_row(higher, points), points.detach(), kept)
        return logits


@dataclass(frozen=True)
class _Ascents:
    steps: int
    restarts: int
    targets: int

    def run(self, state: _Surest) -> None:
        """All ascents of a batch."""
        first = state.logits(state.x).topk(min(self.targets, state.num_classes), dim=1).indices
        losses: list[tuple[LogitLoss, Callable[[], Tensor]]] = [(leading, lambda: state.x)]
        losses += [(leading, state.random_start)] * (self.restarts - 1)
        losses += [(partial(_log_confidence, target), lambda: state.x) for target in first.unbind(1)]
        ascend = apgd_in_stages if state.norm == 1 else apgd_steps
        for loss, start in losses:
            ascend(state, loss, start(), self.steps)


def leading(logits: Tensor) -> Tensor:
    """Logarithm of the confidence in the class that leads, (N,)."""
    return torch.log_softmax(logits, 1).amax(1)


def _log_confidence(target: Tensor, logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, 1).gather(1, target[:, None]).squeeze(1)


def _confidences(model: nn.Module, x: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Largest softmax probability, (N,) float64, and its class; 0 and -1 where logits are not finite."""
    logits = torch.cat([model(part).double() for part in x.split(batch_size)])
    finite = logits.isfinite().all(1)
    confidence, label = logits.softmax(1).max(1)
    return torch.where(finite, confidence, 0.0), torch.where(finite, label, -1)
