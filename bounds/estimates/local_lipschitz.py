"""The largest gradient in a ball, by ascent: a better guess from below than random points, and no more than that."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.gradients import all_logits, margin_gradients, other_classes
from bounds.models import frozen
from bounds.numerics import per_row
from bounds.sets.balls import LpBall
from bounds.sets.uniform import UniformSampler, run_seed, stream_seed


@isolated
def local_lipschitz(
    model: nn.Module,
    x: Tensor,
    *,
    norm: float,
    radius: float,
    targets: Tensor | None = None,
    low: Limit = None,
    high: Limit = None,
    steps: int = 50,
    restarts: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimates (N, T), from below, of the local Lipschitz constants of ``logit_label - logit_target``.

    Each is the dual norm of a gradient in the ball, found by ascent from random points: the constant is at least that,
    up to rounding, and may be larger. Gradients of networks of rectifiers are constant in pieces, which leaves random
    steps.

    Args:
        model: maps (N, *D) to logits (N, K), row by row, twice differentiable to be of use.
        x: (N, *D), floating, finite, inside the box.
        norm: order of the norm of the ball; gradients are measured in the dual norm.
        radius: of the ball, above 0.
        targets: (N,) or (N, T) classes other than the predicted ones; None for all others.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        steps: of ascent.
        restarts: random points that it starts from, for each target.
        generator: source of the seed.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output is no (N, K) of finite logits.
    """
    checks.at_least("steps", steps, 0)
    checks.at_least("restarts", restarts, 1)
    ball = LpBall(checks.tensor("x", x).detach(), checks.positive("radius", radius), norm, low, high)
    checks.warn_of_another_unit(x, f"radius = {radius:g}", radius)
    source = torch.Generator(x.device).manual_seed(stream_seed(run_seed(generator), 0, 0))
    with frozen(model):
        labels = all_logits(model, ball.center, restarts).argmax(1)
        others = other_classes(targets, labels, all_logits(model, ball.center[:1], 1).shape[1])
        best = torch.zeros(others.shape, dtype=torch.float64, device=x.device)
        for row in range(len(x)):
            one = ball.row(row)
            drawn = UniformSampler(one).draw(restarts * others.shape[1], source).split(restarts)
            for column, (target, points) in enumerate(zip(others[row].tolist(), drawn, strict=True)):
                pair = labels[row].expand(restarts), torch.full((restarts,), target, device=x.device)
                best[row, column] = ascend(model, points, pair, one, steps, source).max()
    return best


def ascend(
    model: nn.Module,
    points: Tensor,
    pair: tuple[Tensor, Tensor],
    ball: LpBall,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Largest dual norms (B,) of the gradients of one margin each, by ascent from points of the set of one input.

    A step that does not help is taken back and made shorter.
    """
    labels, targets = pair
    best, direction = _climb(model, points, labels, targets, ball)
    length = torch.full_like(best, float(ball.radii[0]))
    for _ in range(steps):
        blind = (direction == 0).flatten(1).all(1)
        noise = torch.randn(points.shape, generator=generator, dtype=points.dtype, device=points.device)
        way = torch.where(per_row(blind, points), noise, direction)
        way = way.sign() if ball.norm == math.inf else way / per_row(_norms(way, ball.norm), way)
        trial = _pulled_back(points + per_row(length, way) * way, ball)
        value, found = _climb(model, trial, labels, targets, ball)
        better = value > best
        points, direction = (
            torch.where(per_row(better, points), new, old) for new, old in ((trial, points), (found, direction))
        )
        best = torch.where(better, value, best)
        length = torch.where(better, length, length / 2)
    return best.double()


def _climb(model: nn.Module, points: Tensor, labels: Tensor, targets: Tensor, ball: LpBall) -> tuple[Tensor, Tensor]:
    """Dual norms (B,) of gradients, and where they grow."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        gradients = margin_gradients(model, points, labels, targets)
        norms = _norms(gradients, ball.dual_norm)
        direction = None
        if norms.requires_grad:
            (direction,) = torch.autograd.grad(norms.sum(), points, allow_unused=True)
    if direction is None:
        return norms.detach(), torch.zeros_like(points)
    return norms.detach(), direction.nan_to_num(0.0, 0.0, 0.0)


def _pulled_back(points: Tensor, ball: LpBall) -> Tensor:
    """Points in the box, drawn toward the centre, which is in it, until they are in the ball too."""
    if ball.low is not None:
        points = torch.maximum(points, torch.as_tensor(ball.low, dtype=points.dtype, device=points.device))
    if ball.high is not None:
        points = torch.minimum(points, torch.as_tensor(ball.high, dtype=points.dtype, device=points.device))
    moved = points - ball.center
    size = _norms(moved, ball.norm)
    share = (ball.radii[0] / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1)
    return ball.center + moved * per_row(share, moved)


def _norms(x: Tensor, order: float) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), order, dim=1)
    return norms
