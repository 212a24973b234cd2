r"""Planes above rectifiers of many variables, tighter than the triangle of each neuron alone.

A rectifier :math:`h = \max(z, s z)` of :math:`z = w v + b` over a box of variables is supermodular once every variable
is turned so that :math:`w \ge 0`. Its least concave majorant at a point is therefore a plane that is found by sorting
how far the variables stand in their ranges: the increments of the rectifier, when variables go from their lower to
their upper ends one after another in this order, are its slopes.

References:
    Anderson et al. (2020), Strong mixed-integer programming formulations for trained neural networks,
    arXiv:1811.01988, section 3; Tjandraatmadja et al. (2020), The convex relaxation barrier, revisited: tightened
    single-neuron relaxations for neural network verification, arXiv:2006.14076, theorem 2.
"""

import torch
from torch import Tensor

from bounds.numerics import accumulated_error
from bounds.solvers.affine_form import AffineForm


def planes_above(form: AffineForm, slope: Tensor, lower: Tensor, upper: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Planes ``slopes @ v + intercept`` above ``max(z, slope z)`` on a box, the lowest at a point up to rounding.

    The slopes are found by sorting; whatever they are, the intercepts make them hold: the difference of rectifier and
    plane is the larger of two linear functions, whose largest values on the box are known.

    Args:
        form: z, of J entries.
        slope: (J,) in [0, 1], below 0.
        lower: (V,) of the variables, finite.
        upper: likewise.
        point: (V,) in the box.

    Returns:
        Slopes (J, V) and intercepts (J,), infinite where there is no plane.
    """
    weights = form.matrix.T
    width = upper - lower
    share = torch.where(width > 0, (point - lower) / width, 0.5).clamp(0, 1)
    order = torch.where(weights >= 0, share, 1 - share).argsort(1, descending=True)
    first = torch.where(weights >= 0, lower, upper)
    values = (weights * first).sum(1, keepdim=True) + form.offset[:, None]
    steps = (weights.abs() * width).gather(1, order)
    values = torch.cat([values, values + steps.cumsum(1)], 1)
    heights = torch.maximum(values, slope[:, None] * values)
    shares = torch.where(steps > 0, heights.diff(dim=1) / steps, 1.0)
    slopes = weights * torch.empty_like(shares).scatter_(1, order, shares)
    return slopes, _intercepts(form, slopes, slope, lower, upper)


def _intercepts(form: AffineForm, slopes: Tensor, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The least intercepts for which planes with any slopes (J, V) hold, rounded up."""
    weights, reach = form.matrix.T, torch.maximum(lower.abs(), upper.abs())
    error = accumulated_error(2 * weights.shape[1] + 12, slopes.dtype)
    size = (weights.abs() + slopes.abs()) @ reach + form.offset.abs() + form.rounding_error
    highest = torch.full_like(form.offset, -torch.inf)
    for line in (torch.ones_like(slope), slope):
        rest = line[:, None] * weights - slopes
        most = torch.where(rest > 0, rest * upper, rest * lower).sum(1) + line * form.offset
        highest = torch.maximum(highest, most + line * form.rounding_error)
    highest = highest + 2 * error * size + torch.finfo(slopes.dtype).tiny
    return torch.where(highest.isfinite(), highest, torch.inf)
