"""Layers that belong to a network as its user sees it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput, InvalidModel
from bounds.models import one_tensor, require_module


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, as the first layer of a network.

    Inside the network, all radii and noise levels keep the units of the raw input.

    Args:
        mean: one number per channel.
        std: one number per channel, above zero.

    Raises:
        InvalidInput: no sequences of finite numbers, the lengths differ, or a standard deviation is not above
            zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        try:
            center, scale = (torch.tensor([float(value) for value in values]) for values in (mean, std))
        except (TypeError, ValueError):
            center, scale = torch.zeros(0), torch.zeros(0)
        proper = len(center) == len(scale) > 0 and bool((center.isfinite() & scale.isfinite() & (scale > 0)).all())
        if not proper:
            raise InvalidInput(
                f"mean and std must have one entry per channel and std must be above 0, got {mean} and {std}: "
                f"pass sequences of finite numbers, such as [0.5]"
            )
        self.register_buffer("mean", center)
        self.register_buffer("std", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, *D); the channel is the second dimension."""
        return (x - self.per_channel(self.mean, x)) / self.per_channel(self.std, x)

    @staticmethod
    def per_channel(values: Tensor, x: Tensor) -> Tensor:
        """Shape (C,) values so that they broadcast over the channels of (N, C, *D)."""
        if values.numel() not in (1, x.shape[1]):
            raise InvalidInput(f"x must have {values.numel()} channels, got shape {tuple(x.shape)}")
        return values.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


class TwoClasses(nn.Module):
    """A classifier of one logit as one of two: class 1 where the logit is above 0, else class 0.

    Its logits are 0 and the logit of the model, so that margins are the logit itself, or less it.

    Args:
        model: maps (N, *D) to logits (N, 1) or (N,).

    Raises:
        InvalidModel: the model returns more than one logit for an input, or no tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        require_module(model)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2)."""
        logit = one_tensor(self.model(x))
        if logit.shape[1:] not in ((), (1,)):
            raise InvalidModel(f"the model must return one logit for each input, got shape {tuple(logit.shape)}")
        logit = logit.unsqueeze(1) if logit.ndim == 1 else logit
        return torch.cat([torch.zeros_like(logit), logit], 1)


class Logits(nn.Module):
    """A model that returns an object with ``.logits``, as those of transformers do, as one that returns the logits.

    Args:
        model: maps (N, *D) to an object with an attribute ``logits``, or to logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        require_module(model)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        output = self.model(x)
        return one_tensor(getattr(output, "logits", output))


class GroupSort(nn.Module):
    """Sorts consecutive groups of features (dimension 1): 1-Lipschitz in every l_p norm, with gradients of full length.

    Args:
        group: entries of a group; 2 is MaxMin.

    References:
        Anil, Lucas, Grosse (2019), Sorting out Lipschitz function approximation, arXiv:1811.05381.
    """

    def __init__(self, group: int = 2) -> None:
        super().__init__()
        self.group = checks.at_least("group", group, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The groups in ascending order."""
        if x.shape[1] % self.group:
            raise InvalidInput(f"the number of features must be a multiple of {self.group}, got {x.shape[1]}")
        entries = list(x.unflatten(1, (-1, self.group)).unbind(2))
        # Neighbours change places in turn, by operations that bounds know.
        for turn in range(self.group):
            for i in range(turn % 2, self.group - 1, 2):
                one, other = entries[i : i + 2]
                entries[i], entries[i + 1] = torch.minimum(one, other), torch.maximum(one, other)
        return torch.stack(entries, 2).flatten(1, 2)


def segments(model: nn.Module) -> list[nn.Module]:
    """The parts of a network between its sorting layers; the network itself where it is not sequential or has none."""
    layers = _flat(model)
    if not any(isinstance(layer, GroupSort) for layer in layers):
        return [model]
    parts: list[list[nn.Module]] = [[]]
    for layer in layers:
        if isinstance(layer, GroupSort):
            parts.append([])
        else:
            parts[-1].append(layer)
    return [nn.Sequential(*part) for part in parts]


def _flat(model: nn.Module) -> list[nn.Module]:
    if type(model) is nn.Sequential:
        return [layer for child in model for layer in _flat(child)]
    return [model]
