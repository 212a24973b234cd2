"""What minimum-norm attacks share: checked arguments, batches, and a witness that was run through the model again."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from certify.attacks.common.distances import distance
from certify.attacks.common.formats import Format, checked_grid
from certify.attacks.common.gradients import symptoms
from certify.attacks.common.norms import clip, per_row
from certify.attacks.common.passes import examine
from certify.attacks.common.streams import Streams
from certify.attacks.common.threat import check_box, sides
from certify.attacks.common.threat import checked_norm as checked_norm
from certify.attacks.minimum_norm.search import Search
from certify.models import frozen, predictions
from certify.results import Witness

Attack = Callable[[Search], object]  # runs points through a search, which remembers the nearest successes


@isolated
def witness_of(
    method: str,
    stages: Mapping[str, Attack],
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit,
    high: Limit,
    frozen_features: Tensor | None,
    batch_size: int,
    generator: torch.Generator | None,
    targets: Tensor | None = None,
    grid: int | None = None,
    first_index: int = 0,
) -> Witness:
    """The nearest point that the ``stages``, run one after the other on the same search, found for each row.

    Every witness is run through the model once more after the search. It counts as found only if the model
    misclassifies exactly the stored tensor, as the target class if there is one, and the tensor lies in the box; its
    distance is recomputed in float64 from the stored tensors, and rounded up.
    """
    check_box(x, low, high, frozen_features)
    checks.at_least("batch_size", batch_size, 1)
    form = Format(x.dtype, checked_grid(grid))
    given = x.detach()
    lower, upper = (side.to(form.working) for side in sides(given, low, high, frozen_features))
    x = given.to(form.working)
    names = list(stages)
    with frozen(model), torch.no_grad():
        model, num_classes, labels, clean = examine(model, given, labels, batch_size)
        aims = None if targets is None else _checked_targets(targets, labels, num_classes)
        streams = Streams.of(generator, len(x), x.device, first_index)
        adversarial, winner = given.clone(), torch.full_like(labels, -1)
        forward, backward = torch.full_like(labels, 2), torch.zeros_like(labels)
        shown = torch.zeros(3, len(x), dtype=torch.bool, device=x.device)
        blind = torch.zeros_like(shown[0])
        done = (clean >= 0) & (clean != labels if aims is None else clean == aims)  # wrong as they are
        searched = (~done).nonzero().squeeze(1)
        for rows in searched.split(batch_size) if len(searched) else ():
            search = Search(
                model,
                x[rows],
                labels[rows],
                norm,
                lower[rows],
                upper[rows],
                num_classes,
                streams.rows(rows),
                form,
                None if aims is None else aims[rows],
            )
            for search.stage, name in enumerate(names):
                stages[name](search)
            adversarial[rows], winner[rows] = search.best.to(form.dtype), search.winner
            forward[rows] += search.forward + search.more_forward
            backward[rows] += search.backward + search.more_backward
            blind[rows] = search.blind | search.broken | search.unforetold
            shown[:, rows] = torch.stack([search.blind, search.nonfinite, search.unforetold])
        predicted = predictions(model, adversarial, batch_size) if len(x) else labels
    inside = (clip(adversarial, lower, upper) == adversarial).flatten(1).all(1)
    found = inside & (predicted >= 0) & (predicted != labels if aims is None else predicted == aims)
    return Witness(
        label=clean,
        distance=torch.where(found, distance(adversarial, given, norm), math.inf),
        adversarial=torch.where(per_row(found, given), adversarial, given),
        found=found,
        adversarial_label=torch.where(found, predicted, clean),
        norm=norm,
        queries=max(forward.tolist(), default=0),
        backward_passes=max(backward.tolist(), default=0),
        method=method,
        winner=tuple(names[i] if i >= 0 else "" for i in torch.where(found, winner, -1).tolist()),
        queries_per_row=forward,
        backward_passes_per_row=backward,
        blind=blind,
        symptoms=symptoms(*shown),
    )


def _checked_targets(targets: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Classes (N,) other than the labels."""
    aims = checks.labels(targets, len(labels), num_classes).to(labels.device)
    if (aims == labels).any():
        row = int((aims == labels).nonzero()[0])
        raise InvalidInput(
            f"targets must differ from labels, but row {row} asks for {int(aims[row])}: choose another class"
        )
    return aims
