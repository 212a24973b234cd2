"""What minimum-norm attacks share: checked arguments, batches, and a witness that was run through the model again."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from certify.attacks.common.norms import clip, length, per_row
from certify.attacks.common.threat import checked_norm as checked_norm
from certify.attacks.common.threat import sides
from certify.attacks.minimum_norm.search import Search
from certify.models import frozen, predictions, probe
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
) -> Witness:
    """The nearest point that the ``stages``, run one after the other on the same search, found for each row.

    Every witness is run through the model once more after the search. It counts as found only if the model
    misclassifies exactly the stored tensor and the tensor lies in the box; its distance is recomputed in
    float64 from the stored tensors.
    """
    checks.inputs(x, low, high)
    checks.frozen_features(frozen_features, x)
    checks.at_least("batch_size", batch_size, 1)
    x = x.detach()
    low, high = sides(x, low, high, frozen_features)
    names = list(stages)
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        labels = checks.labels(labels, len(x), num_classes).to(x.device)
        clean = predictions(model, x, batch_size) if len(x) else labels
        adversarial, winner = x.clone(), torch.full_like(labels, -1)
        forward, backward = torch.full_like(labels, 2), torch.zeros_like(labels)
        searched = ((clean == labels) | (clean < 0)).nonzero().squeeze(1)  # the others are wrong as they are
        for rows in searched.split(batch_size) if len(searched) else ():
            search = Search(model, x[rows], labels[rows], norm, low[rows], high[rows], num_classes, generator)
            for search.stage, name in enumerate(names):
                stages[name](search)
            adversarial[rows], winner[rows] = search.best, search.winner
            forward[rows] += search.forward
            backward[rows] += search.backward
        predicted = predictions(model, adversarial, batch_size) if len(x) else labels
    inside = (clip(adversarial, low, high) == adversarial).flatten(1).all(1)
    found = inside & (predicted != labels) & (predicted >= 0)
    return Witness(
        label=clean,
        distance=torch.where(found, length(adversarial.double() - x.double(), norm), math.inf),
        adversarial=torch.where(per_row(found, x), adversarial, x),
        found=found,
        adversarial_label=torch.where(found, predicted, clean),
        norm=norm,
        queries=max(forward.tolist(), default=0),
        backward_passes=max(backward.tolist(), default=0),
        method=method,
        winner=tuple(names[i] if i >= 0 else "" for i in torch.where(found, winner, -1).tolist()),
        queries_per_row=forward,
        backward_passes_per_row=backward,
    )
