"""Projected gradient ascent that chooses its step sizes itself: Auto-PGD, and its variant for l_1.

Croce, Hein (2020), Reliable evaluation of adversarial robustness, arXiv:2003.01690; for l_1, Croce, Hein (2021),
Mind the box, arXiv:2103.01208.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from certify.attacks.common.threat import BoundedThreat, Settings
from certify.attacks.fixed_budget.driver import Attack, run
from certify.attacks.fixed_budget.losses import LOSSES, target_margin
from certify.attacks.fixed_budget.state import FixedBudgetState, LogitLoss
from certify.results import AttackedAccuracy

MOST_TARGETS = 9
MOMENTUM = 0.75  # weight of the new step; the rest goes to the last move
FIRST_WINDOW, SHRINKING, LAST_WINDOW = 0.22, 0.03, 0.06  # between two looks at the step size, in shares of all steps
PROGRESS = 0.75  # share of the steps that must raise the loss, lest the step be halved
L1_WINDOW = 0.04
L1_SPARSITY = 0.2  # share of the entries that the first steps move
L1_DENSER = 1.5  # a step moves the number of entries changed so far, divided by this
L1_SHRINK = 1.5
L1_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # how many times as large the ball is, for which share of the steps
L1_STEPS = (1.0, 0.1)  # largest and smallest step in units of epsilon


def apgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    loss: str = "cross_entropy",
    steps: int = 100,
    restarts: int = 1,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under Auto-PGD from ``restarts`` starts, of ``steps`` steps each.

    All starts are random; in l_1, the first is the input itself. What is made large is the ``loss``:
    ``"cross_entropy"``, the ``"margin"`` of the best other class over the label, or ``"dlr"``, that margin in units of
    the gap between the first and the third logit, for which three classes are needed. Other arguments and result as in
    :func:`certify.attacks.robust_accuracy`.

    Raises:
        InvalidInput: a bad argument; ``"dlr"`` with two classes.
        InvalidModel: see :func:`certify.models.probe`.
    """
    checks.one_of("loss", loss, tuple(LOSSES))
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    attack = {f"apgd({loss})": untargeted(loss, steps, restarts)}
    return run("apgd", attack, model, x, labels, threat, Settings(batch_size, generator))


