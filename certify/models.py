"""Handling a caller's model: set it up for a certificate, look at its answers, hand it back as it was."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidModel
from bounds.memory import out_of_memory
from bounds.models import frozen as frozen
from bounds.models import require_module

# Rows of one batch may differ in the last bits between batch sizes; real coupling is far above this.
COUPLING_TOLERANCE = 1e-3


def probe(model: nn.Module, x: Tensor, num_classes: int | None = None, *, batch_size: int = 2) -> int:
    """Number of classes of a model already in evaluation mode, after checking what every method relies on.

    A certificate speaks of one fixed function of one input. So a forward pass must leave its input as it is,
    two passes over the same inputs must agree bit by bit, and the answer for an input must not depend on the
    other rows of its batch. This is tried on the first input beside the one that differs most from it among the
    first hundred; beside one made from its own values if all are equal.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), at least one row.
        num_classes: the K that the caller expects.
        batch_size: rows of the largest forward pass that is to come; tried once, if above 2.

    Raises:
        InvalidModel: no ``nn.Module``; the model rejects the inputs or a batch of that size, or writes into
            them; its output is no (N, K) of K >= 2 real logits, finite for the first input; K is not as
            expected; two passes differ; or rows influence each other.
    """
    require_module(model)
    pair = _differing_pair(x)
    with torch.no_grad():
        logits = _logits(model, pair)
        if num_classes is not None and logits.shape[1] != num_classes:
            raise InvalidModel(f"num_classes is {num_classes}, but the model returns {logits.shape[1]} logits")
        if not logits[:1].isfinite().all():
            raise InvalidModel("the model returns logits that are not finite: check its weights and the input range")
        if not torch.equal(logits.nan_to_num(), _logits(model, pair).nan_to_num()):
            raise InvalidModel(
                "two forward passes of the model over the same inputs differ: a certificate needs a deterministic "
                "model, so remove the randomness (dropout, sampling) from its forward pass"
            )
        others = [_logits(model, pair[:1])]
        if batch_size > 2:
            try:
                others.append(_logits(model, pair[torch.arange(batch_size, device=x.device) % 2]))
            except RuntimeError as error:  # too large a batch is no fault of the model, and not for this check
                if not out_of_memory(error):
                    raise
    tolerance = COUPLING_TOLERANCE * logits[:1].abs().max().clamp(min=1)
    for other in others:
        if not (other.shape[1] == logits.shape[1] and ((logits[:1] - other[:1]).abs() <= tolerance).all()):
            raise InvalidModel("the logits of an input depend on the other rows of its batch: remove batch statistics")
    return logits.shape[1]


def predictions(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Predicted class of each input, (N,) int64; -1 where a logit is not finite."""
    with torch.no_grad():
        return torch.cat([_choice(model(part)) for part in x.split(batch_size)])


def _choice(logits: Tensor) -> Tensor:
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def _differing_pair(x: Tensor) -> Tensor:
    """The first row and one that differs from it, (2, *D); batch statistics of equal rows would not show."""
    checks.at_least("number of inputs", len(x), 1)
    x = x[:100].detach()
    first, distance = x[:1], (x - x[:1]).flatten(1).abs().amax(1)
    if distance.max() > 0:
        return torch.cat([first, x[distance.argmax()].unsqueeze(0)])
    # One value of the input everywhere: unlike a permutation of all of them, it moves every mean over entries.
    value = first.max() if first.max() > first.min() else (first.max() == 0).to(x.dtype)
    return torch.cat([first, value.expand_as(first)])


def _logits(model: nn.Module, rows: Tensor) -> Tensor:
    """Logits (B, K) of a copy of the rows, whatever the model does to it."""
    given = rows.clone()
    version = None if given.is_inference() else given._version  # counts the writes, also those that change nothing
    try:
        logits = model(given)
    except Exception as error:  # models raise anything
        if out_of_memory(error) or isinstance(error, InvalidModel):
            raise
        reason = (str(error).strip() or "no message").splitlines()[0]
        remedy = ""
        if len(rows) != 2 or "[0]" in reason:
            remedy = "; export the model with a dynamic batch dimension, or lower batch_size"
        raise InvalidModel(
            f"the model does not accept x of shape {tuple(rows.shape)}, {rows.dtype} on {rows.device}: "
            f"{type(error).__name__}: {reason}{remedy}"
        ) from error
    if not torch.equal(given, rows) or (version is not None and given._version != version):
        raise InvalidModel(
            "the model writes into its input: begin its forward pass without in-place operations "
            "(inplace=True, clamp_, round_), or with x = x.clone()"
        )
    if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[0] == len(rows) and logits.shape[1] > 1):
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidModel(f"the model must return logits of shape (N, K) with K >= 2, got {shown} for N = {len(rows)}")
    if logits.is_complex() or logits.dtype == torch.bool:
        raise InvalidModel(f"the model must return real logits, got {logits.dtype}")
    return logits
