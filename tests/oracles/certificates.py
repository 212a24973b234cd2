"""Certificates with radii that are given, or with noise that inputs share."""

from collections.abc import Sequence

import torch
from oracles.halfspace import Halfspace
from torch import Tensor

from certify import Certificate, SmoothedClassifier
from certify.results import SmoothingCertificate
from certify.smoothing import Gaussian


def certificate(radius: Sequence[float], *, alpha: float = 0.001, right: Sequence[bool] | None = None) -> Certificate:
    """Certificates of inputs of class 0; a negative radius abstains."""
    values = torch.tensor(radius, dtype=torch.float64)
    return Certificate(
        label=torch.zeros(len(values), dtype=torch.int64) if right is None else 1 - torch.tensor(right).long(),
        radius=values.clamp(min=0),
        abstained=values < 0,
        norm=2.0,
        alpha=alpha,
        subject="smoothed(gaussian(sigma=0.5))",
        method="smoothing",
    )


def grouped(rows: int, group: int, *, alpha: float, first_index: int = 0) -> Certificate:
    """All rows certified at radius 1, of noise shared by ``group`` consecutive inputs."""
    halfspace = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(1.0), num_classes=2, noise_group=group)
    result = halfspace.certify(5 * torch.ones(rows, 1), n=1, n0=1, alpha=alpha, first_index=first_index)
    assert isinstance(result, SmoothingCertificate)
    return result


def zeros(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.int64)
