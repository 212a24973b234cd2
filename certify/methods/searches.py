"""Searches for adversarial examples, and estimates of their distance."""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bounds import CleverEstimate, clever
from certify.attacks import minimal_perturbation
from certify.methods.base import Method, Problem
from certify.methods.checked import Count, Name, Positive
from certify.methods.frozen import WithFrozenFeatures
from certify.results import Estimate, Witness


class MinimalPerturbation(WithFrozenFeatures, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Minimum-norm attack; the settings are those of :func:`certify.attacks.minimal_perturbation`."""

    norms = (0.0, 1.0, 2.0, math.inf)
    rows_per_unit = 50

    name: Name = "attack"
    method: Literal["descents", "best"] = "descents"
    steps: Count = 100
    restarts: Count = 3

    def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
        """Adversarial examples of the model."""
        return minimal_perturbation(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            low=problem.low,
            high=problem.high,
            frozen_features=self.mask(problem),
            method=self.method,
            steps=self.steps,
            restarts=self.restarts,
            batch_size=problem.batch_size,
            generator=problem.generator(),
            first_index=problem.place(rows),
        )


class Clever(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """CLEVER scores: estimates, which stand between certificates and witnesses and bound neither.

    Fewer points than in the paper (500 batches of 1,024), at about 250,000 gradients an input with 10 classes. The
    radius of each norm caps the score and is part of its meaning.
    """

    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 5
    one_by_one = True  # draws go by the place in the batch; of one input they are many already

    name: Name = "clever"
    num_batches: Annotated[int, Meta(ge=2)] = 100
    batch_size: Count = 256
    radius_l1: Positive = 20.0
    radius_l2: Positive = 2.0
    radius_linf: Positive = 0.2

    def shortened(self, share: float = 1.0) -> tuple[Method, float]:
        """With fewer batches of points."""
        few = min(self.num_batches, int(6 * share))
        return msgspec.structs.replace(self, num_batches=few), self.num_batches / few

    def run(self, problem: Problem, rows: slice, norm: float) -> Estimate:
        """Estimates for the model."""
        radii = {1.0: self.radius_l1, 2.0: self.radius_l2, math.inf: self.radius_linf}
        found = clever(
            problem.model,
            problem.x[rows],
            norm=norm,
            radius=radii[norm],
            num_batches=self.num_batches,
            batch_size=self.batch_size,
            low=problem.low,
            high=problem.high,
            chunk_size=problem.batch_size,
            resamples=0,
            generator=problem.generator(problem.place(rows)),
        )
        return estimate_of(found, self.name)


def estimate_of(found: CleverEstimate, method: str) -> Estimate:
    """Scores as a result of an evaluation."""
    return Estimate(
        label=found.label,
        score=found.score,
        status=found.status,
        lipschitz=found.lipschitz,
        largest=found.largest.amax(1),
        capped=found.capped,
        reach=found.radius,
        norm=found.norm,
        method=method,
        num_batches=found.num_batches,
        batch_size=found.batch_size,
    )
