"""Attacks on the rows whose gradients say nothing: a stand-in for the steps of a model, and a random search."""

from contextlib import nullcontext
from functools import partial

from certify.attacks.fixed_budget.auto_pgd import apgd_in_stages, apgd_steps
from certify.attacks.fixed_budget.driver import Attack
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.square import square_steps
from certify.attacks.fixed_budget.state import FixedBudgetState
from certify.attacks.search.surrogate_gradients import straight_through

QUERIES = 1000  # of the square attack, whatever the number of gradient steps


def without_gradients(steps: int) -> dict[str, Attack]:
    """The attacks by name; they come last, since the first leaves out the rows that gradients tell about."""
    return {"straight_through": partial(straight_through_slopes, climb=partial(_climb, steps=steps)), "square": _square}


def straight_through_slopes(state: FixedBudgetState, climb: Attack) -> None:
    """An attack on the margin with slopes of the identity for rounding, signs and detached values.

    Rows whose gradients say something are left out from then on.
    """
    unguided = state.unguided()
    state.keep((unguided & ~state.outcome.found[state.rows]).nonzero().squeeze(1))
    if not len(state.rows):
        return
    rows = state.rows
    state.outcome.blind[rows] = True
    state.surrogate = straight_through
    state.loss_and_gradient(state.x, state.untargeted(margin))
    if not state.outcome.blind[rows].all():
        climb(state)
    state.outcome.blind[rows] = True  # what slopes of a stand-in say, the model does not
    state.surrogate = nullcontext


def _climb(state: FixedBudgetState, steps: int) -> None:
    """Auto-PGD on the margin."""
    if state.norm == 1:
        apgd_in_stages(state, state.untargeted(margin), state.x, steps)
    else:
        apgd_steps(state, state.untargeted(margin), state.random_start(), steps)


def _square(state: FixedBudgetState) -> None:
    if len(state.rows):
        square_steps(state, QUERIES)
