"""Sorted pairs: the activation of networks whose gradients keep their length."""

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput


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
