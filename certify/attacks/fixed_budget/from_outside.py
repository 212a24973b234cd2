"""An attack that comes from outside: adversarial inputs at any distance first, then drawn into the ball.

Where gradients vanish inside the ball, as in networks trained against l_infinity attacks, ascent from within goes
nowhere; the search for the nearest adversarial input does not care where the ball ends.
"""

import torch

from bounds.numerics import per_row
from certify.attacks.fixed_budget.auto_pgd import apgd_in_stages, apgd_steps
from certify.attacks.fixed_budget.driver import Attack
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.state import FixedBudgetState
from certify.attacks.search.default_search import descend_with_restarts
from certify.attacks.search.state import MinimumNormState

REACH = 10.0  # how far the search goes along each entry, in units of epsilon


def from_outside(steps: int, restarts: int) -> Attack:
    """The nearest adversarial inputs that a minimum-norm search finds, drawn into the ball by Auto-PGD."""

    def attack(state: FixedBudgetState) -> None:
        norm = 2.0 if state.norm == 1 else state.norm
        reach = per_row(REACH * state.radius, state.x)  # no search where the box is open and nothing leads back
        low, high = torch.maximum(state.lower, state.x - reach), torch.minimum(state.upper, state.x + reach)
        outside = MinimumNormState(
            state.model, state.x, state.labels, norm, low, high, state.num_classes, state.streams, format=state.format
        )
        outside.surrogate = state.surrogate
        descend_with_restarts(outside, steps, restarts)
        points = outside.best
        state.outcome.forward[state.rows] += outside.forward + outside.more_forward
        state.outcome.backward[state.rows] += outside.backward
        state.outcome.blind[state.rows] &= outside.blind
        state.outcome.broken[state.rows] |= outside.broken
        if state.norm == 1:
            apgd_in_stages(state, state.untargeted(margin), points, steps)
            return
        points = state.project(points)
        state.logits(points)
        keep = state.drop_found()
        if len(keep):
            apgd_steps(state, state.untargeted(margin), points[keep], steps)

    return attack
