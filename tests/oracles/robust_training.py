"""Losses of robust training by name, small models for them, and an attack written out row by row."""

import math
from collections.abc import Callable

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall
from certify import training

EPSILON = 0.2
# Each takes the model, inputs, labels and a generator.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "pgd": lambda m, x, y, g: training.pgd_loss(m, LpBall(x, EPSILON), y, generator=g),
    "trades": lambda m, x, y, g: training.trades_loss(m, LpBall(x, EPSILON), y, steps=3, generator=g),
    "fast": lambda m, x, y, g: training.fast_loss(m, LpBall(x, EPSILON), y, generator=g),
    "grad_align_penalty": lambda m, x, y, g: training.grad_align_penalty(m, LpBall(x, EPSILON), y, generator=g),
    "grad_align": lambda m, x, y, g: training.grad_align_loss(m, LpBall(x, EPSILON), y, weight=0.5, generator=g),
    "cure": lambda m, x, y, g: training.cure_loss(m, x, y, weight=2.0, h=0.5),
    "input_gradient": lambda m, x, y, g: training.input_gradient_loss(m, x, y, weight=0.5),
    "input_gradient, l_inf": lambda m, x, y, g: training.input_gradient_loss(
        m, x, y, weight=0.2, norm=math.inf, power=1
    ),
    "mtl_ibp": lambda m, x, y, g: training.mtl_ibp_loss(m, LpBall(x, EPSILON / 4), y, alpha=0.3, generator=g),
}
GIVEN = {"trades": 2, "grad_align_penalty": 0}  # batches that running statistics see, where it is not one


def loss_of(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a name, with draws of one seed."""
    return LOSSES[name](model, x, y, generator())


def network(dtype: torch.dtype = torch.float64, norm: type[nn.Module] = nn.Identity) -> nn.Sequential:
    """Three classes over inputs (2, 3), smooth."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), norm(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(2 * torch.randn(weight.shape, generator=generator(3), dtype=torch.float64))
    return model


def linear(size: int, classes: int = 2) -> nn.Sequential:
    """A linear model in float64."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator(9), dtype=torch.float64))
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Seven inputs (2, 3) of three classes."""
    return torch.rand(7, 2, 3, generator=generator(1), dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0, 2, 2])


def attack_by_hand(
    ball: LpBall,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    size: Tensor,
    source: torch.Generator | None,
    start: Tensor | None = None,
) -> Tensor:
    """Projected ascent in float64, one row at a time; ``objective`` is the sum over a whole batch."""
    x, radius, norm = ball.center, ball.radii.tolist(), ball.norm
    if start is not None:
        delta = start
    elif norm == math.inf:
        delta = torch.rand(x.shape, generator=source, dtype=x.dtype) * 2 - 1
        delta = torch.stack([row * r for row, r in zip(delta, radius, strict=True)])
    else:
        delta = torch.randn(x.shape, generator=source, dtype=x.dtype)
        u = torch.rand(len(x), generator=source, dtype=x.dtype)
        d = x[0].numel()
        delta = torch.stack([row / row.norm() * r * s ** (1 / d) for row, r, s in zip(delta, radius, u, strict=True)])

    def pulled(row: int, moved: Tensor) -> Tensor:
        r = radius[row]
        moved = moved.clamp(-r, r) if norm == math.inf else moved * min(1.0, r / max(moved.norm().item(), 1e-300))
        return (x[row] + moved).clamp(ball.low, ball.high) - x[row] if (ball.low, ball.high) != (None, None) else moved

    delta = torch.stack([pulled(i, row) for i, row in enumerate(delta)])
    for _ in range(steps):
        points = (x + delta).requires_grad_()
        (gradient,) = torch.autograd.grad(objective(points), points)
        rows = []
        for i, g in enumerate(gradient):
            direction = g.sign() if norm == math.inf else g / g.norm()
            rows.append(pulled(i, delta[i] + float(size[i]) * direction))
        delta = torch.stack(rows)
    return x + delta
