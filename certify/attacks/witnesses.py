"""What minimum-norm attacks share: checked arguments, batches, and a witness that was run through the model again."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from certify.attacks.geometry import clip, inner_side, length, per_row
from certify.attacks.search import Search
from certify.models import frozen, predictions, probe
from certify.results import Witness

Attack = Callable[[Search], object]  # runs points through a search, which remembers the nearest successes


def checked_norm(norm: float, known: tuple[float, ...]) -> float:
    """The order as a float; it must be one of those that the attack serves."""
    if isinstance(norm, bool) or norm not in known:
        names = ["math.inf" if order == math.inf else f"{order:g}" for order in known]
        listed = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        raise InvalidInput(f"norm must be {listed}, got {norm!r}")
    return float(norm)


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
    checks.at_least("batch_size", batch_size, 1)
    x = x.detach()
    low, high = _box(x, low, high, frozen_features)
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


def _box(x: Tensor, low: Limit, high: Limit, frozen_features: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sides (N, *D) of the box of each row, infinite where it is open; frozen entries have no room."""
    lower, upper = inner_side(low, x, math.inf), inner_side(high, x, -math.inf)
    lower = x.new_full((), -math.inf) if lower is None else lower
    upper = x.new_full((), math.inf) if upper is None else upper
    if frozen_features is not None:
        mask = checks.tensor("frozen_features", frozen_features).to(x.device)
        if mask.dtype != torch.bool:
            raise InvalidInput(f"frozen_features must be a boolean tensor, got {mask.dtype}: True where x must stay")
        try:
            mask = mask.expand(x.shape[1:])
        except RuntimeError:
            raise InvalidInput(
                f"frozen_features must broadcast to one input, of shape {tuple(x.shape[1:])}, got "
                f"{tuple(mask.shape)}: pass one mask for all inputs, without a batch dimension"
            ) from None
        lower, upper = torch.where(mask, x, lower), torch.where(mask, x, upper)
    return lower.expand_as(x), upper.expand_as(x)
