"""Handling a caller's model: set it up for a certificate, look at its answers, hand it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bounds.errors import InvalidModel

# Rows of one batch may differ in the last bits between batch sizes; real coupling is far above this.
COUPLING_TOLERANCE = 1e-3


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without gradients for its weights; restored on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False  # not .eval(): modules from torch.export refuse that call
        for weight, _ in gradients:
            weight.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for weight, required in gradients:
            weight.requires_grad_(required)


def probe(model: nn.Module, x: Tensor, num_classes: int | None = None) -> int:
    """Number of classes of a model already in evaluation mode, after checking what every method relies on.

    A certificate speaks of one fixed function of one input, so two passes over the same inputs must agree bit
    by bit, and the answer for an input must not depend on the other rows of its batch.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D); the first two rows are used. No row, no check.
        num_classes: the K that the caller expects.

    Raises:
        InvalidModel: the model rejects the inputs, its output is no (N, K) of K >= 2 finite logits, K is not
            as expected, two passes differ, or rows influence each other.
    """
    rows = x[:2]
    with torch.no_grad():
        try:
            logits = model(rows)
            again = model(rows)
            alone = model(rows[:1])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shape, reason = tuple(rows.shape), str(error).strip().splitlines()[0]
            raise InvalidModel(
                f"the model does not accept x of shape {shape}, {rows.dtype} on {rows.device}: {reason}"
            ) from error
    if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[0] == len(rows) and logits.shape[1] > 1):
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidModel(f"the model must return logits of shape (N, K) with K >= 2, got {shown} for N = {len(rows)}")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise InvalidModel(f"num_classes is {num_classes}, but the model returns {logits.shape[1]} logits")
    if not logits.isfinite().all():
        raise InvalidModel("the model returns logits that are not finite: check its weights and the input range")
    if not torch.equal(logits, again):
        raise InvalidModel(
            "two forward passes of the model over the same inputs differ: a certificate needs a deterministic "
            "model, so remove the randomness (dropout, sampling) from its forward pass"
        )
    scale = logits.abs().max().clamp(min=1)
    if ((logits[:1] - alone).abs() > COUPLING_TOLERANCE * scale).any():
        raise InvalidModel("the logits of an input depend on the other rows of its batch: remove batch statistics")
    return logits.shape[1]


def predictions(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Predicted class of each input, (N,) int64."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(batch_size)])
