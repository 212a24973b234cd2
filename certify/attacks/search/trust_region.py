"""Steps that solve the linearised problem exactly near the current point, in l_1, l_2 and l_infinity.

Minima of a piecewise linear network lie at kinks, in l_1 at vertices, where entries stop. A projected gradient creeps
along the way to them; a step to the nearest point of the linearised boundary overshoots, unless it is held close.
"""

import math

import torch
from torch import Tensor

from bounds.numerics import per_row
from bounds.sets.norms import length, shortest_above
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import wide_gradient

FAR_REACH, NEAR_REACH = (0.6, 0.06), (0.2, 0.01)  # of the first and the last step of a walk's two parts
BEYOND = 1.0  # margin that is aimed at, in units of what the steepest entry gains within its reach


def walk(state: MinimumNormState, target: Tensor | None, start: Tensor, steps: int) -> None:
    """From ``start`` by wide gradients towards a class, and from there by those of the nearest linear regions."""
    end = tighten(state, target, start, steps // 5, reach=FAR_REACH, wide=True)
    tighten(state, None, end, 3 * steps // 10, reach=NEAR_REACH)


def tighten(
    state: MinimumNormState,
    target: Tensor | None,
    points: Tensor,
    steps: int,
    *,
    reach: tuple[float, float],
    wide: bool = False,
) -> Tensor:
    """The nearest success on a way on which each step solves the linearised problem, or the end of the way.

    Args:
        state: in l_1, l_2 or l_infinity.
        target: (N,) the class aimed at, the runner-up if None.
        points: (N, *D) where it begins, a success or not.
        steps: a forward and a backward pass each, and as many more as a wide gradient takes.
        reach: how far an entry may go in the first and the last step, in units of the largest change of the best point.
        wide: linearise by wide gradients.
    """
    low, high = state.sides()
    largest = per_row(length(state.best - state.x, math.inf), points)
    unit = torch.where(per_row(state.distance.isfinite(), points), largest, high - low)
    nearest, distance = points, torch.full_like(state.distance, math.inf)
    first, last = reach
    for step in range(steps):
        margin, gradient = (wide_gradient if wide else MinimumNormState.margin_and_gradient)(state, points, target)
        size = length(points - state.x, state.norm)
        closer = (margin > 0) & (size < distance)
        nearest, distance = torch.where(per_row(closer, points), points, nearest), torch.where(closer, size, distance)
        share = first * (last / first) ** (step / max(steps - 1, 1))
        points = _along_boundary(state, points, margin, gradient, share * unit)
    state.logits(points)
    return torch.where(per_row(distance.isfinite(), points), nearest, points)


def _along_boundary(state: MinimumNormState, points: Tensor, margin: Tensor, gradient: Tensor, reach: Tensor) -> Tensor:
    """Argmin of ||z - x|| over z in the box, within ``reach`` of the points and behind the linearised boundary."""
    delta = points - state.x
    lower, upper = state.inside(points - reach) - state.x, state.inside(points + reach) - state.x
    level = (gradient * delta).flatten(1).sum(1) - margin + BEYOND * length(gradient * reach, math.inf)
    return state.inside(state.x + shortest_above(gradient, level, lower, upper, state.norm))
