"""Handling a caller's model: set it up for a certificate, look at its answers, hand it back as it was."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidModel
from bounds.memory import out_of_memory
from bounds.models import (
    PROBE_ROWS,
    agree,
    answer,
    class_logits,
    mixes_rows,
    random_operation,
    randomness,
    require_module,
    tolerance,
)
from bounds.models import frozen as frozen
from bounds.numerics import per_row
from certify.stored_inputs import Rows


def probe(model: nn.Module, x: Tensor, num_classes: int | None = None, *, batch_size: int = 2) -> int:
    """Number of classes of a model already in evaluation mode, after checking what every method relies on.

    A certificate speaks of one fixed function of one input. So a forward pass must leave its input as it is and draw
    no random numbers, two passes over the same inputs must agree bit by bit, and the answer for an input must not
    depend on the other rows of its batch, nor on its place there. This is tried on five rows: the first input, those
    that differ most from it among the first hundred, or fewer of large ones, and rows made from its own values if there
    are not enough.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), at least one row.
        num_classes: the K that the caller expects.
        batch_size: rows of the largest forward pass that is to come; tried once, if above the five.

    Raises:
        InvalidModel: no ``nn.Module``; the model rejects the inputs or a batch of that size, or writes into
            them; its output is no (N, K) of K >= 2 real logits, finite for the first input; K is not as
            expected; it draws random numbers, or two passes differ; or rows influence each other.
    """
    require_module(model)
    known = _PROBED.get()
    key = (id(model), x.dtype, x.device, x.shape[1:])
    if known is not None and key in known and known[key].batch_size >= batch_size and len(x):
        if num_classes is not None and known[key].num_classes != num_classes:
            raise InvalidModel(f"num_classes is {num_classes}, but the model returns {known[key].num_classes} logits")
        return known[key].num_classes
    found = _probed(model, x, num_classes, batch_size)
    if known is not None:
        known[key] = _Probed(model, found, batch_size)
    return found


class _Probed(NamedTuple):
    """A model that passed, kept so that no other object takes its place in memory."""

    model: nn.Module
    num_classes: int
    batch_size: int


_PROBED: ContextVar[dict[object, _Probed] | None] = ContextVar("models probed", default=None)


@contextlib.contextmanager
def probed_once(known: dict[object, Any] | None = None) -> Iterator[None]:
    """While one evaluation runs, a model that passed is not probed again on inputs of that type and shape.

    ``known`` remembers it for the next time, in a worker that computes parts of one evaluation.
    """
    token = _PROBED.set({} if known is None else known)
    try:
        yield
    finally:
        _PROBED.reset(token)


def _probed(model: nn.Module, x: Tensor, num_classes: int | None, batch_size: int) -> int:
    """Number of classes, after the checks of :func:`probe`."""
    rows = _distinct_rows(x)
    with torch.no_grad():
        logits = _logits(model, rows)
        if num_classes is not None and logits.shape[1] != num_classes:
            raise InvalidModel(f"num_classes is {num_classes}, but the model returns {logits.shape[1]} logits")
        if not logits[:1].isfinite().all():
            raise InvalidModel("the model returns logits that are not finite: check its weights and the input range")
        if found := random_operation(model, rows[:1]):
            raise InvalidModel(randomness(found))
        if not agree(_logits(model, rows), logits):
            raise InvalidModel(
                "two forward passes of the model over the same inputs differ: a certificate needs a deterministic "
                "model, so remove the randomness (dropout, sampling) from its forward pass"
            )
        places: list[slice | Tensor] = [slice(0, 1), slice(PROBE_ROWS - 1, PROBE_ROWS)]
        if batch_size > PROBE_ROWS:
            places.append(torch.arange(batch_size, device=x.device) % PROBE_ROWS)
        allowed, same = tolerance(model, logits), not mixes_rows(model, rows, logits, in_parts=True)
        for place in places:
            try:
                same = same and agree(_logits(model, rows[place])[:PROBE_ROWS], logits[place][:PROBE_ROWS], allowed)
            except RuntimeError as error:  # too large a batch is no fault of the model, and not for this check
                if not out_of_memory(error):
                    raise
        if not same:
            raise InvalidModel(
                "the logits of an input depend on the other rows of its batch: remove batch statistics, such as "
                "those of batch normalisation with track_running_stats=False"
            )
    return logits.shape[1]


def first_rows(x: Rows) -> Tensor:
    """The rows of inputs (N, *D) that a probe chooses from: a hundred, or fewer of large ones."""
    return x[: min(100, max(PROBE_ROWS, checks.rows_at_once(x)))]


def predictions(model: nn.Module, x: Rows, batch_size: int) -> Tensor:
    """Predicted class of each input, (N,) int64; -1 where a logit is not finite."""
    with torch.no_grad():
        return torch.cat([_choice(model(part)) for part in x.split(batch_size)])


def predictions_and_labels(
    model: nn.Module, x: Rows, labels: Tensor | None, num_classes: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Predicted classes (N,), and those that a statement is about: the labels given, else the predictions.

    A row without a prediction has class 0 then, and is never right.
    """
    given = None if labels is None else checks.labels(labels, len(x), num_classes).to(x.device)
    none = torch.zeros(0, dtype=torch.int64, device=x.device)
    predicted = predictions(model, x, batch_size) if len(x) else none
    return predicted, predicted.clamp(min=0) if given is None else given


def _choice(logits: Tensor) -> Tensor:
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def _distinct_rows(x: Tensor) -> Tensor:
    """The first row and others that differ from it and each other, (5, *D), made of numbers of the inputs."""
    checks.at_least("number of inputs", len(x), 1)
    x = first_rows(x).detach()
    first, distance = x[:1], (x - x[:1]).flatten(1).abs().amax(1)
    farthest = x[distance.argsort(descending=True)[: PROBE_ROWS - 1]]
    farthest = farthest[(farthest != first).flatten(1).any(1)]
    # One value of the input everywhere: unlike a permutation of all of them, it moves every mean over entries.
    values = first.unique()
    values = values if len(values) > 1 else torch.stack([values[0], (values[0] == 0).to(x.dtype)])
    places = torch.linspace(len(values) - 1, 0, PROBE_ROWS - 1, device=x.device).round().long()
    made = per_row(values[places], x).expand(-1, *x.shape[1:])
    return torch.cat([first, farthest, made])[:PROBE_ROWS]


def _logits(model: nn.Module, rows: Tensor) -> Tensor:
    """Logits (B, K) of a copy of the rows, whatever the model does to it."""
    given = rows.clone()
    version = None if given.is_inference() else given._version  # counts the writes, also those that change nothing
    output = answer(model, given)
    if not torch.equal(given, rows) or (version is not None and given._version != version):
        raise InvalidModel(
            "the model writes into its input: begin its forward pass without in-place operations "
            "(inplace=True, clamp_, round_), or with x = x.clone()"
        )
    logits = class_logits(output, len(rows))
    if logits.is_complex() or logits.dtype == torch.bool:
        raise InvalidModel(f"the model must return real logits, got {logits.dtype}")
    return logits
