"""The driver of all attacks at a fixed budget: who is attacked, by what, and the re-check of what was found."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from certify.attacks.common.norms import clip, length, per_row
from certify.attacks.common.threat import Threat
from certify.attacks.fixed_budget.task import Outcome, Task
from certify.models import frozen, predictions, probe
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
) -> AttackedAccuracy:
    """The verdict on attacks that are tried one after the other, each on the rows still standing.

    The method of the result is named after the attacks, unless it has a name of its own.
    """
    threat.check(x)
    checks.at_least("batch_size", batch_size, 1)
    x = x.detach()
    epsilon, whole, winner = threat.budgets(x), Outcome.blank(x), [""] * len(x)
    with frozen(model), torch.no_grad():
        num_classes, labels, clean = examine(model, x, labels, batch_size)
        attacked = (clean == labels).nonzero().squeeze(1)
        for rows in attacked.split(batch_size) if len(attacked) else ():
            sides = threat.sides(x[rows])
            task = Task(model, x[rows], labels[rows], float(threat.norm), epsilon[rows], *sides, num_classes, generator)
            standing = torch.ones_like(task.outcome.found)
            for name, attack in task.while_standing(attacks.items()):
                attack(task)
                for row in rows[standing & task.outcome.found].tolist():
                    winner[row] = name
                standing = ~task.outcome.found
            whole.put(rows, task.outcome)
        method = method or "+".join(attacks)
        return verdict(
            model, x, labels, clean, threat=threat, outcome=whole, winner=winner, method=method, batch_size=batch_size
        )


def examine(model: nn.Module, x: Tensor, labels: Tensor, batch_size: int) -> tuple[int, Tensor, Tensor]:
    """Number of classes, checked labels (N,) and clean predictions (N,), -1 where logits are not finite."""
    if len(x) == 0:
        labels = checks.labels(labels, 0, 2).to(x.device)
        return 2, labels, labels
    num_classes = probe(model, x, batch_size=min(batch_size, len(x)))
    labels = checks.labels(labels, len(x), num_classes).to(x.device)
    return num_classes, labels, predictions(model, x, batch_size)


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
    adversarial = outcome.adversarial
    distance = length(adversarial.double() - x.double(), threat.norm)
    within = (clip(adversarial, *threat.sides(x)) == adversarial).flatten(1).all(1) & (distance <= epsilon)
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
        distance=torch.where(found, torch.where(right, distance, 0.0), math.inf),
        adversarial=torch.where(per_row(found & right, x), adversarial, x),
        adversarial_label=torch.where(found, predicted, clean),
        epsilon=epsilon,
        margin=outcome.margin,
        blind=outcome.blind & right,
        attack=tuple(name if fell else "" for name, fell in zip(winner, found.tolist(), strict=True)),
        forward_passes=forward,
        backward_passes=outcome.backward,
        norm=float(threat.norm),
        method=method,
    )
