"""Passes through the model under attack: in the dtype of its inputs, in batches that it takes."""

import math
from time import monotonic

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput, InvalidModel
from certify.attacks.common.formats import Format
from certify.models import predictions, probe

ROUNDING = {torch.float16: 2, torch.bfloat16: 2}  # units in the last place of the largest logit
ROUNDING_ELSEWHERE = 8


class OutOfTime(Exception):  # no error: what was found counts
    """The time limit of an attack has passed."""


def logits_of(model: nn.Module, points: Tensor, format_: Format, deadline: float = math.inf) -> tuple[Tensor, Tensor]:
    """Logits (N, K) in the working dtype, and how much they may differ from batch to batch, (N,).

    A class wins only by more than that: the re-check of what is found runs in other batches.

    Raises:
        OutOfTime: the deadline, a moment of :func:`time.monotonic`, has passed.
    """
    if monotonic() > deadline:
        raise OutOfTime
    logits: Tensor = model(points.to(format_.dtype))
    kind = logits.dtype if logits.is_floating_point() else torch.float32
    logits = logits.to(torch.promote_types(kind, torch.float32))
    units = ROUNDING.get(kind, ROUNDING_ELSEWHERE)
    return logits, units * torch.finfo(kind).eps * logits.detach().abs().amax(1)


def examine(model: nn.Module, x: Tensor, labels: Tensor, batch_size: int) -> tuple[nn.Module, int, Tensor, Tensor]:
    """A model to call, its number of classes, checked labels (N,) and clean predictions (N,).

    The model is the one given, or one that takes its batches apart where it takes ``batch_size`` rows only. A
    prediction is -1 where logits are not finite.
    """
    if labels is None:
        raise InvalidInput(
            "labels must hold the correct class of each input, got None: pass those of the data set, "
            "or labels=model(x).argmax(1) to attack the predictions"
        )
    if len(x) == 0:
        labels = checks.labels(labels, 0, 2).to(x.device)
        return model, 2, labels, labels
    model, num_classes = probed(model, x, batch_size)
    labels = checks.labels(labels, len(x), num_classes).to(x.device)
    return model, num_classes, labels, predictions(model, x, batch_size)


def probed(model: nn.Module, x: Tensor, batch_size: int) -> tuple[nn.Module, int]:
    """A model to call, which is the one given or calls it with ``batch_size`` rows only, and its number of classes."""
    try:
        return model, probe(model, x, batch_size=min(batch_size, len(x)))
    except InvalidModel:
        fixed = FixedBatch(model, batch_size)
        if not fixed.is_taken(x[:1]):
            raise
        return fixed, probe(fixed, x, batch_size=min(batch_size, len(x)))


class FixedBatch(nn.Module):
    """A model that takes one number of rows only, given as many at a time; the last of them are repeated."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def is_taken(self, x: Tensor) -> bool:
        """Whether the model takes that number of rows, and not one more as well."""
        try:
            self(x)
        except Exception:  # models raise anything
            return False
        try:
            self.model(x[:1].expand(self.rows + 1, *x.shape[1:]).clone())
        except Exception:
            return True
        return False

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of any number N of rows."""
        missing = -len(x) % self.rows
        full = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        return torch.cat([self.model(part) for part in full.split(self.rows)])[: len(x)]
