"""Minimum-norm attack: the smallest perturbation found that changes a prediction."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.portfolio import portfolio
from certify.attacks.witnesses import checked_norm, witness_of
from certify.results import Witness

NORMS = (0, 1, 2, math.inf)
METHODS = ("descents", "best")


def minimal_perturbation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    method: str = "descents",
    steps: int = 100,
    restarts: int = 3,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    norm = checked_norm(norm, NORMS)
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    stages = portfolio(norm, steps, restarts)
    if checks.one_of("method", method, METHODS) == "descents":
        stages = {"descents": stages["descents"]}

    return witness_of(
        "minimal_perturbation" if method == "descents" else f"minimal_perturbation({method})",
        stages,
        model,
        x,
        labels,
        norm=norm,
        low=low,
        high=high,
        frozen_features=frozen_features,
        batch_size=batch_size,
        generator=generator,
    )
