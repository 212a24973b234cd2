"""An attack that comes from outside: adversarial inputs at any distance first, then drawn into the ball.

Where gradients vanish inside the ball, as in networks trained against l_infinity attacks, ascent from within goes
nowhere; the search for the nearest adversarial input does not care where the ball ends.
"""

import torch

from certify.attacks.common.norms import per_row
from certify.attacks.fixed_budget.auto_pgd import climb, climb_in_stages
from certify.attacks.fixed_budget.driver import Attack
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.task import Task
from certify.attacks.minimum_norm.default_search import descend_with_restarts
from certify.attacks.minimum_norm.search import Search

REACH = 10.0  # how far the search goes along each entry, in units of epsilon


def from_outside(steps: int, restarts: int) -> Attack:
    """The nearest adversarial inputs that a minimum-norm search finds, drawn into the ball by Auto-PGD."""

    def attack(task: Task) -> None:
        norm = 2.0 if task.norm == 1 else task.norm
        reach = per_row(REACH * task.radius, task.x)  # no search where the box is open and nothing leads back
        low, high = torch.maximum(task.lower, task.x - reach), torch.minimum(task.upper, task.x + reach)
        search = Search(
            task.model, task.x, task.labels, norm, low, high, task.num_classes, task.streams, format=task.format
        )
        search.surrogate = task.surrogate
        descend_with_restarts(search, steps, restarts)
        points = search.best
        task.outcome.forward[task.rows] += search.forward + search.more_forward
        task.outcome.backward[task.rows] += search.backward
        task.outcome.blind[task.rows] &= search.blind
        task.outcome.broken[task.rows] |= search.broken
        if task.norm == 1:
            climb_in_stages(task, task.untargeted(margin), points, steps)
            return
        points = task.project(points)
        task.logits(points)
        keep = task.drop_found()
        if len(keep):
            climb(task, task.untargeted(margin), points[keep], steps)

    return attack
