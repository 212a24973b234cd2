"""The range of logits that a search reaches over perturbed inputs, to hold bounds against."""

import math

import torch
from torch import Generator, Tensor, nn

from bounds import LpBall, checks
from bounds.numerics import per_row
from bounds.sets.norms import INSIDE, clip, project, steepest_ascent
from certify.attacks.common.projections import maximize_in_box
from certify.attacks.common.threat import sides
from certify.attacks.studies.noise_accuracy import unit_noise


def reached_logits(
    exact: nn.Module, ball: LpBall, classes: int, samples: int, steps: int, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Smallest and largest value (N, K) of each logit of a float64 model, over all perturbed inputs that are tried."""
    generator = checks.generator(generator, ball.center.device)
    x, radii = ball.center.double(), ball.radii.double() * INSIDE
    box = sides(x, ball.low, ball.high, ball.frozen_features)
    room = box[0] - x, box[1] - x
    order = ball.norm if ball.norm in (1, 2, math.inf) else 1 if ball.norm < 2 else 2  # a ball inside the given one
    lowest = torch.full((len(x), classes), math.inf, dtype=torch.float64, device=x.device)
    highest = -lowest

    def visit(points: Tensor) -> Tensor:
        logits: Tensor = exact(points)
        torch.minimum(lowest, logits.detach(), out=lowest)
        torch.maximum(highest, logits.detach(), out=highest)
        return logits

    with torch.no_grad():
        visit(x)
        for i in range(samples):
            noise = unit_noise(x, order, "ball" if i % 2 else "sphere", generator)
            visit(clip(x + noise * per_row(radii, noise), *box))
    for k in range(classes):
        for sign in (1.0, -1.0):
            point = x
            for _ in range(steps):
                point = point.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(sign * visit(point)[:, k].sum(), point)
                # Projected steps come to the best point slowly where slopes are nearly equal, or the box is in the way.
                visit(x + maximize_in_box(gradient, radii, order, room))
                move = steepest_ascent(gradient, math.inf if order == math.inf else 2)
                delta = project(point.detach() + per_row(radii / 4, move) * move - x, radii, order)
                point = clip(x + delta, *box)
            visit(point)
    return lowest, highest
