"""The state of an attack on a batch: every pass through the model goes through here, and is counted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from certify.attacks.common.norms import clip, length, onto_hyperplane, per_row

ROUNDING = 8  # units in the last place of the largest logit
MOST_TARGETS = 9  # classes considered as the next aim, at most
CREDIT = 0.999  # a later attack must come nearer by that factor to be named the winner
FAR = 1e9  # stands for a distance that is infinite or not a number


@dataclass
class Search:
    """Correctly classified inputs under attack: the model, the box, and the best point of each row so far."""

    model: nn.Module
    x: Tensor
    labels: Tensor
    norm: float
    low: Tensor  # (N, *D), infinite where the box is open
    high: Tensor
    num_classes: int
    generator: torch.Generator | None
    stage: int = 0  # index of the attack that is running
    forward: int = 0
    backward: int = 0
    best: Tensor = field(init=False)  # (N, *D) adversarial points, x where there is none yet
    distance: Tensor = field(init=False)  # (N,) their distance, infinite where there is none yet
    reached: Tensor = field(init=False)  # (N,) their class, the label where there is none yet
    winner: Tensor = field(init=False)  # (N,) the stage that found them, up to the last digits
    credited: Tensor = field(init=False)  # (N,) the distance at which the winner last changed

    def __post_init__(self) -> None:
        self.best = self.x
        self.distance = self.x.new_full((len(self.x),), math.inf)
        self.reached = self.labels
        self.winner, self.credited = torch.zeros_like(self.labels), self.distance

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K), counted as one query of each row; successes are remembered."""
        logits: Tensor = self.model(points)
        self.forward += 1
        seen = points.detach()
        distance = length(seen - self.x, self.norm)
        better = self.beaten(logits) & (distance < self.distance)
        self.distance = torch.where(better, distance, self.distance)
        self.best = torch.where(per_row(better, seen), seen, self.best)
        self.reached = torch.where(better, logits.detach().argmax(1), self.reached)
        gained = better & (distance < CREDIT * self.credited)
        self.winner = self.winner.masked_fill(gained, self.stage)
        self.credited = torch.where(gained, distance, self.credited)
        return logits

    def beaten(self, logits: Tensor) -> Tensor:
        """(N,) bool: another class wins by more than rounding, which differs with the batch, can explain."""
        rounding = ROUNDING * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(1)
        return self.margin(logits) > rounding  # False for NaN and infinity

    def margin(self, logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Logit of the target class (the largest of another class if None) minus that of the label, (N,)."""
        logits, index = logits.detach(), self.labels[:, None]
        if target is None:
            target = logits.scatter(1, index, -math.inf).argmax(1)
        return (logits.gather(1, target[:, None]) - logits.gather(1, index)).squeeze(1)

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
            gradient = self._gradient(margin, points)
        return margin.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

    def _gradient(self, margin: Tensor, points: Tensor) -> Tensor:
        """Of each margin with respect to its point, counted; 0 of a model that cannot be differentiated."""
        if not margin.requires_grad:
            return torch.zeros_like(points)
        (gradient,) = torch.autograd.grad(margin.sum(), points, retain_graph=True)
        self.backward += 1
        return gradient

    def linearised(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """The boundary to a class, linearised at ``points``: perturbations d of x with <gradient, d> = level, (N,)."""
        margin, gradient = self.margin_and_gradient(points, target)
        return (gradient * (points - self.x)).flatten(1).sum(1) - margin, gradient

    def onto_plane(self, gradient: Tensor, level: Tensor, points: Tensor) -> Tensor:
        """The shortest step from ``points`` that meets <gradient, step> = level within the box, (N, *D)."""
        return onto_hyperplane(gradient, level, self.high - points, points - self.low, self.norm)

    def likeliest(self, count: int) -> Iterator[Tensor]:
        """The likeliest other classes of each row, (N,), one after the other: ``count`` or as many as are aimed at."""
        ranked = self.logits(self.x).scatter(1, self.labels[:, None], -math.inf)
        yield from ranked.topk(min(count, MOST_TARGETS, self.num_classes - 1), dim=1).indices.T

    def nearest_boundary(
        self, points: Tensor, origin: Tensor, tried: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The class whose boundary, linearised at ``points``, is nearest to ``origin``; classes ``tried`` come last.

        Among the likeliest other classes; one forward pass, and a backward pass for each of them.

        Returns:
            Classes (N,), their margins at ``points`` (N,) and the gradients of these (N, *D).
        """
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(points)
            margins = logits - logits.gather(1, self.labels[:, None])
        ranked = logits.detach()
        if tried is not None:
            ranked = ranked.masked_fill(tried, torch.finfo(ranked.dtype).min)
        ranked = ranked.scatter(1, self.labels[:, None], -math.inf)
        nearest = torch.full_like(self.distance, math.inf)
        chosen, level, normal = self.labels, torch.zeros_like(nearest), torch.zeros_like(self.x)
        for target in ranked.topk(min(MOST_TARGETS, self.num_classes - 1), dim=1).indices.T:
            with torch.enable_grad():
                margin = margins.gather(1, target[:, None]).squeeze(1)
                gradient = self._gradient(margin, points)
            margin, gradient = margin.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)
            far = self._distance_to_plane(gradient, margin, points.detach() - origin, origin)
            if tried is not None:
                far = torch.where(tried.gather(1, target[:, None]).squeeze(1), 2 * FAR, far)
            closer = far < nearest
            nearest, chosen = torch.where(closer, far, nearest), torch.where(closer, target, chosen)
            level = torch.where(closer, margin, level)
            normal = torch.where(per_row(closer, normal), gradient, normal)
        return chosen, level, normal

    def _distance_to_plane(self, gradient: Tensor, margin: Tensor, offset: Tensor, origin: Tensor) -> Tensor:
        """Distance (N,) from ``origin`` to where margin + <gradient, d - offset> = 0 in the box, FAR if nowhere."""
        level = (gradient * offset).flatten(1).sum(1) - margin
        step = self.onto_plane(gradient, level, origin)
        met = (gradient * step).flatten(1).sum(1) >= 0.999 * level
        return torch.where(met, length(step, self.norm).clamp(max=FAR), FAR)

    def inside(self, points: Tensor) -> Tensor:
        """The nearest points of the box."""
        return clip(points, self.low, self.high)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The box, or the size of the data where it is open."""
        size = self.x.abs().amax()
        return torch.where(self.low.isinf(), -size, self.low), torch.where(self.high.isinf(), size, self.high)

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
        """A random point around x on the scale of the best one; a random point where nothing was found.

        In l_0 half of the changed entries go back to x, in the other norms every entry moves by up to half of the
        largest change.
        """
        noise = torch.empty_like(self.x).uniform_(-0.5, 0.5, generator=self.generator)
        if self.norm == 0:
            near = torch.where(noise > 0, self.best, self.x)
        else:
            near = self.inside(self.x + noise * per_row(length(self.best - self.x, math.inf), noise))
        return torch.where(per_row(self.distance.isfinite(), near), near, self.random_point())
