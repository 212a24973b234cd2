"""Attacks in perturbation sets of the caller's own, which know no norm: by the points that a set says are best."""

from functools import partial

from torch import Tensor

from certify.attacks.fixed_budget.auto_pgd import MOST_TARGETS, toward
from certify.attacks.fixed_budget.driver import Attack
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.state import FixedBudgetState, LogitLoss
from certify.attacks.fixed_budget.without_gradients import QUERIES, straight_through_slopes


def in_sets(steps: int) -> dict[str, Attack]:
    """The attacks of :func:`certify.attacks.robust_accuracy` in sets of the caller's own, by name."""
    return {
        "conditional_gradient": partial(_targeted, steps=steps),
        "straight_through": partial(
            straight_through_slopes,
            climb=lambda state: conditional_gradient(state, state.untargeted(margin), steps),
        ),
        "random_points": _random_points,
    }


def _targeted(state: FixedBudgetState, steps: int) -> None:
    """One class after the other, from the input and from a random point."""
    state.rank_targets(MOST_TARGETS)
    for rank in state.while_standing(range(state.targets.shape[1])):
        conditional_gradient(state, partial(toward, state, rank), steps)
        if len(state.drop_found()):
            conditional_gradient(state, partial(toward, state, rank), steps, state.random_start())


def conditional_gradient(state: FixedBudgetState, loss: LogitLoss, steps: int, start: Tensor | None = None) -> None:
    """Steps toward the point of the set at which the linearised loss is largest, each shorter than the one before.

    References:
        Frank, Wolfe (1956), An algorithm for quadratic programming, Naval Research Logistics Quarterly 3, 95-110.
        Jaggi (2013), Revisiting Frank-Wolfe: projection-free sparse convex optimization, ICML, algorithm 1.
    """
    points, first = (state.x, 0) if start is None else (start, 2)
    for step in range(first, first + steps):
        _, gradient = state.loss_and_gradient(points, loss)
        if state.region is None or not len(keep := state.drop_found()):
            return
        points = points[keep]
        vertex = state.vertex(state.region, gradient[keep])
        state.logits(vertex)  # a set that is not convex holds little between its corners
        points = state.project(points + 2 / (step + 2) * (vertex - points))
    state.logits(points)


def _random_points(state: FixedBudgetState) -> None:
    """Random points of the sets, for rows whose gradients say nothing."""
    for _ in state.while_standing(range(QUERIES if len(state.rows) else 0)):
        state.logits(state.random_start())
