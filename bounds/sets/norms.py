"""Norms, steepest ascent and projections for batches of perturbations, in l_0, l_1, l_2 and l_infinity."""

import math

import torch
from torch import Tensor, nn

from bounds.numerics import per_row

INSIDE = 1 - 1e-6  # share of a radius that a search uses, so that rounding does not lead out of the ball


def length(delta: Tensor, norm: float) -> Tensor:
    """Norm of each row of (N, *D), (N,); order 0 counts the entries that are not zero."""
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), norm, dim=1)
    return size


def steepest_ascent(gradient: Tensor, norm: float) -> Tensor:
    """Argmax of <gradient, d> over unit vectors d of l_2 or l_infinity; 0 where the gradient is 0. (N, *D)."""
    if norm == math.inf:
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / per_row(length(gradient, math.inf), gradient).clamp(min=tiny)  # squares must not underflow
    return scaled / per_row(length(scaled, 2), scaled).clamp(min=tiny)


def project(delta: Tensor, radius: Tensor, norm: float) -> Tensor:
    """Argmin of ||d - delta||_2 over ||d|| <= radius, (N, *D); ``radius`` is (N,)."""
    limit = per_row(radius, delta)
    if norm == math.inf:
        return torch.minimum(torch.maximum(delta, -limit), limit)
    if norm == 2:
        size = per_row(length(delta, 2), delta)
        return delta * (limit / size.clamp(min=torch.finfo(delta.dtype).tiny)).clamp(max=1.0)
    if norm == 1:
        return project_l1_in_box(delta, radius, torch.full_like(delta, _far(delta)))
    order = delta.abs().flatten(1).argsort(dim=1, descending=True)
    largest = torch.arange(order.shape[1], device=delta.device) < radius.floor()[:, None]
    return delta * torch.zeros_like(largest).scatter(1, order, largest).view_as(delta)


