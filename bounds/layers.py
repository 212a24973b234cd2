"""Layers that belong to a network as its user sees it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bounds.errors import InvalidInput


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, as the first layer of a network.

    Inside the network, all radii and noise levels keep the units of the raw input.

    Args:
        mean: one number per channel.
        std: one number per channel, above zero.

    Raises:
        InvalidInput: the lengths differ, or a standard deviation is not above zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise InvalidInput(
                f"mean and std must have one entry per channel and std must be above 0, got {mean} and {std}"
            )
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, *D); the channel is the second dimension."""
        return (x - self.per_channel(self.mean, x)) / self.per_channel(self.std, x)

    @staticmethod
    def per_channel(values: Tensor, x: Tensor) -> Tensor:
        """Shape (C,) values so that they broadcast over the channels of (N, C, *D)."""
        if values.numel() not in (1, x.shape[1]):
            raise InvalidInput(f"x must have {values.numel()} channels, got shape {tuple(x.shape)}")
        return values.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