def targeted_apgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    targets: int = MOST_TARGETS,
    steps: int = 100,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under Auto-PGD on the margin of one class after the other over the label.

    The ``targets`` classes of the largest logits are aimed at, or all others if there are fewer, by ``steps`` steps
    each. Other arguments, result and errors as in :func:`certify.attacks.robust_accuracy`.
    """
    checks.at_least("targets", targets, 1)
    checks.at_least("steps", steps, 1)
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    attack = {"targeted_apgd": targeted(targets, steps)}
    return run("targeted_apgd", attack, model, x, labels, threat, Settings(batch_size, generator))


def untargeted(loss: str, steps: int, restarts: int) -> Attack:
    """The attack behind :func:`apgd`."""

    def attack(state: FixedBudgetState) -> None:
        if loss == "dlr" and state.num_classes < 3:
            raise InvalidInput('loss="dlr" needs at least 3 classes, got 2: use loss="margin"')
        for restart in state.while_standing(range(restarts)):
            _ascend(state, state.untargeted(LOSSES[loss]), steps, scattered=restart > 0)

    return attack


def targeted(targets: int, steps: int) -> Attack:
    """The attack behind :func:`targeted_apgd`."""

    def attack(state: FixedBudgetState) -> None:
        state.rank_targets(targets)
        for rank in state.while_standing(range(state.targets.shape[1])):
            loss = partial(toward, state, rank)
            _, gradient = state.loss_and_gradient(state.x, loss)
            state.logits(state.leap(state.x, gradient, state.radius))  # settles the rows whose boundary is flat
            if len(state.drop_found()):
                _ascend(state, loss, steps)

    return attack


def toward(state: FixedBudgetState, rank: int, logits: Tensor) -> Tensor:
    """The margin over the label of the class of a rank among the targets of each row, (M,)."""
    return target_margin(logits, state.labels, state.targets[:, rank])


def _ascend(state: FixedBudgetState, loss: LogitLoss, steps: int, *, scattered: bool = False) -> None:
    """One run of the attack from a random start; in l_1 from the input itself, unless ``scattered``.

    In l_1 it begins in larger balls, in which less is in its way, and goes on from what it found there.
    """
    if state.norm != 1:
        apgd_steps(state, loss, state.random_start(), steps)
        return
    # What is dense at the start hardly becomes sparse.
    apgd_in_stages(state, loss, state.random_start() if scattered else state.x, steps)


def apgd_in_stages(state: FixedBudgetState, loss: LogitLoss, points: Tensor, steps: int) -> None:
    """Auto-PGD in balls that shrink to the last one, from given points."""
    for factor, share in L1_STAGES:
        state.widened = factor
        points = apgd_steps(state, loss, state.project(points), max(1, round(share * steps)))


@dataclass
class _Iterate:
    """The place of each row: per-row tensors that are replaced and left out together."""

    points: Tensor
    value: Tensor
    gradient: Tensor

    def take(self, other: "_Iterate", rows: Tensor) -> "_Iterate":
        """A copy in which the rows (M,) bool come from another one."""
        mask = per_row(rows, self.points)
        return _Iterate(
            torch.where(mask, other.points, self.points),
            torch.where(rows, other.value, self.value),
            torch.where(mask, other.gradient, self.gradient),
        )

    def keep(self, rows: Tensor) -> "_Iterate":
        """A copy of some rows."""
        return _Iterate(self.points[rows], self.value[rows], self.gradient[rows])


def apgd_steps(state: FixedBudgetState, loss: LogitLoss, start: Tensor, steps: int) -> Tensor:
    """Auto-PGD from given points; the best points of the rows that still stand."""
    rule = _Sparse(state, start, steps) if state.norm == 1 else _Halving(state, steps)
    now = _Iterate(start, *state.loss_and_gradient(start, loss))
    best, previous = now, start
    for step in range(1, steps + 1):
        moved = state.project(now.points + rule.step(now))
        if state.norm != 1 and step > 1:
            ahead = MOMENTUM * (moved - now.points) + (1 - MOMENTUM) * (now.points - previous)
            moved = state.project(now.points + ahead)
        if step == steps and state.widened == 1:
            state.logits(moved)
            break
        previous, before = now.points, now.value
        now = _Iterate(moved, *state.loss_and_gradient(moved, loss))
        rule.rows["raised"] += now.value > before
        best = best.take(now, now.value > best.value)
        if step == rule.next_look:
            now = now.take(best, rule.look(best))
            keep = state.drop_found()
            if not len(keep):
                break
            now, best, previous = now.keep(keep), best.keep(keep), previous[keep]
            rule.rows = {name: values[keep] for name, values in rule.rows.items()}
    return best.points


class _Halving:
    """Step sizes in l_2 and l_infinity: halved, with a return to the best point, where progress was slow."""

    def __init__(self, state: FixedBudgetState, steps: int) -> None:
        self.state, self.steps = state, steps
        size = 2 * state.radius
        never = torch.full_like(size, -math.inf)
        self.rows = {"size": size, "last_size": size, "last_best": never, "raised": torch.zeros_like(size)}
        self.window = max(1, math.ceil(FIRST_WINDOW * steps))
        self.next_look = self.window

    def step(self, now: _Iterate) -> Tensor:
        """The next step, (M, *D)."""
        return per_row(self.rows["size"], now.points) * self.state.direction(now.points, now.gradient)

    def look(self, best: _Iterate) -> Tensor:
        """Choose the next step sizes; the rows that go back to their best point, (M,) bool."""
        size, raised = self.rows["size"], self.rows["raised"]
        idle = (size == self.rows["last_size"]) & (best.value == self.rows["last_best"])
        slow = (raised < PROGRESS * self.window) | idle
        self.rows = {
            "size": torch.where(slow, size / 2, size),
            "last_size": size,
            "last_best": best.value,
            "raised": torch.zeros_like(raised),
        }
        self.window = max(1, round(max(self.window - SHRINKING * self.steps, LAST_WINDOW * self.steps)))
        self.next_look += self.window
        return slow


class _Sparse:
    """Steps in l_1: they move about as many entries as the best perturbation has, and shrink while that holds."""

    def __init__(self, state: FixedBudgetState, start: Tensor, steps: int) -> None:
        self.state = state
        if state.widened == L1_STAGES[0][0]:
            count = torch.full_like(state.radius, max(1.0, L1_SPARSITY * start[0].numel()))
        else:
            count = self._denser(start)
        size = L1_STEPS[0] * state.radius
        self.rows = {"count": count, "size": size, "raised": torch.zeros_like(size)}
        self.window = max(1, round(L1_WINDOW * steps))
        self.next_look = self.window

    def step(self, now: _Iterate) -> Tensor:
        """The next step, (M, *D)."""
        return per_row(self.rows["size"], now.points) * self.state.direction(
            now.points, now.gradient, self.rows["count"]
        )

    def _denser(self, points: Tensor) -> Tensor:
        """Number of entries that the next steps move, (M,)."""
        changed = (points != self.state.x).flatten(1).sum(1)
        return (changed / L1_DENSER).clamp(min=1).to(points.dtype)

    def look(self, best: _Iterate) -> Tensor:
        """Choose the next steps; the rows that go back to their best point, (M,) bool."""
        count = self._denser(best.points)
        sparser = count < 0.95 * self.rows["count"]
        largest, smallest = (share * self.state.radius for share in L1_STEPS)
        shrunk = torch.maximum(self.rows["size"] / L1_SHRINK, smallest)
        self.rows = {**self.rows, "count": count, "size": torch.where(sparser, largest, shrunk)}
        self.next_look += self.window
        return sparser
