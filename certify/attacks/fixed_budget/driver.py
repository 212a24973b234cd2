"""The driver of all attacks at a fixed budget: who is attacked, by what, and the re-check of what was found."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.numerics import per_row
from certify.attacks.common.formats import Format
from certify.attacks.common.gradients import symptoms
from certify.attacks.common.passes import OutOfTime, examine
from certify.attacks.common.streams import Streams
from certify.attacks.common.threat import NORMS, BoundedThreat, Settings
from certify.attacks.fixed_budget.state import FixedBudgetState, Outcome
from certify.models import frozen, predictions
from certify.results import AttackedAccuracy

Attack = Callable[[FixedBudgetState], None]


FIXED_BUDGET: dict[str, tuple[float, ...]] = dict.fromkeys(
    (
        *("apgd", "autoattack", "fgsm", "iterative_fgsm", "pgd"),
        *("random_fgsm", "robust_accuracy", "square", "targeted_apgd"),
    ),
    NORMS,
)
"""Names of the attacks of :mod:`certify.attacks` at a fixed budget, with the orders of the norms that each serves."""


@isolated
def run(
    name: str,
    attacks: Mapping[str, Attack],
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    threat: BoundedThreat,
    settings: Settings,
) -> AttackedAccuracy:
    """The verdict on attacks that are tried one after the other, each on the rows still standing.

    Args:
        name: of the method of the result.
        attacks: what to run, by the names that ``attack`` gives.
        model: as in :func:`certify.attacks.robust_accuracy`.
        x: likewise.
        labels: likewise.
        threat: norm, budget and box.
        settings: batches, seed and time limit.
    """
    threat.check(x, per_row=True)
    batch_size = checks.at_least("batch_size", settings.batch_size, 1)
    form, given, norm = Format(x.dtype), x.detach(), float(threat.norm)
    sides, epsilon = threat.sides(given), threat.budgets(given)
    whole, winner = Outcome.blank(given.to(form.working)), [""] * len(x)
    with frozen(model), torch.no_grad():
        model, num_classes, labels, clean = examine(model, given, labels, batch_size)
        first = checks.at_least("first_index", settings.first_index, 0)
        streams = Streams.of(settings.generator, len(x), x.device, first)
        attacked = (clean == labels).nonzero().squeeze(1)
        unfinished, deadline = torch.zeros_like(clean, dtype=torch.bool), settings.deadline()
        for rows in attacked.split(batch_size) if len(attacked) else ():
            x, low, high = (tensor[rows].to(form.working) for tensor in (given, *sides))
            stream = streams.rows(rows)
            limits = norm, epsilon[rows], low, high
            state = FixedBudgetState(model, x, labels[rows], *limits, num_classes, stream, form, threat.region(rows))
            standing = torch.ones_like(state.outcome.found)
            state.deadline = deadline
            for attack_name, attack in state.while_standing(attacks.items()):
                late = False
                try:
                    attack(state)
                except OutOfTime:
                    late = True
                for row in rows[standing & state.outcome.found].tolist():
                    winner[row] = attack_name
                standing = ~state.outcome.found
                if late:
                    unfinished[rows] = standing
                    break
            whole.put(rows, state.outcome)
        found = verdict(
            name, model, given, labels, clean, threat=threat, outcome=whole, winner=winner, settings=settings
        )
        return replace(found, unfinished=unfinished)


def verdict(
    name: str,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    clean: Tensor,
    *,
    threat: BoundedThreat,
    outcome: Outcome,
    winner: Sequence[str],
    settings: Settings,
) -> AttackedAccuracy:
    """The outcome after its re-check: the model is run once more on each stored input that is allowed."""
    right, adversarial = clean == labels, outcome.adversarial.to(x.dtype)
    reached, within = threat.measured(adversarial, x)
    claimed = (within & right & (adversarial != x).flatten(1).any(1)).nonzero().squeeze(1)
    predicted = clean.clone()
    if len(claimed):
        predicted[claimed] = predictions(model, adversarial[claimed], settings.batch_size)
    found = (predicted != labels) & (predicted >= 0)
    forward = outcome.forward + 1
    forward[claimed] += 1
    return AttackedAccuracy(
        label=clean,
        robust=right & ~found,
        misclassified=~right,
        found=found,
        distance=torch.where(found, torch.where(right, reached, 0.0), math.inf),
        adversarial=torch.where(per_row(found & right, x), adversarial, x),
        adversarial_label=torch.where(found, predicted, clean),
        epsilon=threat.budgets(x),
        margin=outcome.margin,
        blind=(outcome.blind | outcome.broken | outcome.unforetold) & right,
        symptoms=symptoms(outcome.blind & right, outcome.nonfinite & right, outcome.unforetold & right),
        attack=tuple(by if fell else "" for by, fell in zip(winner, found.tolist(), strict=True)),
        forward_passes=forward,
        backward_passes=outcome.backward,
        norm=float(threat.norm),
        method=name,
    )
