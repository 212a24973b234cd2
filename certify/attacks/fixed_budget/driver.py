"""The driver of all attacks at a fixed budget: who is attacked, by what, and the re-check of what was found."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from certify.attacks.common.distances import distance
from certify.attacks.common.formats import Format
from certify.attacks.common.gradients import symptoms
from certify.attacks.common.norms import clip, per_row
from certify.attacks.common.passes import examine
from certify.attacks.common.streams import Streams
from certify.attacks.common.threat import Threat
from certify.attacks.fixed_budget.task import Outcome, Task
from certify.models import frozen, predictions
from certify.results import AttackedAccuracy

Attack = Callable[[Task], None]


@isolated
def run(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    threat: Threat,
    attacks: Mapping[str, Attack],
    batch_size: int,
    generator: torch.Generator | None = None,
    method: str = "",
    first_index: int = 0,
) -> AttackedAccuracy:
    """The verdict on attacks that are tried one after the other, each on the rows still standing.

    The method of the result is named after the attacks, unless it has a name of its own.
    """
    threat.check(x, per_row=True)
    checks.at_least("batch_size", batch_size, 1)
    form, given = Format(x.dtype), x.detach()
    x, (lower, upper) = given.to(form.working), (side.to(form.working) for side in threat.sides(given))
    epsilon, whole, winner = threat.budgets(x), Outcome.blank(x), [""] * len(x)
    with frozen(model), torch.no_grad():
        model, num_classes, labels, clean = examine(model, given, labels, batch_size)
        streams = Streams.of(generator, len(x), x.device, checks.at_least("first_index", first_index, 0))
        attacked = (clean == labels).nonzero().squeeze(1)
        for rows in attacked.split(batch_size) if len(attacked) else ():
            task = Task(
                model,
                x[rows],
                labels[rows],
                float(threat.norm),
                epsilon[rows],
                lower[rows],
                upper[rows],
                num_classes,
                streams.rows(rows),
                form,
            )
            standing = torch.ones_like(task.outcome.found)
            for name, attack in task.while_standing(attacks.items()):
                attack(task)
                for row in rows[standing & task.outcome.found].tolist():
                    winner[row] = name
                standing = ~task.outcome.found
            whole.put(rows, task.outcome)
        method = method or "+".join(attacks)
        return verdict(
            model,
            given,
            labels,
            clean,
            threat=threat,
            outcome=whole,
            winner=winner,
            method=method,
            batch_size=batch_size,
        )


def verdict(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    clean: Tensor,
    *,
    threat: Threat,
    outcome: Outcome,
    winner: Sequence[str],
    method: str,
    batch_size: int,
) -> AttackedAccuracy:
    """The outcome after its re-check: the model is run once more on each stored input that is allowed."""
    epsilon, right = threat.budgets(x), clean == labels
    adversarial = outcome.adversarial.to(x.dtype)
    reached = distance(adversarial, x, threat.norm)
    within = (clip(adversarial, *threat.sides(x)) == adversarial).flatten(1).all(1) & (reached <= epsilon)
    claimed = (within & right & (adversarial != x).flatten(1).any(1)).nonzero().squeeze(1)
    predicted = clean.clone()
    if len(claimed):
        predicted[claimed] = predictions(model, adversarial[claimed], batch_size)
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
        epsilon=epsilon,
        margin=outcome.margin,
        blind=(outcome.blind | outcome.broken | outcome.unforetold) & right,
        symptoms=symptoms(outcome.blind & right, outcome.nonfinite & right, outcome.unforetold & right),
        attack=tuple(name if fell else "" for name, fell in zip(winner, found.tolist(), strict=True)),
        forward_passes=forward,
        backward_passes=outcome.backward,
        norm=float(threat.norm),
        method=method,
    )
