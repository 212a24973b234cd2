"""Attacks on the rows whose gradients say nothing: a stand-in for the steps of a model, and a random search."""

from contextlib import nullcontext
from functools import partial

from certify.attacks.fixed_budget.auto_pgd import climb, climb_in_stages
from certify.attacks.fixed_budget.driver import Attack
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.square import search
from certify.attacks.fixed_budget.task import Task
from certify.attacks.minimum_norm.surrogate_gradients import straight_through

QUERIES = 1000  # of the square attack, whatever the number of gradient steps


def without_gradients(steps: int) -> dict[str, Attack]:
    """The attacks by name; they come last, since the first leaves out the rows that gradients tell about."""
    return {"straight_through": partial(_straight_through, steps=steps), "square": _square}


def _straight_through(task: Task, steps: int) -> None:
    """Auto-PGD on the margin with slopes of the identity for rounding, signs and detached values."""
    unguided = task.unguided()
    task.keep((unguided & ~task.outcome.found[task.rows]).nonzero().squeeze(1))
    if not len(task.rows):
        return
    rows = task.rows
    task.outcome.blind[rows] = True
    task.surrogate = straight_through
    task.loss_and_gradient(task.x, task.untargeted(margin))
    if not task.outcome.blind[rows].all():
        if task.norm == 1:
            climb_in_stages(task, task.untargeted(margin), task.x, steps)
        else:
            climb(task, task.untargeted(margin), task.random_start(), steps)
    task.outcome.blind[rows] = True  # what slopes of a stand-in say, the model does not
    task.surrogate = nullcontext


def _square(task: Task) -> None:
    if len(task.rows):
        search(task, QUERIES)
