"""Small values that linear functions of the outputs take in a perturbation set: what no lower bound may exceed.

Points are moved by conditional gradient steps, which need of a set no more than the minimum of a linear function.

References:
    Frank, Wolfe (1956), An algorithm for quadratic programming, Naval Research Logistics Quarterly 3.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from bounds.models import answer
from bounds.sets.balls import PerturbationSet

STEPS = 4
INSIDE = 1 - 1e-9  # share of each move, so that rounding leads no point out of the set
AT_ONCE = 1024  # points of a pass


@dataclass(frozen=True, eq=False)
class PointSearch:
    """The search for small values.

    Attributes:
        network: without gradients for its weights.
        ball: N sets, in the dtype of the network.
        rows: (N, T, K), linear functions of the outputs.
        one_by_one: whether the network takes one input at a time.
    """

    network: nn.Module
    ball: PerturbationSet
    rows: Tensor
    one_by_one: bool = False

    def least(self, samples: int, generator: Generator) -> Tensor:
        """The least values (N, T) at the centres, at random points and after descents for each function."""
        x = self.ball.center[:, None]
        found = self._least(x)
        for count in _counts(samples, len(x)):
            found = torch.minimum(found, self._least(self._drawn(count, generator)))
        for part in self.rows.split(max(1, AT_ONCE // len(x)), 1):
            x = self.ball.center[:, None].expand(-1, part.shape[1], *self.ball.center.shape[1:])
            for step in range(STEPS):
                end = self._farthest(self._gradient(x, part))
                x = x + 2 / (step + 2) * (end - x)
                found = torch.minimum(found, torch.minimum(self._least(end), self._least(x)))
        return found

    def _least(self, x: Tensor) -> Tensor:
        """The least of each function at points (N, S, *D) that are in the set for certain, (N, T)."""
        with torch.no_grad():
            values = torch.einsum("ntk,nsk->nst", self.rows, self._outputs(x))
        index = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        inside = self.ball.rows(index).contains(x.flatten(0, 1).double()).view(x.shape[:2])
        return torch.where(inside[..., None] & ~values.isnan(), values, torch.inf).amin(1)

    def _outputs(self, x: Tensor) -> Tensor:
        """The answers to points (N, S, *D), (N, S, K)."""
        parts = x.flatten(0, 1).split(1 if self.one_by_one else AT_ONCE)
        return torch.cat([answer(self.network, part).flatten(1) for part in parts]).view(*x.shape[:2], -1)

    def _gradient(self, x: Tensor, rows: Tensor) -> Tensor:
        """The gradient of function t at point t of each input, like x (N, T, *D)."""
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = (rows * self._outputs(x)).sum()
        if not value.requires_grad:  # steps, and functions without a derivative in PyTorch
            return torch.zeros_like(x)
        (slopes,) = torch.autograd.grad(value, x, materialize_grads=True)
        return slopes.nan_to_num(0.0, 0.0, 0.0)

    def _drawn(self, count: int, generator: Generator) -> Tensor:
        """Points (N, count, *D) on the way to the ends of random directions, half of them at the ends."""
        center = self.ball.center
        shape = (len(center), count, *center.shape[1:])
        end = self._farthest(torch.randn(shape, generator=generator, dtype=center.dtype, device=center.device))
        share = torch.rand(count, generator=generator, dtype=center.dtype, device=center.device).mul(2).clamp(max=1)
        return torch.lerp(center[:, None].expand(shape), end, share.view(1, -1, *[1] * (center.ndim - 1)))

    def _farthest(self, slopes: Tensor) -> Tensor:
        """The points (N, S, *D) of the set at which linear functions of the input are least."""
        _, move = self.ball.largest_fall(slopes.flatten(2))
        return (self.ball.center.flatten(1)[:, None] + INSIDE * move).view(slopes.shape)


def _counts(samples: int, inputs: int) -> list[int]:
    """Numbers of points of each input to draw together."""
    most = max(1, AT_ONCE // inputs)
    return [min(most, samples - start) for start in range(0, samples, most)]
