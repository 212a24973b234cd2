"""The state of an attack on a batch: every pass through the model goes through here, and is counted."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from bounds.numerics import per_row
from bounds.sets.norms import clip, length, onto_hyperplane
from certify.attacks.common.formats import Format
from certify.attacks.common.gradients import Mender, foretells, gradient_of, useless
from certify.attacks.common.passes import logits_of
from certify.attacks.common.streams import Streams

MOST_TARGETS = 9  # classes considered as the next aim, at most
CREDIT = 0.999  # a later attack must come nearer by that factor to be named the winner
FOUND = ("best", "distance", "reached", "winner", "credited")  # the state of each row
FAR = 1e9  # stands for a distance that is infinite or not a number


@dataclass
class MinimumNormState:
    """Correctly classified inputs under attack: the model, the box, and the best point of each row so far."""

    model: nn.Module
    x: Tensor
    labels: Tensor
    norm: float
    low: Tensor  # (N, *D), infinite where the box is open
    high: Tensor
    num_classes: int
    streams: Streams
    format: Format  # of the inputs
    targets: Tensor | None = None  # (N,) the only class that counts as a success, any other than the label if None
    surrogate: Callable[[], AbstractContextManager[object]] = nullcontext  # in which the model is run
    mender: Mender = field(default_factory=Mender)
    deadline: float = math.inf  # the moment at which passes end
    stage: int = 0  # index of the attack that is running
    forward: int = 0
    backward: int = 0
    best: Tensor = field(init=False)  # (N, *D) adversarial points, x where there is none yet
    distance: Tensor = field(init=False)  # (N,) their distance, infinite where there is none yet
    reached: Tensor = field(init=False)  # (N,) their class, the label where there is none yet
    winner: Tensor = field(init=False)  # (N,) the stage that found them, up to the last digits
    credited: Tensor = field(init=False)  # (N,) the distance at which the winner last changed
    blind: Tensor = field(init=False)  # (N,) bool, no gradient so far was other than 0 in entries that may move
    broken: Tensor = field(init=False)  # (N,) bool, a gradient had entries that were not finite, nor further inside
    nonfinite: Tensor = field(init=False)  # (N,) bool, a gradient had entries that were not finite
    unforetold: Tensor = field(init=False)  # (N,) bool, the gradient at x foretells no change
    more_forward: Tensor = field(init=False)  # (N,) passes of some rows only
    more_backward: Tensor = field(init=False)
    rounding: Tensor = field(init=False)  # (N,) of the logits seen last

    def __post_init__(self) -> None:
        self.best = self.x
        self.distance = self.x.new_full((len(self.x),), math.inf)
        self.reached = self.labels
        self.winner, self.credited = torch.zeros_like(self.labels), self.distance
        self.blind = torch.ones_like(self.labels, dtype=torch.bool)
        self.broken, self.nonfinite, self.unforetold = (torch.zeros_like(self.blind) for _ in range(3))
        self.rounding = torch.zeros_like(self.distance)
        self.more_forward, self.more_backward = torch.zeros_like(self.labels), torch.zeros_like(self.labels)
        size = per_row(length(self.x, math.inf), self.x)
        self._sides = torch.where(self.low.isinf(), -size, self.low), torch.where(self.high.isinf(), size, self.high)

    @contextmanager
    def part(self, rows: Tensor) -> Iterator["MinimumNormState"]:
        """A search of some rows that goes on from what was found; its findings count even if time runs out."""
        part = self._part(rows)
        try:
            yield part
        finally:
            for name in FOUND:
                setattr(self, name, getattr(self, name).index_copy(0, rows, getattr(part, name)))
            self.more_forward[rows] += part.forward + part.more_forward
            self.more_backward[rows] += part.backward + part.more_backward

    def _part(self, rows: Tensor) -> "MinimumNormState":
        names = ("x", "labels", "low", "high")
        targets = None if self.targets is None else self.targets[rows]
        part = replace(
            self,
            **{name: getattr(self, name)[rows] for name in names},
            targets=targets,
            streams=self.streams.fork(rows),
            forward=0,
            backward=0,
        )
        for name in FOUND:
            setattr(part, name, getattr(self, name)[rows])
        return part

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K), counted as one query of each row; successes are remembered."""
        seen = points if points.requires_grad else self.shown(points)
        with self.surrogate():
            logits, self.rounding = logits_of(self.model, seen, self.format, self.deadline)
        self.forward += 1
        seen = seen.detach()
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
        return self.margin(logits) > self.rounding  # False for NaN and infinity

    def margin(self, logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Logit of the target class (the largest of another class if None) minus that of the label, (N,)."""
        return self._lead(logits.detach(), target)

    def _lead(self, logits: Tensor, target: Tensor | None) -> Tensor:
        """The margin, with its derivative; under a targeted attack that of its class over the best of the others."""
        fixed = self.labels if self.targets is None else self.targets
        if target is None or self.targets is not None:
            target = logits.detach().scatter(1, fixed[:, None], -math.inf).argmax(1)
        lead = (logits.gather(1, target[:, None]) - logits.gather(1, fixed[:, None])).squeeze(1)
        return lead if self.targets is None else -lead

    def wrong(self, points: Tensor) -> Tensor:
        """(N,) bool: the points are misclassified."""
        return self.beaten(self.logits(points))

    def margin_and_gradient(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logit of the target class (the runner-up if None) minus that of the label, (N,), and its gradient."""
        margin, gradient, points = self._raw_gradient(points, target)
        return margin, self._mended(gradient, points, target)

    def _raw_gradient(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The margin (N,), its gradient as it comes, and the points at which the model saw them."""
        points = self.shown(points).detach().requires_grad_()
        with torch.enable_grad():
            margin = self._lead(self.logits(points), target)
            gradient = self._gradient(margin, points)
        return margin.detach(), gradient, points.detach()

    def _gradient(self, margin: Tensor, points: Tensor) -> Tensor:
        """Gradient of each margin with respect to its point, counted where the model can be differentiated."""
        self.backward += margin.requires_grad
        return gradient_of(margin, points)

    def _mended(self, gradient: Tensor, points: Tensor, target: Tensor | None) -> Tensor:
        """The gradient made finite; what it says, or does not, is remembered."""

        def again(nudged: Tensor) -> Tensor:
            return self._raw_gradient(nudged, target)[1]

        gradient, broken, still = self.mender.mended(gradient, points, *self.sides(), again)
        self.blind &= useless(gradient, self.low, self.high)
        self.nonfinite |= broken
        self.broken |= still
        return gradient

    def shown(self, points: Tensor) -> Tensor:
        """The inputs nearest to the points, in the working dtype: what the model is given."""
        return self.format.nearest(points, self.x, self.low, self.high)

    def unguided(self) -> Tensor:
        """(N,) bool: gradients say nothing, not even at x about a small step along them; remembered."""
        margin, gradient = self.margin_and_gradient(self.x, None)
        target = self.logits(self.x).scatter(1, self.labels[:, None], -math.inf).argmax(1)

        def values(points: Tensor) -> tuple[Tensor, Tensor]:
            return self.margin(self.logits(points), target), self.rounding

        self.unforetold = ~foretells(margin, gradient, self.x, *self.sides(), values)
        return self.blind | self.broken | self.unforetold

    def linearised(self, points: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """The boundary to a class, linearised at ``points``: perturbations d of x with <gradient, d> = level, (N,)."""
        margin, gradient = self.margin_and_gradient(points, target)
        return (gradient * (points - self.x)).flatten(1).sum(1) - margin, gradient

    def onto_plane(self, gradient: Tensor, level: Tensor, points: Tensor) -> Tensor:
        """The shortest step from ``points`` that meets <gradient, step> = level within the box, (N, *D)."""
        return onto_hyperplane(gradient, level, self.high - points, points - self.low, self.norm)

    def likeliest(self, count: int) -> Iterator[Tensor]:
        """The likeliest other classes of each row, (N,), one after the other: ``count`` or as many as are aimed at."""
        if self.targets is not None:
            yield self.targets
            return
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
        if self.targets is not None:
            return self.targets, *self.margin_and_gradient(points, None)
        points = self.shown(points).detach().requires_grad_()
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
            margin, gradient = margin.detach(), self._mended(gradient, points.detach(), target)
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
        """The box, or the size of the input where it is open, (N, *D) each."""
        return self._sides

    def extent(self, norm: float) -> Tensor:
        """The largest distance worth looking at, (N,): to the farthest corner of the box."""
        low, high = self.sides()
        return length(torch.maximum(self.x - low, high - self.x), norm)

    def random_point(self) -> Tensor:
        """A point between x and a random point of the box, (N, *D)."""
        low, high = self.sides()
        target = low + self.streams.uniform(self.x) * (high - low)
        share = self.streams.uniform(self.distance)
        return self.inside(self.x + per_row(share, target) * (target - self.x))

    def random_start(self) -> Tensor:
        """A random point around x on the scale of the best one; a random point where nothing was found.

        In l_0 half of the changed entries go back to x, in the other norms every entry moves by up to half of the
        largest change.
        """
        noise = self.streams.uniform(self.x, -0.5, 0.5)
        if self.norm == 0:
            near = torch.where(noise > 0, self.best, self.x)
        else:
            near = self.inside(self.x + noise * per_row(length(self.best - self.x, math.inf), noise))
        return torch.where(per_row(self.distance.isfinite(), near), near, self.random_point())
