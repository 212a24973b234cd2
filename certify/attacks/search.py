"""The state of an attack on a batch: every pass through the model goes through here, and is counted."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from certify.attacks.geometry import clip, length, per_row

ROUNDING = 8  # units in the last place of the largest logit


@dataclass
class Search:
    """Correctly classified inputs under attack: the model, the box, and the best point of each row so far."""

    model: nn.Module
    x: Tensor
    labels: Tensor
    norm: float
    low: Tensor | None
    high: Tensor | None
    generator: torch.Generator | None
    queries: int = 0
    best: Tensor = field(init=False)  # (N, *D) adversarial points, x where there is none yet
    distance: Tensor = field(init=False)  # (N,) their distance, infinite where there is none yet
    reached: Tensor = field(init=False)  # (N,) their class, the label where there is none yet

    def __post_init__(self) -> None:
        self.best = self.x
        self.distance = self.x.new_full((len(self.x),), math.inf)
        self.reached = self.labels

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K), counted as one query of each row; successes are remembered."""
        logits: Tensor = self.model(points)
        self.queries += 1
        seen = points.detach()
        distance = length(seen - self.x, self.norm)
        better = self.beaten(logits) & (distance < self.distance)
        self.distance = torch.where(better, distance, self.distance)
        self.best = torch.where(per_row(better, seen), seen, self.best)
        self.reached = torch.where(better, logits.detach().argmax(1), self.reached)
        return logits

    def beaten(self, logits: Tensor) -> Tensor:
        """(N,) bool: another class wins by more than rounding, which differs with the batch, can explain."""
        logits, index = logits.detach(), self.labels[:, None]
        margin = logits.scatter(1, index, -math.inf).amax(1) - logits.gather(1, index).squeeze(1)
        return margin > ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(1)  # False for NaN and infinity

    def wrong(self, points: Tensor) -> Tensor:
        """(N,) bool: the points are misclassified."""
        return self.beaten(self.logits(points))

    def margin_and_gradient(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logit of the target class (the runner-up if None) minus that of the label, (N,), and its gradient."""
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(points)
            if target is None:
                target = logits.detach().scatter(1, self.labels[:, None], -math.inf).argmax(1)
            margin = (logits.gather(1, target[:, None]) - logits.gather(1, self.labels[:, None])).squeeze(1)
            (gradient,) = torch.autograd.grad(margin.sum(), points)
        return margin.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

    def inside(self, points: Tensor) -> Tensor:
        """The nearest points of the box."""
        return clip(points, self.low, self.high)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The box, or the size of the data where it is open."""
        size = self.x.abs().amax()
        low = -size if self.low is None else self.low
        high = size if self.high is None else self.high
        return low, high

    def extent(self, norm: float) -> Tensor:
        """The largest distance worth looking at, (N,): to the farthest corner of the box."""
        low, high = self.sides()
        return length(torch.maximum(self.x - low, high - self.x), norm)

    def random_point(self) -> Tensor:
        """A point between x and a random point of the box, (N, *D)."""
        low, high = self.sides()
        target = low + torch.empty_like(self.x).uniform_(generator=self.generator) * (high - low)
        share = torch.empty_like(self.distance).uniform_(generator=self.generator)
        return self.inside(self.x + per_row(share, target) * (target - self.x))

    def random_start(self) -> Tensor:
        """A random point half as far as the best one, entry by entry; a random point where nothing was found."""
        noise = torch.empty_like(self.x).uniform_(-0.5, 0.5, generator=self.generator)
        near = self.inside(self.x + noise * per_row(length(self.best - self.x, math.inf), noise))
        return torch.where(per_row(self.distance.isfinite(), near), near, self.random_point())
