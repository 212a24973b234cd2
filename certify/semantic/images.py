"""Inputs of any shape as images (N, C, H, W), and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.numerics import converted_down


@dataclass(frozen=True)
class Layout:
    """Order of dimensions in which inputs hold their images.

    Attributes:
        shape: (N, *D) of the inputs.
        channels_last: whether these are (N, H, W, C).
        flat: whether the places of pixels do not matter, so that any input counts as one line of pixels.
    """

    shape: torch.Size
    channels_last: bool
    flat: bool

    @classmethod
    def of(cls, x: Tensor, *, geometric: bool, channels_last: bool) -> "Layout":
        """The layout of inputs, for transformations that move pixels or do not.

        Raises:
            InvalidInput: inputs that are no images, for transformations that move pixels.
        """
        checks.inputs(x)
        if geometric and (x.ndim not in (3, 4) or (channels_last and x.ndim == 3)):
            raise InvalidInput(
                f"x must be images (N, C, H, W), (N, H, W), or (N, H, W, C) with channels_last=True, got "
                f"{tuple(x.shape)}: reshape it, and wrap the model to take it so"
            )
        return cls(x.shape, channels_last, not geometric)

    def to_images(self, x: Tensor) -> Tensor:
        """Inputs (B, *D) as (B, C, H, W)."""
        if self.flat:
            return x.reshape(len(x), 1, 1, x.shape[1:].numel())
        if x.ndim == 3:
            return x.unsqueeze(1)
        return x.movedim(3, 1).contiguous() if self.channels_last else x.contiguous()

    def back(self, images: Tensor) -> Tensor:
        """Images (.., C, H, W) as inputs (.., *D)."""
        if not self.flat and self.channels_last:
            images = images.movedim(-3, -1)
        return images.reshape(*images.shape[:-3], *self.shape[1:])

    def side(self, limit: Limit) -> Limit:
        """A side of the range of pixels, for images."""
        if not isinstance(limit, Tensor) or limit.ndim == 0:
            return limit
        return self.to_images(limit.expand(1, *self.shape[1:]))[0]


def with_noise(images: Tensor, noise: Tensor, low: Limit, high: Limit) -> Tensor:
    """Images with noise, rounded towards those without, within the range of pixels: none moves by more than its noise.

    Gradients reach images and noise.
    """
    exact = images.double() + noise
    made = torch.where(noise > 0, converted_down(exact, images.dtype), -converted_down(-exact, images.dtype))
    sides = [None if side is None else torch.as_tensor(side).to(made) for side in (low, high)]
    return made if sides[0] is sides[1] is None else made.clamp(*sides)
