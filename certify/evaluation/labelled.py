"""Inputs and labels of an evaluation, in the forms in which people have them."""

from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bounds import checks
from bounds.errors import InvalidInput
from certify.evaluation.budget.row_memory import rows_of_passes
from certify.loaders import collect, is_loader
from certify.models import first_rows, frozen, predictions_and_labels, probe
from certify.stored_inputs import Rows, StoredInputs, checked_inputs

Inputs = Rows | DataLoader[Any] | Dataset[Any]


def inputs_and_labels(
    model: nn.Module, x: Inputs, labels: Tensor | None, batch_size: int, memory: int | None = None
) -> tuple[Rows, Tensor]:
    """Inputs (N, *D) and the classes (N,) that all results are about.

    Args:
        model: maps inputs to logits.
        x: inputs, or a data set or loader of inputs and classes.
        labels: classes of inputs that are a tensor; those that the model predicts, if None.
        batch_size: rows of a forward pass, at most.
        memory: bytes that a forward pass may take; None without a limit.

    Raises:
        InvalidInput: labels besides those of a loader, or what cannot be read; a memory that is too small.
        InvalidModel: see :func:`certify.models.probe`.
    """
    if is_loader(x):
        if labels is not None:
            raise InvalidInput("labels must be left out where x is a data set or loader, which has its own, got both")
        device = next((weight.device for weight in model.parameters()), None)
        inputs, given = collect(x)
        return inputs.to(device), given.to(device)
    if labels is not None or not isinstance(x, Tensor | StoredInputs):
        given = checks.tensor("labels", labels)  # type: ignore[arg-type]  # which refuses others
        return (x if isinstance(x, StoredInputs) else checks.tensor("x", x)), given  # type: ignore[arg-type]  # likewise
    checks.not_empty(checked_inputs(x))  # type: ignore[arg-type]  # whose length is asked for
    rows = rows_of_passes(model, x, checks.at_least("batch_size", batch_size, 1), memory)
    with frozen(model):
        num_classes = probe(model, first_rows(x))
        return x, predictions_and_labels(model, x, None, num_classes, rows)[1]
