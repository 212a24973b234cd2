"""Exact votes over all cases of a finite noise, the basis of derandomised smoothed classifiers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from certify.models import frozen, probe


def lead(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The class with the most votes, the first one of equals, and its lead over the second.

    The lead is one smaller where the second would win a tie. As long as at most ``lead // 2`` votes change, the class
    stays, whether a vote goes to another class or to none.

    Args:
        counts: (N, K) int64.

    Returns:
        (N,) int64 labels and (N,) int64 leads, which are never below 0.

    >>> lead(torch.tensor([[7, 3], [3, 7], [5, 5]]))
    (tensor([0, 1, 0]), tensor([4, 3, 0]))
    """
    label = counts.argmax(1, keepdim=True)
    others = counts.scatter(1, label, -1)
    second = others.argmax(1, keepdim=True)
    margin = counts.gather(1, label) - counts.gather(1, second) - (second < label).long()
    return label.squeeze(1), margin.squeeze(1)


def count_all(
    model: nn.Module,
    x: Tensor,
    encode: Callable[[Tensor, Tensor], Tensor],
    cases: int,
    *,
    num_classes: int,
    batch_size: int,
) -> Tensor:
    """Votes of a model over all cases of every input, each one forward pass; none is read back to the host.

    Args:
        model: maps encoded inputs to logits (B, K).
        x: (N, *D).
        encode: maps B inputs and their cases, (B,) int64, to inputs of the model.
        cases: number of cases per input.
        num_classes: K.
        batch_size: rows of a forward pass, at most; a batch holds cases of several inputs where it is larger.

    Returns:
        (N, K + 1) int64 on the device of ``x``. The last column counts cases with a NaN logit, which vote for no
        class.

    Raises:
        InvalidModel: see :func:`certify.models.probe`.
    """
    total, columns = len(x) * cases, num_classes + 1
    votes = torch.zeros(len(x), columns, dtype=torch.int64, device=x.device)
    with frozen(model), torch.no_grad():
        if total:
            some = x[:100].detach()
            first = encode(some, torch.zeros(len(some), dtype=torch.int64, device=x.device))
            probe(model, first, num_classes, batch_size=min(batch_size, total))
        for start in range(0, total, batch_size):
            places = torch.arange(start, min(start + batch_size, total), device=x.device)
            rows = places // cases
            largest, choice = model(encode(x[rows], places % cases)).max(dim=1)
            choice = choice.masked_fill(largest.isnan(), num_classes) + columns * rows
            votes.view(-1).scatter_add_(0, choice, torch.ones_like(choice))
    return votes
