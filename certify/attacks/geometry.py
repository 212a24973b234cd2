"""Norms, steepest ascent and projections for batches of perturbations, in l_2 and l_infinity."""

import math

import torch
from torch import Tensor


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape (N,) values so that they broadcast over (N, *D)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def length(delta: Tensor, norm: float) -> Tensor:
    """Norm of each row of (N, *D), (N,)."""
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), norm, dim=1)
    return size


def steepest_ascent(gradient: Tensor, norm: float) -> Tensor:
    """Argmax of <gradient, d> over unit vectors d of the norm; 0 where the gradient is 0. (N, *D)."""
    if norm == math.inf:
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / per_row(length(gradient, math.inf), gradient).clamp(min=tiny)  # squares must not underflow
    return scaled / per_row(length(scaled, 2), scaled).clamp(min=tiny)


def dual_length(gradient: Tensor, norm: float) -> Tensor:
    """Dual norm of each row, (N,)."""
    return length(gradient, 1 if norm == math.inf else 2)


def project(delta: Tensor, radius: Tensor, norm: float) -> Tensor:
    """Argmin of ||d - delta||_2 over ||d|| <= radius, (N, *D); ``radius`` is (N,)."""
    limit = per_row(radius, delta)
    if norm == math.inf:
        return torch.minimum(torch.maximum(delta, -limit), limit)
    size = per_row(length(delta, 2), delta)
    return delta * (limit / size.clamp(min=torch.finfo(delta.dtype).tiny)).clamp(max=1.0)


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
