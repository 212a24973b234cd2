"""Linear bounds on margins of several inputs in the one perturbation that all of them share.

An input moves from x to clip(x + d), and its way is no linear function of d where the box is in between. Entry by entry
it is a ramp: ``lo`` below ``lo``, d in between, ``hi`` above ``hi``. Lines below and above it give bounds in d.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bounds import LpBall
from bounds.linear.forms import LinearForms
from bounds.numerics import accumulated_error


class MovedForms(NamedTuple):
    """Linear functions ``slope . d + constant`` of one perturbation d below margins of M inputs.

    Attributes:
        slope: (M, R, F) float64, over the entries that may move.
        constant: (M, R) float64.
        safe: (M, R) bool, margins that are known to stay above 0.
    """

    slope: Tensor
    constant: Tensor
    safe: Tensor


def in_moves(form: LinearForms, ball: LpBall, epsilon: float, safe: Tensor) -> MovedForms:
    """Functions of the perturbed inputs as functions of the perturbation, for |d| of at most epsilon in every entry.

    Args:
        form: functions of M inputs.
        ball: the sets they hold on.
        epsilon: largest size of an entry.
        safe: (M, R), margins that need no bound.
    """
    slope, center = form.slope.flatten(2), ball.center.flatten(1).unsqueeze(1)
    hull = ball.hull()
    up, down = (side.flatten(1).unsqueeze(1) for side in (hull.upper - ball.center, ball.center - hull.lower))
    frozen = (
        torch.zeros_like(ball.center[0], dtype=torch.bool) if ball.frozen_features is None else ball.frozen_features
    )
    moving = ~frozen.to(slope.device).expand(ball.center.shape[1:]).flatten()
    low, high = -down.clamp(max=epsilon), up.clamp(max=epsilon)
    below, above = _line_below(low, high, epsilon), _line_above(low, high, epsilon)
    steep, offset = (torch.where(slope > 0, one, other) for one, other in zip(below, above, strict=True))
    parts = torch.stack([slope * center, slope * offset, slope.abs() * epsilon])
    error = 4 * accumulated_error(slope.shape[2] + 16, slope.dtype) * parts.abs().sum((0, 3))
    constant = form.constant + (slope * (center + offset)).sum(2) - error - 1e-15 * form.constant.abs()
    return MovedForms((slope * steep)[..., moving], constant, safe)


def _line_below(low: Tensor, high: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a line below the ramp from ``low`` to ``high`` on [-epsilon, epsilon].

    The line goes through the lower corner and the ramp's right end. With little room below, a constant is nearer.
    """
    slope = (high - low) / (epsilon - low)
    flat = (-low < epsilon / 2) & (high == epsilon)
    slope = torch.where(flat, 0.0, slope)
    return slope, low - slope * low


def _line_above(low: Tensor, high: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a line above it: that below the mirrored ramp, mirrored."""
    slope, offset = _line_below(-high, -low, epsilon)
    return slope, -offset
