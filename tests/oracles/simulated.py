"""Methods whose work takes the time that they say, on a clock that only they move."""

import math
import random

import torch
from torch import Tensor, nn

from certify.methods import Method, Problem
from certify.results import Certificate, Witness


class Clock:
    """Seconds that pass when work says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def restart(self) -> "Clock":
        """The clock at 0."""
        self.now = 0.0
        return self


CLOCK = Clock()


class Simulated(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificates of radius ``radius``, or witnesses at distance ``distance``, in so many seconds."""

    norms = (2.0, math.inf)
    rows_per_unit = 20

    name: str = "simulated"
    fixed: float = 0.0  # seconds of a call
    each: float = 1.0  # seconds of an input
    spread: float = 0.0  # share by which it varies from input to input
    radius: float = 0.25
    distance: float | None = None

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate | Witness:
        x, labels = problem.x[rows], problem.y[rows]
        varied = random.Random(round(float(x.sum()) * 1e6))
        CLOCK.now += sum([self.fixed, *(self.each * (1 + self.spread * varied.uniform(-1, 1)) for _ in range(len(x)))])
        right = problem.model(x).argmax(1) == labels
        about = {"label": problem.model(x).argmax(1), "norm": norm, "subject": "base", "method": self.name}
        if self.distance is None:
            radius = torch.full(labels.shape, self.radius, dtype=torch.float64).where(right, 0.0)
            return Certificate(radius=radius, abstained=torch.zeros_like(right), alpha=0.0, sound="rounding", **about)
        away = torch.full(labels.shape, self.distance, dtype=torch.float64).where(right, 0.0)
        moved = x + (away / x[0].numel() ** (1 / norm)).view(-1, 1).to(x.dtype)
        found = torch.ones_like(right)
        return Witness(distance=away, adversarial=moved, found=found, adversarial_label=1 - labels, queries=1, **about)


def problem(count: int, wrong: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of two classes with inputs, of which the first ones have the wrong label."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2).eval()
    x = torch.rand(count, 4, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    y[:wrong] = 1 - y[:wrong]
    return model, x, y
