"""Gradients of attacks: with what a model refuses to say put in, and judged by whether they foretell anything."""

from collections.abc import Callable

import torch
from torch import Tensor

INWARD = 1e-3  # how far an entry goes into the box for a slope that is not finite at its side, in shares of the range
LOOKS = (1e-3, 1e-2, 5e-2)  # lengths of the steps whose effect a gradient has to foretell, likewise
FORETOLD = 0.5  # largest error of a forecast that tells something, as a share of it


def gradient_of(values: Tensor, points: Tensor) -> Tensor:
    """Gradient of the sum of ``values`` (N,) with respect to points (N, *D); 0 where they do not depend on them."""
    slope = None
    if values.requires_grad:
        (slope,) = torch.autograd.grad(values.sum(), points, retain_graph=True, allow_unused=True)
    return torch.zeros_like(points) if slope is None else slope


class Mender:
    """Makes gradients finite: where they are not, it takes slopes from a little further inside the box.

    A square root has an infinite slope at 0, where many pixels lie, and a product of it with 0 is no number. Most
    models have no such gradient, and to ask holds the device up. So the host asks at the gradients 1, 2, 4, 8, ...
    whether any was broken so far, and at every gradient once one was.
    """

    def __init__(self) -> None:
        self.taken, self.needed = 0, False
        self.seen: Tensor | bool = False

    def mended(
        self, gradient: Tensor, points: Tensor, low: Tensor, high: Tensor, again: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A gradient whose entries are finite; those that are not further inside either become 0.

        Args:
            gradient: (N, *D).
            points: (N, *D) where it was taken.
            low: (N, *D) lower side of the box, finite.
            high: (N, *D) upper side of the box.
            again: the gradient at other points.

        Returns:
            The gradient, the rows (N,) bool in which an entry that may move was not finite, and those that still have
            one.
        """
        broken = ~gradient.isfinite() & (high > low)
        rows = broken.flatten(1).any(1)
        if not self._asks(rows):
            return gradient.nan_to_num(0.0, 0.0, 0.0), rows, torch.zeros_like(rows)
        inward = INWARD * (high - low)
        moved = torch.where(points > (low + high) / 2, points - inward, points + inward)
        second = again(torch.where(broken, moved, points))
        gradient = torch.where(broken, second, gradient)
        still = (~gradient.isfinite() & broken).flatten(1).any(1)
        return gradient.nan_to_num(0.0, 0.0, 0.0), rows, still

    def _asks(self, rows: Tensor) -> bool:
        """Whether the gradient of some row is known to be broken."""
        self.taken += 1
        if self.needed:
            return bool(rows.any())
        self.seen = self.seen | rows.any()
        if self.taken & (self.taken - 1) == 0:
            self.needed = bool(self.seen)
        return self.needed


def foretells(
    value: Tensor,
    gradient: Tensor,
    x: Tensor,
    low: Tensor,
    high: Tensor,
    values: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """(N,) bool: whether the gradient foretells what a step along its signs does to the value, for one of some steps.

    A gradient that is 0, or the same wherever the model is, or noise, foretells nothing. Changes within rounding do
    not count.

    Args:
        value: (N,) at x.
        gradient: (N, *D) at x.
        x: (N, *D).
        low: (N, *D) lower side of the box, finite.
        high: (N, *D) upper side of the box.
        values: values (N,) at other points, and the rounding of each (N,).
    """
    told = torch.zeros_like(value, dtype=torch.bool)
    for share in LOOKS:
        moved = (x + share * (high - low) * gradient.sign()).clamp(low, high)
        forecast = (gradient * (moved - x)).flatten(1).sum(1)
        reached, rounding = values(moved)
        right = (reached - value - forecast).abs() <= FORETOLD * forecast
        told |= right & (forecast > rounding) & (forecast > 0)
    return told


def symptoms(zero: Tensor, nonfinite: Tensor, unforetold: Tensor) -> tuple[str, ...]:
    """N names of what is wrong with the gradients of a row, joined by ``+``, from (N,) bool each; empty if nothing."""
    names = ("zero_gradient", "nonfinite_gradient", "uninformative_gradient")
    shown = torch.stack([zero, nonfinite, unforetold & ~zero], 1).tolist()
    return tuple("+".join(name for name, has in zip(names, row, strict=True) if has) for row in shown)


def useless(gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(N,) bool: no entry that may move has a slope other than 0."""
    return ((gradient == 0) | (low == high)).flatten(1).all(1)
