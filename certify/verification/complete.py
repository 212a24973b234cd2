"""Complete search around labelled inputs: until another class is proved out of reach, or an input of it is found."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from bounds import Box, Graph, InvalidInput, LpBall, PerturbationSet, capture
from bounds.memory import MEMORY
from bounds.numerics import converted_down, unit_roundoff
from bounds.sets.distances import distance
from certify.attacks import minimal_perturbation
from certify.models import predictions
from certify.results import CompleteCertificate
from certify.verification.deadlines import share
from certify.verification.searches import Limits, searched
from certify.verification.sets import Balls, Family

COMPLETE = "complete"  # as a bounding method
PROVED, FOUND = "proved", "counterexample"
FIRST_RADIUS = 1e-3  # to search where nothing is proved and nothing found
FARTHEST = 1e300  # radius to search, where a side is open: beyond, sides of balls overflow
SLACK = 16  # roundings by which the hull of a ball may lie outside of it


@dataclass(frozen=True, eq=False)
class Around:
    """The end of a search around one input.

    Attributes:
        status: ``"proved"``, ``"counterexample"``, ``"timeout"`` or ``"unknown"``.
        decided_by: the means that decided it.
        adversarial: (1, *D), an input of another class, or None.
        distance: of it, in the norm of the ball, l-infinity of a box; infinite where there is none.
    """

    status: str
    decided_by: str
    adversarial: Tensor | None = None
    distance: float = math.inf


@dataclass(frozen=True, eq=False)
class LabelSearch:
    """Search for inputs of another class in balls and boxes.

    Attributes:
        model: as it runs.
        source: the same network, captured or to be captured.
        num_classes: number K of classes.
        sound: arithmetic of proofs, see :func:`bounds.crown`.
        memory: bytes that coefficients may take.
    """

    model: nn.Module
    source: nn.Module | Graph
    num_classes: int
    sound: str
    memory: int = MEMORY

    def __call__(self, ball: PerturbationSet, x: Tensor, label: int, deadline: float) -> Around:
        """Search the set (1, *D) of one input (1, *D) until a time of ``time.monotonic()``."""
        hull = ball.hull()
        others = [k for k in range(self.num_classes) if k != label]
        rows = torch.eye(self.num_classes, dtype=torch.float64, device=x.device)
        cases = [((rows[label] - rows[k])[None], rows.new_zeros(1)) for k in others]
        seen: list[Tensor] = []

        def check(candidates: Tensor) -> Tensor | None:
            points = _held(candidates, hull.lower, hull.upper, x)
            found = predictions(self.model, points, len(points)) if len(points) else points
            for place in ((found != label) & (found >= 0)).nonzero()[:, 0].tolist() if len(points) else ():
                point = points[place : place + 1]
                alone = int(predictions(self.model, point, 1))
                if alone not in (label, -1) and bool(ball.contains(point.double())):
                    seen.append(point)
                    return point
            return None

        graph = capture(self.source, x)
        box = Box(hull.lower.double(), hull.upper.double())
        round_ball = ball if isinstance(ball, LpBall) and not ball.is_box else None
        limits = Limits(self.memory)
        found = searched(
            graph, box, cases, deadline=deadline, sound=self.sound, check=check, limits=limits, ball=round_ball
        )
        if seen:
            order = ball.norm if isinstance(ball, LpBall) else math.inf
            return Around(FOUND, found.decided_by, seen[-1], float(distance(seen[-1], x, order)))
        return Around(found.status if found.status != FOUND else "unknown", found.decided_by)


def require_searchable(ball: PerturbationSet) -> None:
    """Refuse sets that are neither balls of a norm nor boxes."""
    if not (ball.is_box or isinstance(ball, LpBall)):
        raise InvalidInput(
            f"method='complete' serves bounds.LpBall and bounds.Box, got {type(ball).__name__}: "
            f"use method='alpha_crown'"
        )


def complete_balls(family: Balls | Family, x: Tensor) -> Balls:
    """The balls for which radii are searched; others are refused."""
    if isinstance(family, Family):
        raise InvalidInput("method='complete' serves a norm of at least 1, got perturbation: use certify.verify")
    none = torch.zeros(len(x[:1]), dtype=torch.float64, device=x.device)
    require_searchable(family(x[:1].detach().double(), none))
    return family


@dataclass(frozen=True, eq=False)
class RadiusSearch:
    """Bisection for the distance of the nearest input of another class, between a proof and a witness.

    Attributes:
        search: that decides one radius.
        balls: of a norm.
        tolerance: relative distance of both sides at which it ends.
    """

    search: LabelSearch
    balls: Balls
    tolerance: float

    def __call__(
        self, x: Tensor, label: int, proved: float, found: tuple[float, Tensor], deadline: float
    ) -> tuple[float, float, Tensor]:
        """The largest proved radius, the distance of the nearest input found, and that input.

        Args:
            x: (1, *D).
            label: its class.
            proved: a radius that is proved already.
            found: distance of an adversarial input and the input; infinite with the clean one where there is none.
            deadline: in seconds of ``time.monotonic()``.
        """
        upper, adversarial = found
        reach = float(self.balls.reach(x.double()))
        doubt = math.inf  # the least radius of which a search said nothing
        step = 0
        while min(upper, doubt) - proved > self.tolerance * proved and proved < reach:
            now = time.monotonic()
            radius = self._radius(proved, min(upper, doubt), reach, halve=step % 2 == 1 or doubt < upper)
            if now >= deadline or not proved < radius < min(upper, doubt, FARTHEST):
                break
            ball = self.balls(x.double(), torch.tensor([radius], dtype=torch.float64, device=x.device))
            around = self.search(ball, x, label, share(deadline, 2))
            if around.adversarial is not None:
                upper, adversarial = min(around.distance, radius), around.adversarial
            elif around.status == PROVED:
                proved = radius
            else:
                doubt = radius
            step += 1
        return proved, upper, adversarial

    def _radius(self, proved: float, end: float, reach: float, *, halve: bool) -> float:
        """The next radius: just below the nearest witness, and the middle, in turn."""
        if math.isinf(end):
            return min(2 * proved if proved > 0 else FIRST_RADIUS, reach)
        return (proved + end) / 2 if halve else max(end * (1 - self.tolerance / 2), (proved + end) / 2)


def complete_certificate(
    search: RadiusSearch,
    x: Tensor,
    labels: Tensor,
    predicted: Tensor,
    proved: Tensor,
    deadline: float,
    generator: Generator | None,
) -> CompleteCertificate:
    """Radii (N,) that are proved already and the distances that an attack finds, brought together."""
    balls, label_search = search.balls, search.search
    right = predicted == labels
    lower, upper, adversarial = torch.where(right, proved, 0.0), torch.zeros_like(proved), x.clone()
    rows = right.nonzero()[:, 0]
    known = {}
    if len(rows) and balls.order in (1, 2, math.inf):  # for which there is an attack
        with torch.enable_grad():
            witness = minimal_perturbation(
                label_search.model,
                x[rows],
                labels[rows],
                norm=balls.order,
                low=balls.low,
                high=balls.high,
                frozen_features=balls.frozen_features,
                generator=generator,
            )
        known = {
            row: (float(witness.distance[i]), witness.adversarial[i : i + 1]) for i, row in enumerate(rows.tolist())
        }
    for place, row in enumerate(rows.tolist()):
        one = slice(row, row + 1)
        found = known.get(row, (math.inf, x[one]))
        end = share(deadline, len(rows) - place)
        lower[row], upper[row], adversarial[one] = search(x[one], int(labels[row]), float(lower[row]), found, end)
    return CompleteCertificate(
        label=predicted,
        radius=lower,
        abstained=torch.zeros_like(right),
        norm=balls.order,
        alpha=0.0,
        subject="base",
        method=COMPLETE,
        sound=label_search.sound,
        upper=upper,
        adversarial=adversarial,
    )


def _held(candidates: Tensor, lower: Tensor, upper: Tensor, x: Tensor) -> Tensor:
    """The numbers of the input's dtype nearest to candidates (N, *D), a few roundings inside of their sides."""
    lower, upper = lower.double(), upper.double()
    slack = SLACK * unit_roundoff(torch.float64) * torch.maximum(lower.abs(), upper.abs())
    least, largest = -converted_down(-(lower + slack), x.dtype), converted_down(upper - slack, x.dtype)
    points = torch.minimum(torch.maximum(candidates.to(x.dtype), least), largest)
    return torch.where(least <= largest, points, x)
