"""A short search for an example within a certified radius: what it finds refutes the certificate."""

import math

import torch
from torch import Tensor, nn

from certify.auditing.certificates.proving import Region
from certify.auditing.distances import length

STEPS, STARTS = 30, 2


def counterexample(model: nn.Module, region: Region, label: int, shape: torch.Size) -> float | None:
    """The exact distance of an input of another class inside the region, rounded up; None where none was found.

    The model computes in float64, and a lead of the other class below 1e-6 of the largest logit does not count.
    """
    generator = torch.Generator().manual_seed(0)
    center = region.center
    for start in range(STARTS):
        point = center.clone()
        if start:
            drawn = torch.rand(center.shape, generator=generator, dtype=torch.float64)
            point = _inside(region.low.clamp(min=-1e3) + drawn * (region.high - region.low).clamp(max=2e3), region)
        for step in range(STEPS):
            with torch.enable_grad():
                logits = model(point.requires_grad_().view(1, *shape))[0]
                lead = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
            if lead.detach() < -1e-6 * logits.detach().abs().max():
                exact = length(point.detach().numpy(), center.numpy(), region.norm)
                if exact.high <= region.radius:
                    return float(exact.high)
            (gradient,) = torch.autograd.grad(lead, point)
            point = _inside(point.detach() - _step(gradient, region) * 0.5 * 0.93**step, region)
    return None


def _step(gradient: Tensor, region: Region) -> Tensor:
    """A step of the radius along which the lead falls most, in the norm of the region."""
    free = torch.where(region.high > region.low, gradient, 0.0)
    if region.norm == math.inf:
        return region.radius * free.sign()
    if region.norm == 2:
        steep: Tensor = torch.linalg.vector_norm(free)
        return free * (region.radius / steep.clamp(min=1e-30))
    best = free.abs().argsort(descending=True)[: max(1, int(region.radius))]
    size = region.radius if region.norm != 0 else float((region.high - region.low).max().clamp(max=1e3))
    return torch.zeros_like(free).index_put((best,), size * free[best].sign())


def _inside(point: Tensor, region: Region) -> Tensor:
    """A point of the region near to another one."""
    point = torch.minimum(torch.maximum(point, region.low), region.high)
    delta = point - region.center
    if region.norm == 0:
        kept = delta.abs().argsort(descending=True)[: int(region.radius)]
        delta = torch.zeros_like(delta).index_put((kept,), delta[kept])
    elif region.norm != math.inf:
        size = float(torch.linalg.vector_norm(delta, region.norm))
        delta = delta * min(1.0, region.radius * (1 - 1e-12) / max(size, 1e-300))
    return region.center + delta
