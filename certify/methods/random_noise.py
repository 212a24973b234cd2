"""Random noise as a method: how much of it changes the prediction."""

import math

import torch

from bounds import noise_radius
from certify.methods.base import Method, Problem
from certify.methods.checked import Count, Name, Positive, Probability
from certify.results import NoiseTolerance


class RandomNoise(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size of random noise, uniform in the ball of the norm, that changes the prediction with probability ``epsilon``.

    Noise grows up to ``limit`` for each entry: up to ``limit * D ** (1 / norm)`` in the norm, for inputs of D entries.
    See :func:`bounds.noise_radius`. It neither bounds nor estimates the distance of an adversarial example, which is
    smaller by far, and stands in a column of its own.
    """

    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 10

    name: Name = "noise"
    epsilon: Probability = 0.01
    draws: Count = 500
    limit: Positive = 1.0
    alpha: Probability = 0.05

    def run(self, problem: Problem, rows: slice, norm: float) -> NoiseTolerance:
        """Sizes of noise, each input with draws of its own."""
        features = problem.x[0].numel()
        found = [
            noise_radius(
                problem.model,
                problem.x[row : row + 1],
                norm=norm,
                epsilon=self.epsilon,
                limit=self.limit * features ** (1 / norm),
                draws=self.draws,
                alpha=self.alpha,
                batch_size=problem.batch_size,
                generator=problem.generator(problem.place(slice(row, row + 1))),
            )
            for row in range(rows.start, rows.stop)
        ]
        label, radius, lower, upper = (
            torch.cat([getattr(one, name) for one in found]) for name in ("label", "radius", "lower", "upper")
        )
        return NoiseTolerance(
            label=label,
            radius=radius,
            lower=lower,
            upper=upper,
            epsilon=self.epsilon,
            norm=norm,
            method=self.name,
        )
