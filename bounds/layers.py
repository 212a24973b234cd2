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
