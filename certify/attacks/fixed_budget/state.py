"""The state of a batch under attack at a fixed budget: passes through the model, and moves among allowed inputs."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from bounds import PerturbationSet
from bounds.numerics import per_row
from bounds.sets.norms import clip, length, steepest_ascent
from certify.attacks.common.formats import Format
from certify.attacks.common.gradients import Mender, foretells, gradient_of, useless
from certify.attacks.common.passes import logits_of
from certify.attacks.common.projections import maximize_in_box, project_in_box, pull_within, sparse_ascent
from certify.attacks.common.streams import Streams
from certify.attacks.fixed_budget.losses import Loss, margin

HALVINGS = 20  # of the way from an input to a point outside of its set
SPARSITY = 0.05  # share of the entries that a step in l_1 moves, where an attack does not adapt it
LogitLoss = Callable[[Tensor], Tensor]  # of logits (M, K), one number (M,) per row
Round = TypeVar("Round")


@dataclass
class Outcome:
    """Outcome of an attack on a batch of N inputs."""

    adversarial: Tensor  # (N, *D) the first adversarial points, x where there is none yet
    found: Tensor  # (N,) bool
    margin: Tensor  # (N,) float64, lowest logit of the label minus that of the best other class
    blind: Tensor  # (N,) bool, no gradient was other than 0 in entries that may move
    broken: Tensor  # (N,) bool, a gradient had entries that were not finite, nor a little further inside the box
    nonfinite: Tensor  # (N,) bool, a gradient had entries that were not finite
    unforetold: Tensor  # (N,) bool, the gradient foretold nothing at x, of a row that attacks with gradients left
    forward: Tensor  # (N,) passes
    backward: Tensor

    @classmethod
    def blank(cls, x: Tensor) -> "Outcome":
        """Before the attack."""
        never = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        margin = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        return cls(x.clone(), never, margin, ~never, never.clone(), never.clone(), never.clone(), none, none.clone())

    def put(self, rows: Tensor, part: "Outcome") -> None:
        """Fill in the outcome of a part of the inputs."""
        for entry in fields(self):
            getattr(self, entry.name)[rows] = getattr(part, entry.name)


@dataclass
class FixedBudgetState:
    """The M of N inputs that still stand: passes go through here, are counted, and successes are kept."""

    model: nn.Module
    x: Tensor  # (M, *D)
    labels: Tensor
    norm: float
    epsilon: Tensor  # (M,) float64
    lower: Tensor  # (M, *D) sides of the allowed inputs
    upper: Tensor
    num_classes: int
    streams: Streams
    format: Format
    region: PerturbationSet | None = None  # sets of the caller's own instead of norm and budget, one for each row
    deadline: float = math.inf  # the moment at which passes end
    surrogate: Callable[[], AbstractContextManager[object]] = nullcontext  # in which the model is run
    mender: Mender = field(default_factory=Mender)
    outcome: Outcome = field(init=False)  # of all N
    rounding: Tensor = field(init=False)  # (M,) of the logits seen last
    rows: Tensor = field(init=False)  # (M,) their places in the outcome
    targets: Tensor = field(init=False)  # (M, T) classes to aim at, see ``rank_targets``
    widened: float = 1.0  # the ball is larger by this factor for the time being; if above 1, nothing counts as found

    def __post_init__(self) -> None:
        self.outcome = Outcome.blank(self.x)
        self.rows = torch.arange(len(self.x), device=self.x.device)
        self.targets = self.labels[:, None]
        self.rounding = torch.zeros_like(self.epsilon)

    @property
    def radius(self) -> Tensor:
        """Epsilon of each row in the dtype of the inputs, (M,)."""
        return (self.widened * self.epsilon).to(self.x.dtype)

    def drop_found(self) -> Tensor:
        """Leave out the rows that fell; the places of those that stay, for the caller to do likewise."""
        keep = (~self.outcome.found[self.rows]).nonzero().squeeze(1)
        self.keep(keep)
        return keep

    def keep(self, keep: Tensor) -> None:
        """Leave out all rows but those at some places (M',)."""
        self.streams = self.streams.rows(keep)
        self.region = None if self.region is None else self.region.rows(keep)
        for name in ("x", "labels", "epsilon", "lower", "upper", "rows", "targets"):
            setattr(self, name, getattr(self, name)[keep])

    def while_standing(self, rounds: Iterable[Round]) -> Iterator[Round]:
        """The rounds of an attack, one after the other as long as rows stand; those that fell are left out."""
        for one in rounds:
            yield one
            if not len(self.drop_found()):
                return

    # -------------------------------------------------------------------------------------------------- the model

    def untargeted(self, loss: Loss) -> LogitLoss:
        """The loss with the labels of the rows that stand when it is computed."""
        return lambda logits: loss(logits, self.labels)

    def rank_targets(self, count: int) -> None:
        """Aim at the other classes with the largest logits at the inputs, at most ``count``."""
        logits = self.logits(self.x).scatter(1, self.labels[:, None], -math.inf)
        self.targets = logits.topk(min(count, self.num_classes - 1), dim=1).indices

    def logits(self, points: Tensor) -> Tensor:
        """Logits (M, K) at points (M, *D); successes are remembered."""
        with self.surrogate():
            logits, rounding = logits_of(self.model, points, self.format, self.deadline)
        self.rounding = rounding
        outcome, rows, seen = self.outcome, self.rows, logits.detach()
        outcome.forward[rows] += 1
        if self.widened > 1:
            return logits
        lead = -margin(seen, self.labels).double()
        # Another class must win by more than rounding, which differs with the batch; False for NaN and infinity.
        beaten = -lead > rounding
        new = per_row(beaten & ~outcome.found[rows], points)
        outcome.adversarial[rows] = torch.where(new, points.detach(), outcome.adversarial[rows])
        outcome.found[rows] |= beaten
        outcome.margin[rows] = torch.fmin(outcome.margin[rows], lead)
        return logits

    def loss_and_gradient(self, points: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor]:
        """Loss of each row, (M,), and its gradient, (M, *D); 0 where the model cannot be differentiated."""
        losses, raw = self._raw_gradient(points, loss)
        lower, upper = self._finite_sides()
        gradient, broken, still = self.mender.mended(
            raw, points, lower, upper, lambda moved: self._raw_gradient(moved, loss)[1]
        )
        self.outcome.blind[self.rows] &= useless(gradient, self.lower, self.upper)
        self.outcome.nonfinite[self.rows] |= broken
        self.outcome.broken[self.rows] |= still
        return losses, gradient

    def _raw_gradient(self, points: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            losses = loss(self.logits(points))
            gradient = gradient_of(losses, points)
        self.outcome.backward[self.rows] += 1
        return losses.detach(), gradient

    def _finite_sides(self) -> tuple[Tensor, Tensor]:
        """The box, or the size of the input around it where it is open, (M, *D) each."""
        size = per_row(length(self.x, math.inf), self.x)
        return torch.where(self.lower.isinf(), -size, self.lower), torch.where(self.upper.isinf(), size, self.upper)

    def unguided(self) -> Tensor:
        """(M,) bool: gradients say nothing, not even at x about a small step along them; remembered."""
        outcome, target = self.outcome, self.untargeted(margin)
        value, gradient = self.loss_and_gradient(self.x, target)

        def values(points: Tensor) -> tuple[Tensor, Tensor]:
            return target(self.logits(points)), self.rounding

        told = foretells(value, gradient, self.x, *self._finite_sides(), values)
        outcome.unforetold[self.rows] = ~told & ~outcome.found[self.rows]
        return outcome.blind[self.rows] | outcome.broken[self.rows] | ~told

    # ---------------------------------------------------------------------------------------- the allowed inputs

    def project(self, points: Tensor) -> Tensor:
        """The nearest allowed inputs, (M, *D); of sets of the caller's own, the last ones on the way to the points."""
        if self.region is not None:
            return self._pulled_into(self.region, points)
        room = self.lower - self.x, self.upper - self.x
        delta = project_in_box(points - self.x, self.radius, self.norm, room)
        points = clip(self.x + delta, self.lower, self.upper)
        radius = self.widened * self.epsilon
        return self.format.within(pull_within(points, self.x, radius, self.norm), self.x, radius, self.norm)

    def _pulled_into(self, region: PerturbationSet, points: Tensor) -> Tensor:
        held, near, far = self.x, torch.zeros_like(self.epsilon), torch.ones_like(self.epsilon)
        share = far
        for _ in range(HALVINGS):
            candidate = self.x + per_row(share.to(self.x.dtype), points) * (points - self.x)
            candidate = candidate.to(self.format.dtype).to(points.dtype)
            inside = region.contains(candidate.double())
            held = torch.where(per_row(inside, points), candidate, held)
            near, far = torch.where(inside, share, near), torch.where(inside, far, share)
            if bool((near == 1).all()):
                break
            share = torch.where(near == 1, 1.0, (near + far) / 2)
        return held

    def vertex(self, region: PerturbationSet, slopes: Tensor) -> Tensor:
        """Points at which a linear function with these slopes (M, *D) is largest in the sets, pulled into them."""
        _, move = region.largest_fall(-slopes.double().flatten(1).unsqueeze(1))
        return self.project((region.center + move.reshape(region.center.shape)).to(self.x.dtype))

    def leap(self, points: Tensor, gradient: Tensor, radius: Tensor) -> Tensor:
        """Points at which the linearised loss is largest within ``radius`` (M,) of the points, projected, (M, *D)."""
        room = self.lower - points, self.upper - points
        return self.project(points + maximize_in_box(gradient, radius, self.norm, room))

    def direction(self, points: Tensor, gradient: Tensor, count: Tensor | None = None) -> Tensor:
        """Step of unit length along which the loss grows fastest, (M, *D); in l_1 it moves ``count`` (M,) entries."""
        blocked = torch.where(gradient > 0, points >= self.upper, points <= self.lower)
        gradient = torch.where(blocked, 0.0, gradient)  # an entry at the edge of the box cannot follow
        if self.norm != 1:
            return steepest_ascent(gradient, self.norm)
        if count is None:
            count = torch.full_like(self.labels, max(1, round(SPARSITY * gradient[0].numel())))
        return sparse_ascent(gradient, count)

    def random_start(self) -> Tensor:
        """Random allowed inputs: uniform in the l_infinity ball, else on the sphere before the box cuts it, (M, *D).

        In sets of the caller's own, on the way to a point at which a random linear function is largest.
        """
        if self.region is not None:
            far = self.vertex(self.region, self.streams.normal(self.x))
            return self.project(
                self.x + per_row(self.streams.uniform(self.epsilon), far).to(far.dtype) * (far - self.x)
            )
        if self.norm == math.inf:
            noise = self.streams.uniform(self.x, -1, 1)
        else:
            noise = self.streams.normal(self.x)
            noise = noise / per_row(length(noise, self.norm), noise)
        return self.project(self.x + per_row(self.radius, noise) * noise)