def project_l1_in_box(delta: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """Argmin of ||d - delta||_2 over ||d||_1 <= radius and d between 0 and ``room`` on the side of delta, (N, *D).

    The solution lowers all entries by one amount and cuts them off at 0 and at ``room`` (the shift is the multiplier
    of the l_1 constraint); see Croce, Hein (2021), Mind the box, Proposition 2.1, arXiv:2103.01208.
    """
    size, room = delta.abs().flatten(1), room.flatten(1).clamp(max=_far(delta))
    depth = size.amax(1, keepdim=True) - size
    bends, weights = torch.cat([depth, depth + room], 1), torch.ones_like(size)
    level = crossing(bends, torch.cat([-weights, weights], 1), radius)[:, None]
    lowered = torch.minimum((level - depth).clamp(min=0), room)
    fits = torch.minimum(size, room)
    inside = fits.sum(1, keepdim=True) <= radius[:, None]
    return torch.where(inside, fits, lowered).view_as(delta).copysign(delta)


def onto_hyperplane(gradient: Tensor, level: Tensor, up: Tensor, down: Tensor, norm: float) -> Tensor:
    """Argmin of ||d|| over <gradient, d> = level and -down <= d <= up, (N, *D).

    The nearest corner of the box where the plane does not meet it. Exact by one sort: in l_1 and l_0 entries are
    used up in the order of what they gain, in l_2 and l_infinity all move along one ray and stop at their sides.

    References:
        Croce, Hein (2020), Minimally distorted adversarial examples with a fast adaptive boundary attack, Section 2.2,
        arXiv:1907.02044, for l_1, l_2 and l_infinity.
    """
    scale = length(gradient, math.inf).clamp(min=torch.finfo(gradient.dtype).tiny)
    direction = gradient.sign() * per_row(1 - 2 * (level < 0).to(level), gradient)
    room = torch.where(direction > 0, up, down).clamp(max=_far(gradient)).flatten(1)
    slope = (gradient.abs() / per_row(scale, gradient)).flatten(1)
    level = level.abs() / scale
    if norm <= 1:
        gain = slope * room
        order = (slope if norm == 1 else gain).argsort(dim=1, descending=True)
        gain = gain.gather(1, order)
        share = ((level[:, None] - (gain.cumsum(1) - gain)) / gain).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        move = torch.zeros_like(room).scatter(1, order, share * room.gather(1, order))
    else:
        speed = slope if norm == 2 else torch.ones_like(slope)
        bends = (room / speed).nan_to_num(0.0).clamp(max=_far(gradient))
        move = torch.minimum(crossing(bends, slope * speed, level)[:, None] * speed, room)
    return move.view_as(gradient) * direction


def shortest_above(gradient: Tensor, level: Tensor, lower: Tensor, upper: Tensor, norm: float) -> Tensor:
    """Argmin of ||d|| over <gradient, d> >= level and lower <= d <= upper, (N, *D); as near as that box comes to it.

    From the corner of the box nearest to 0, in l_0 and l_1 every move costs what it is long, so that the rest is a step
    onto a plane; in l_2 and l_infinity entries follow one ray as far as their sides allow.
    """
    if norm <= 1:
        corner = torch.zeros_like(gradient).clamp(lower, upper)
        level = level - (gradient * corner).flatten(1).sum(1)
        return corner + onto_hyperplane(gradient, level.clamp(min=0), upper - corner, corner - lower, norm)
    up = gradient > 0
    least, most = torch.where(up, lower, -upper).flatten(1), torch.where(up, upper, -lower).flatten(1)
    scale = length(gradient, math.inf).clamp(min=torch.finfo(gradient.dtype).tiny)
    slope = (gradient.abs() / per_row(scale, gradient)).flatten(1)
    speed = slope if norm == 2 else (slope > 0).to(slope)
    bends = torch.cat([least.clamp(min=0) / speed, most.clamp(min=0) / speed], 1).nan_to_num(0.0)
    weights = torch.cat([-slope * speed, slope * speed], 1)
    nearest = (slope * torch.zeros_like(slope).clamp(least, most)).sum(1)
    time = crossing(bends.clamp(max=_far(gradient)), weights, level / scale - nearest)
    move = (time[:, None] * speed).clamp(least, most).view_as(gradient)
    return torch.where(up, move, -move)


def crossing(bends: Tensor, weights: Tensor, level: Tensor) -> Tensor:
    """Smallest t >= 0 at which ``sum_i weights_i min(t, bends_i)``, which must not decrease, is ``level``, (N,).

    The largest bend where the level is not reached. Shapes (N, M), (N, M), (N,); bends are at least 0 and finite.
    """
    bends, order = bends.sort(dim=1)
    slopes = weights.gather(1, order).flip(1).cumsum(1).flip(1).clamp(min=0)  # below each bend
    widths = bends.diff(dim=1, prepend=torch.zeros_like(bends[:, :1]))
    values = (slopes * widths).cumsum(1)
    first = (values < level[:, None]).sum(1, keepdim=True).clamp(max=bends.shape[1] - 1)
    # From the bend below, not back from the one above, which may be as far as an open side of a box.
    value, bend = (nn.functional.pad(part, (1, 0)).gather(1, first).squeeze(1) for part in (values, bends))
    slope, width = (part.gather(1, first).squeeze(1) for part in (slopes, widths))
    ahead = ((level - value).clamp(min=0) / slope).nan_to_num(0.0, math.inf)
    return bend + torch.minimum(ahead, width)


def clip(points: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """Entry-wise projection onto the box; exact, so that a later check against the same sides passes."""
    if low is not None:
        points = torch.maximum(points, low)
    return points if high is None else torch.minimum(points, high)


def inner_side(limit: float | Tensor | None, like: Tensor, inward: float) -> Tensor | None:
    """A side of the box in the dtype and on the device of ``like``, rounded towards ``inward``, an infinity."""
    if not isinstance(limit, Tensor):
        return None if limit is None else torch.as_tensor(limit, dtype=like.dtype, device=like.device)
    exact = limit.to(like.device, torch.float64)
    side = exact.to(like.dtype)
    outside = (side.double() < exact) if inward > 0 else (side.double() > exact)
    return torch.where(outside, torch.nextafter(side, torch.full_like(side, inward)), side)


def _far(like: Tensor) -> float:
    """Stands for an infinite distance where sums over it must stay finite."""
    return math.sqrt(math.sqrt(torch.finfo(like.dtype).max))
