"""Inputs and labels of an evaluation, in the forms in which people have them."""

from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bounds import checks
from bounds.errors import InvalidInput
from certify.loaders import collect, is_loader
from certify.models import frozen, predictions_and_labels, probe

Inputs = Tensor | DataLoader[Any] | Dataset[Any]


def inputs_and_labels(model: nn.Module, x: Inputs, labels: Tensor | None, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs (N, *D) and the classes (N,) that all results are about.

    Args:
        model: maps inputs to logits.
        x: inputs, or a data set or loader of inputs and classes.
        labels: classes of inputs that are a tensor; those that the model predicts, if None.
        batch_size: rows of a forward pass, at most.

    Raises:
        InvalidInput: labels besides those of a loader, or what cannot be read.
        InvalidModel: see :func:`certify.models.probe`.
    """
    if is_loader(x):
        if labels is not None:
            raise InvalidInput("labels must be left out where x is a data set or loader, which has its own, got both")
        device = next((weight.device for weight in model.parameters()), None)
        inputs, given = collect(x)
        return inputs.to(device), given.to(device)
    if labels is not None or not isinstance(x, Tensor):
        return checks.tensor("x", x), checks.tensor("labels", labels)  # type: ignore[arg-type]  # which refuse others
    with frozen(model):
        num_classes = probe(model, checks.not_empty(checks.inputs(x)))
        return x, predictions_and_labels(model, x, None, num_classes, checks.at_least("batch_size", batch_size, 1))[1]
