"""Gradients of the differences between logits, and how they are measured."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput, InvalidModel
from bounds.models import class_logits


class StandIn(nn.Module):
    """A transformation of inputs, with another one behind it when it is differentiated (BPDA).

    ``nn.Sequential(StandIn(quantise), model)`` has the values of the model behind the transformation, exactly, and the
    derivatives, of every order, of the model behind the stand-in, taken where the transformed input lies.

    Args:
        transform: maps (N, *D) to inputs of the model, differentiable or not.
        smooth: a differentiable map to the same shape; None for the identity.

    References:
        Athalye, Carlini, Wagner (2018), Obfuscated gradients give a false sense of security, arXiv:1802.00420; Weng et
        al. (2018), On extensions of CLEVER, arXiv:1810.08640.
    """

    def __init__(self, transform: nn.Module, smooth: nn.Module | None = None) -> None:
        super().__init__()
        self.transform = transform
        self.smooth = nn.Identity() if smooth is None else smooth

    def forward(self, x: Tensor) -> Tensor:
        """The transformed input."""
        with torch.no_grad():
            value = self.transform(x)
        smooth: Tensor = self.smooth(x)
        result: Tensor = value + (smooth - smooth.detach())  # adds 0, and its derivative
        return result


def gradient_norms(model: nn.Module, points: Tensor, label: int, targets: Tensor, order: float) -> Tensor:
    """Norms (B, T) of the gradients of ``logit_label - logit_target`` at points (B, *D), from one forward pass."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(points)
        margins = (logits[:, label : label + 1] - logits.index_select(1, targets)).sum(0).unbind()
    found = []
    for i, margin in enumerate(margins):
        (gradient,) = torch.autograd.grad(margin, points, retain_graph=i + 1 < len(margins))
        found.append(torch.linalg.vector_norm(gradient.flatten(1), order, dim=1))
    return torch.stack(found, 1)


def margin_gradients(model: nn.Module, points: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Gradients (B, *D) of one margin each, labels and targets (B,), which can be differentiated again."""
    logits = model(points)
    margin = logits.gather(1, labels[:, None]) - logits.gather(1, targets[:, None])
    (gradient,) = torch.autograd.grad(margin.sum(), points, create_graph=True)
    return gradient


def all_logits(model: nn.Module, x: Tensor, chunk_size: int) -> Tensor:
    """Logits (N, K).

    Raises:
        InvalidModel: the output is no (N, K) of finite logits.
    """
    with torch.no_grad():
        return torch.cat([_logits(model, part) for part in x.split(chunk_size)]) if len(x) else x.new_zeros(0, 2)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits = class_logits(model(x.clone()), len(x))
    if not logits.isfinite().all():
        raise InvalidModel("the model returns logits that are not finite: check its weights and the input range")
    return logits


def other_classes(targets: Tensor | None, labels: Tensor, num_classes: int) -> Tensor:
    """Classes (N, T) to look at: those given, (N,) or (N, T), or all but the labels."""
    if targets is None:
        every = torch.arange(num_classes, device=labels.device).expand(len(labels), -1)
        return every[every != labels[:, None]].view(len(labels), num_classes - 1)
    shape = checks.tensor("targets", targets).shape
    if len(shape) not in (1, 2) or shape[0] != len(labels) or shape[1:].numel() == 0:
        raise InvalidInput(f"targets must have shape ({len(labels)},) or ({len(labels)}, T), got {tuple(shape)}")
    chosen = checks.labels(targets.flatten(), targets.numel(), num_classes).to(labels.device).view(*shape[:1], -1)
    same = (chosen == labels[:, None]).any(1)
    if same.any():
        row = int(same.nonzero()[0])
        raise InvalidInput(f"targets must differ from the predicted class, but row {row} asks for {int(labels[row])}")
    return chosen
