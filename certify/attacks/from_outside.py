"""An attack that comes from outside: adversarial inputs at any distance first, then drawn into the ball.

Where gradients vanish inside the ball, as in networks trained against l_infinity attacks, ascent from within goes
nowhere; the search for the nearest adversarial input does not care where the ball ends.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.attacks import minimal
from certify.attacks.auto_pgd import climb, climb_in_stages
from certify.attacks.budget import Attack
from certify.attacks.geometry import per_row
from certify.attacks.losses import margin
from certify.attacks.search import Search
from certify.attacks.task import Task

REACH = 10.0  # how far the search goes along each entry, in units of epsilon


@dataclass
class _CountingSearch(Search):
    """A search that counts its backward passes too, and takes models that cannot be differentiated."""

    gradients: int = 0

    def logits(self, points: Tensor) -> Tensor:
        logits = super().logits(points)
        return logits + 0 * points.flatten(1).sum(1, keepdim=True)  # autograd sees the input, whatever the model does

    def margin_and_gradient(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        self.gradients += 1
        return super().margin_and_gradient(points, target)


def from_outside(steps: int, restarts: int) -> Attack:
    """The nearest adversarial inputs that a minimum-norm search finds, drawn into the ball by Auto-PGD."""

    def attack(task: Task) -> None:
        norm = 2.0 if task.norm == 1 else task.norm
        reach = per_row(REACH * task.radius, task.x)  # no search where the box is open and nothing leads back
        low, high = torch.maximum(task.lower, task.x - reach), torch.minimum(task.upper, task.x + reach)
        search = _CountingSearch(task.model, task.x, task.labels, norm, low, high, task.generator)
        points = minimal._attack(search, task.num_classes, steps, restarts)
        task.outcome.forward[task.rows] += search.queries
        task.outcome.backward[task.rows] += search.gradients
        if task.norm == 1:
            climb_in_stages(task, task.untargeted(margin), points, steps)
            return
        points = task.project(points)
        task.logits(points)
        keep = task.drop_found()
        if len(keep):
            climb(task, task.untargeted(margin), points[keep], steps)

    return attack
