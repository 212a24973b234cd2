"""Accuracy under random changes of features or words."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.sets.balls import PerturbationSet
from bounds.sets.choices import STAYS, Choices
from bounds.sets.orders import CHANGES
from certify.models import frozen, predictions, predictions_and_labels, probe
from certify.sets.draws import SetAccuracy


@dataclass(frozen=True, eq=False, kw_only=True)
class ChangeAccuracy(SetAccuracy):
    """Counts of correct predictions under random changes of features or words: nothing about the worst ones.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        correct: (N,) int64, changed copies that are classified correctly.
        right: (N, draws) bool, which ones.
        distance: (N, draws) float64, their numbers of changes.
        draws: copies of each input.
        unit: ``"changes"``.
        reach: the largest number of changes.
        subject: the classifier it speaks of.
    """


@isolated
def random_changes(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None,
    perturbation: PerturbationSet,
    *,
    draws: int = 100,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> ChangeAccuracy:
    """Number of correct predictions of each input under random changes of features or words.

    The number of changes is uniform from 1 to that of the set, or to the number of features or words that can change if
    that is less. Which ones change is uniform, and so is what each changes to: one of its choices, or a point of its
    range.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), the inputs that the sets are around.
        labels: (N,) correct classes; None for those that the model predicts.
        perturbation: N sets: :class:`bounds.CategoricalGroups`, :class:`bounds.FeatureChanges` or
            :class:`bounds.SynonymSet`.
        draws: changed copies of each input.
        batch_size: inputs of a forward pass.
        generator: source of the changes.

    Raises:
        InvalidInput: a bad argument, or another set.
        InvalidModel: see :func:`certify.models.probe`.
    """
    checks.at_least("draws", draws, 1)
    checks.at_least("batch_size", batch_size, 1)
    x = checks.inputs(x).detach()
    if not isinstance(perturbation, Choices):
        raise InvalidInput(
            f"perturbation must be bounds.CategoricalGroups, FeatureChanges or SynonymSet, got "
            f"{type(perturbation).__name__}: others have no uniform draws"
        )
    if perturbation.center.shape != x.shape or not torch.equal(perturbation.center, x):
        raise InvalidInput("perturbation must be around x, got another center: build it from x")
    generator = checks.generator(generator, x.device)
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        choice, shares = _drawn(perturbation, draws, generator)
        right, distance = [torch.zeros(0, dtype=torch.bool, device=x.device)], [x.new_zeros(0, dtype=torch.float64)]
        for copies in torch.arange(len(x) * draws, device=x.device).split(batch_size) if len(x) else ():
            rows, draw = copies // draws, copies % draws
            here = perturbation.rows(rows)
            made = here.pointed(shares[rows, draw]).points(choice[rows, draw]).to(x.dtype)
            right.append(predictions(model, made, batch_size) == labels[rows])
            distance.append(here.changed(made).double())
    found, distances = (torch.cat(parts).view(len(x), draws) for parts in (right, distance))
    return ChangeAccuracy(
        label=predicted,
        correct=found.sum(1),
        right=found,
        distance=distances,
        draws=draws,
        unit=CHANGES,
        reach=float(perturbation.changes),
    )


def _drawn(region: Choices, draws: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Choices (N, draws, P) of all positions, and shares (N, draws, P) of ranges."""
    (count, positions), size = region.stays.shape, len(region.position)

    def uniform(last: int) -> Tensor:
        device = region.budget.device
        return torch.rand(count, draws, last, generator=generator, device=device, dtype=torch.float64)

    most = torch.minimum(region.budget, (region.counts() > 0).sum(1))[:, None]
    number = (uniform(1)[..., 0] * most).long().clamp(max=most - 1) + 1  # uniform below 1 may round to 1
    order, what, shares = uniform(positions), uniform(size), uniform(positions)
    least, which = region.least_of_positions(what)
    order = order.masked_fill(~least.isfinite(), torch.inf)
    rank = order.argsort(dim=2).argsort(dim=2)
    taken = (rank < number[..., None]) & least.isfinite()
    return torch.where(taken, which, STAYS), shares
