"""The averages of Adam, for steps of many rows at once."""

import torch
from torch import Tensor

MEAN_SHARE, SQUARE_SHARE = 0.1, 0.001  # of the newest gradient in the averages


class Moments:
    """Running averages of a gradient and of its square, entry by entry.

    References:
        Kingma, Ba (2015), Adam: a method for stochastic optimization, algorithm 1, arXiv:1412.6980.
    """

    def __init__(self, mean: Tensor, square: Tensor) -> None:
        self.mean, self.square = mean, square

    @classmethod
    def of(cls, like: Tensor) -> "Moments":
        """Averages before the first step."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def take(self, gradient: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The mean after step ``count``, still to be divided by :func:`seen`, and the root of the mean square."""
        self.mean.lerp_(gradient, MEAN_SHARE)
        self.square.mul_(1 - SQUARE_SHARE).addcmul_(gradient, gradient, value=SQUARE_SHARE)
        return self.mean, (self.square / (1 - (1 - SQUARE_SHARE) ** count)).sqrt_()


def seen(count: int) -> float:
    """The share of a mean that gradients make up after ``count`` steps; the rest is the 0 that it began with."""
    return 1 - (1 - MEAN_SHARE) ** count
