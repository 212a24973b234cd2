"""Argmins and argmaxes over a ball of l_1, l_2 or l_infinity cut by a box, for batches of perturbations.

A perturbation keeps the sign of what it is made from, so each problem is one about sizes of at most ``cap``, the way to
the side of the box: all are solved exactly. ``room`` holds both sides, (N, *D) each, around 0.
"""

import math

import torch
from torch import Tensor

from bounds.numerics import per_row
from bounds.sets.distances import UNIT, distance
from bounds.sets.moves import steepest_first
from bounds.sets.norms import clip, length

Room = tuple[Tensor, Tensor]


def project_in_box(delta: Tensor, radius: Tensor, norm: float, room: Room) -> Tensor:
    """Argmin of ||d - delta||_2 over ||d|| <= radius and d in the box, (N, *D); ``radius`` is (N,).

    References:
        Croce, Hein (2021), Mind the box, Proposition 2.1, arXiv:2103.01208, for l_1.
    """
    if norm == math.inf:
        return clip(clip(delta, -per_row(radius, delta), per_row(radius, delta)), *room)
    size, cap = _size_and_cap(delta, room)
    amount = _shrunk(size, cap, radius) if norm == 1 else _stretched(size, cap, radius, most=1.0)
    return amount.view_as(delta).copysign(delta)


def maximize_in_box(gradient: Tensor, radius: Tensor, norm: float, room: Room) -> Tensor:
    """Argmax of <gradient, d> over ||d|| <= radius and d in the box, (N, *D); 0 where the gradient is 0."""
    size, cap = _size_and_cap(gradient, room)
    if norm == math.inf:
        amount = torch.minimum(cap, radius[:, None])
    elif norm == 2:
        amount = _stretched(size, cap, radius, most=math.inf)
    else:
        _, amount = steepest_first(size, torch.minimum(cap, radius[:, None]), radius[:, None])
    return torch.where(size > 0, amount, 0.0).view_as(gradient).copysign(gradient)


def sparse_ascent(gradient: Tensor, count: Tensor) -> Tensor:
    """Signs of the ``count`` (N,) largest entries of each row, of l_1 length 1; 0 where the gradient is 0. (N, *D)."""
    flat = gradient.flatten(1)
    rank = flat.abs().argsort(1, descending=True).argsort(1)
    signs = torch.where(rank < count[:, None], flat.sign(), 0.0)
    return (signs / length(signs, 1).clamp(min=1)[:, None]).view_as(gradient)


def pull_within(points: Tensor, x: Tensor, radius: Tensor, norm: float) -> Tensor:
    """The points, moved towards ``x`` until their distance, as it is stated, is at most the radius. (N, *D).

    What is moved is rounded towards ``x``, entry by entry, so it cannot leave a box that holds both.
    """
    exact = x.double()
    delta = points.double() - exact
    size = distance(points, x, norm)
    outside = size > radius
    # The margin covers what a stated distance may exceed the exact one by.
    margin = 1e-12 + 4 * delta[0].numel() * UNIT if len(delta) else 0.0
    delta = delta * per_row(torch.where(outside, radius / size * (1 - margin), 1.0), delta)
    moved = (exact + delta).to(x.dtype)
    moved = torch.where((moved.double() - exact).abs() > delta.abs(), torch.nextafter(moved, x), moved)
    return torch.where(per_row(outside, points), moved, points)


def _size_and_cap(delta: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """Size of each entry and the largest that the box allows it, (N, F) each."""
    lower, upper = room
    return delta.abs().flatten(1), torch.where(delta > 0, upper, -lower).flatten(1)


def _shrunk(size: Tensor, cap: Tensor, radius: Tensor) -> Tensor:
    """The entries min(max(size - t, 0), cap) for the smallest t >= 0 with which they sum to at most the radius."""
    excess = torch.minimum(size, cap).sum(1, dtype=torch.float64) - radius
    # The sum falls in t linearly between the points at which an entry begins to fall and ends at 0.
    begins = (size - cap).clamp(min=0)
    points, order = torch.cat([begins, size], 1).sort(1)
    falling = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order).cumsum(1)
    fallen = (falling[:, :-1] * points.diff(dim=1)).cumsum(1, dtype=torch.float64)
    fallen = torch.nn.functional.pad(fallen, (1, 0))
    last = ((fallen <= excess[:, None]).sum(1, keepdim=True) - 1).clamp(min=0)
    beyond = (excess[:, None] - fallen.gather(1, last)) / falling.gather(1, last).clamp(min=1)
    level = torch.where(excess[:, None] > 0, points.gather(1, last) + beyond, 0.0).to(size.dtype)
    return torch.minimum((size - level).clamp(min=0), cap)


def _stretched(size: Tensor, cap: Tensor, radius: Tensor, most: float) -> Tensor:
    """The entries min(size * t, cap) for the largest t <= most with which their l_2 norm is at most the radius."""
    find = _scale_by_capping if size.is_cpu else _scale_by_sorting
    scale = find(size, cap, radius.double().square()[:, None])
    scale = scale.nan_to_num(nan=math.inf, posinf=math.inf).clamp(max=most).to(size.dtype)
    return torch.where(size > 0, torch.minimum(size * scale, cap), 0.0)


def _scale_by_capping(size: Tensor, cap: Tensor, goal: Tensor) -> Tensor:
    """The scale (N, 1) with which the squares sum to the goal (N, 1), not finite if nothing is free.

    What is capped leaves more to the rest, and so can only grow. A few rounds are enough, which the host counts.
    """
    peak = _peak(size)
    square = (size / peak).square()
    capped = torch.zeros_like(size, dtype=torch.bool)
    while True:
        spent = torch.where(capped, cap, 0.0).square().sum(1, keepdim=True, dtype=torch.float64)
        free = square.masked_fill(capped, 0.0).sum(1, keepdim=True, dtype=torch.float64)
        scale = ((goal - spent).clamp(min=0) / free).sqrt() / peak
        more = (size * scale.nan_to_num(nan=math.inf, posinf=math.inf).to(size.dtype) >= cap) & (size > 0) & ~capped
        if not more.any():
            return scale
        capped |= more


def _scale_by_sorting(size: Tensor, cap: Tensor, goal: Tensor) -> Tensor:
    """The scale of :func:`_scale_by_capping` from the sizes at which caps are met, found without a wait of the host."""
    peak = _peak(size).double()
    meets, order = torch.where(size > 0, cap.double() / size.double(), math.inf).sort(1)
    caps = torch.where(size > 0, cap, 0.0).double().square().gather(1, order)
    squares = (size.double() / peak).square().gather(1, order)
    spent = torch.nn.functional.pad(caps.cumsum(1)[:, :-1], (1, 0))
    free = squares.flip(1).cumsum(1).flip(1)
    reached = (spent + (meets * peak).square() * free).nan_to_num(nan=math.inf)
    count = (reached <= goal).sum(1, keepdim=True)
    first = count.clamp(max=size.shape[1] - 1)  # the first entry that is not capped
    scale = ((goal - spent.gather(1, first)).clamp(min=0) / free.gather(1, first)).sqrt() / peak
    return torch.where(count == size.shape[1], math.inf, scale)


def _peak(size: Tensor) -> Tensor:
    """The largest entry of each row, (N, 1), by which the others are divided so that squares do not underflow."""
    return size.amax(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
