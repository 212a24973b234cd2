"""A caller's model, set up for one computation and handed back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from bounds.errors import InvalidModel


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without gradients for its weights; restored on leaving.

    Raises:
        InvalidModel: not an ``nn.Module``.
    """
    require_module(model)
    modes = [(module, module.training) for module in model.modules()]
    # Weights made under inference mode take part in no gradient, and refuse to be asked for one.
    gradients = [(weight, weight.requires_grad) for weight in model.parameters() if not weight.is_inference()]
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


def require_module(model: nn.Module) -> None:
    """Refuse what is no ``nn.Module``."""
    if not isinstance(model, nn.Module):
        raise InvalidModel(f"the model must be a torch.nn.Module, got {type(model).__name__}: wrap it in one")
