r"""Minima of linear functions over perturbation sets: the step that turns linear bounds into numbers.

From the centre :math:`c`, a perturbation helps to lower :math:`a \cdot x` only against the sign of :math:`a`, so

.. math:: \min_x a \cdot x = a \cdot c - \max_t |a| \cdot t, \qquad 0 \le t_i \le \rho_i,

where :math:`\rho_i` is the room that the box leaves in that direction, and the set limits :math:`t` further:
:math:`\|t\|_p \le r`, or at most k entries above 0. Each set knows its own maximum.

Rounding is part of the bound: each term of the formula is off by at most :math:`\gamma_n` times the sum of the
absolute values of what it adds, and twice that is subtracted.
"""

import math

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error, ieee_arithmetic
from bounds.sets.balls import PerturbationSet, perturbation_set
from bounds.sets.hulls import HullOfBoxes

# Rounded operations per result besides the sum over the features: the two powers of a norm (16 each), their rounded
# exponents (at most 3 log F), and the single steps, with room to spare.
OTHER_OPERATIONS = 128


@isolated
@ieee_arithmetic()
def linear_minimum(coefficients: Tensor, region: PerturbationSet) -> Tensor:
    """Lower bounds on ``sum(coefficients * x)`` over a perturbation set, tight up to rounding.

    Holds for every real ``x`` of the set and the given coefficients in real arithmetic: rounding errors are
    subtracted, a relative error of about ``2 (F + 128) u`` of the summed absolute values, with F features and the unit
    roundoff u. Conditions: IEEE arithmetic, powers within eight units in the last place. What overflows, or has no
    minimum, gives minus infinity. The maximum is ``-linear_minimum(-coefficients, region)``.

    Gradients flow to the coefficients alone; they are the minimising inputs (envelope theorem), finite where the set
    is. The bound is computed in the wider of the two dtypes, needs about a dozen tensors of the size of the
    coefficients, and sorts the features of a finite ball in a box.

    Args:
        coefficients: (N, R, *D) floating tensor, R linear functions for each of N inputs.
        region: N perturbation sets around inputs of shape ``*D``: :class:`LpBall`, :class:`Box`, :class:`SparseBall`,
            :class:`HullOfBoxes`, or a :class:`PerturbationSet` of one's own.

    Returns:
        (N, R) tensor.

    Raises:
        InvalidInput: shapes that do not match, no perturbation set, a gain of other shape or dtype, float32 sums too
            long to bound.

    References:
        Zhang et al. (2018), Efficient neural network robustness certification with general activation functions,
        arXiv:1811.00866, section 3 (balls without a box).
    """
    perturbation_set(region)
    dtype = _common_dtype(coefficients, region.center)
    if isinstance(region, HullOfBoxes):
        return _over_boxes(coefficients.flatten(2).to(dtype), region)
    a = coefficients.flatten(2).to(dtype)
    with torch.no_grad():
        center, slopes = region.center.flatten(1)[:, None].to(dtype), a.abs()
        fall, move = region.largest_fall(a)
        _check_fall(region, fall, slopes)
        size = (slopes * center.abs()).sum(-1) + fall.abs()
        error = 2 * accumulated_error(a.shape[2] + OTHER_OPERATIONS, dtype) * size
        # The smallest normal number stands for what underflow took from products and differences.
        underflow = 4 * torch.finfo(dtype).tiny * (slopes.sum(-1) + a.shape[2])
        value = _proving((a * center).sum(-1) - fall - (error + underflow))
    if not a.requires_grad:
        return value
    return value + ((a - a.detach()) * (center + move).detach()).sum(-1)


def _over_boxes(a: Tensor, region: HullOfBoxes) -> Tensor:
    """Minima over a hull of boxes: the least over each of them, (N, R)."""
    lower, upper = (side.flatten(2).to(a.dtype) for side in (region.lower, region.upper))
    center, slopes = lower + (upper - lower) / 2, a.abs()
    reach = torch.maximum(upper - center, center - lower)
    error = 2 * accumulated_error(a.shape[2] + OTHER_OPERATIONS, a.dtype)
    gain = slopes @ (reach + error * (reach + center.abs())).mT
    gain = gain + 4 * torch.finfo(a.dtype).tiny * (slopes.sum(-1, keepdim=True) + a.shape[2])
    middle = a @ center.mT
    value = region.least(middle, gain, slopes if region.radius else None, rounded=True)
    return _proving(value - error * value.abs())


def _proving(value: Tensor) -> Tensor:
    """The bound, minus infinity where it overflowed or is no number."""
    return torch.where(value < math.inf, value, -math.inf)


def _common_dtype(coefficients: Tensor, center: Tensor) -> torch.dtype:
    if not checks.tensor("coefficients", coefficients).is_floating_point():
        raise InvalidInput(f"coefficients must be a floating-point tensor, got {coefficients.dtype}: convert them")
    if coefficients.ndim < 3 or coefficients.shape[:1] + coefficients.shape[2:] != center.shape:
        expected = ", ".join(str(size) for size in (len(center), "R", *center.shape[1:]))
        raise InvalidInput(
            f"coefficients must have shape ({expected}), got {tuple(coefficients.shape)}: one row per linear function"
        )
    return torch.promote_types(coefficients.dtype, center.dtype)


def _check_fall(region: PerturbationSet, fall: Tensor, slopes: Tensor) -> None:
    if fall.shape != slopes.shape[:2] or fall.dtype != slopes.dtype:
        raise InvalidInput(
            f"largest_gain of {type(region).__name__} must return a gain of shape {tuple(slopes.shape[:2])} and "
            f"{slopes.dtype}, got {tuple(fall.shape)} of {fall.dtype}: sum over the last dimension of slopes"
        )
