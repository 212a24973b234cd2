"""Trials of smoothing certificates: the smoothed classifier is asked within the radii, on fresh draws."""

import copy

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_upper
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from bounds.sets.norms import INSIDE, clip, length
from certify.attacks.studies.noise_accuracy import unit_noise
from certify.attacks.studies.smoothed import smoothed_robust_accuracy
from certify.results import SmoothedPrediction, SmoothingCertificate
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.drawing.distributions import Additive, OnGrid, on_grid
from certify.smoothing.noises.base import InNorm

SHARES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.0)  # of a perturbation, for one on the grid that is not too long
GRADIENT_DRAWS, STEPS = 32, 20  # of the attack


class Trials:
    """Some rows of a smoothing certificate, and what the classifier says at and around their inputs."""

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        x: Tensor,
        certificate: SmoothingCertificate,
        rows: Tensor,
        draws: int,
        generator: torch.Generator | None,
    ) -> None:
        distribution = on_grid(smoothed.noise.distribution, smoothed.grid, x)
        self.steps: int | None = getattr(distribution, "steps", None)
        self.attackable = isinstance(distribution.noise if isinstance(distribution, OnGrid) else distribution, Additive)
        self.classifier = copy.copy(smoothed)
        self.classifier.grid = self.steps  # points around the inputs do not decide anew whether they lie on the grid
        self.rows, self.x, self.norm = rows, x[rows].detach(), certificate.norm
        self.label, self.radius = certificate.label[rows], certificate.radius[rows]
        self.p_lower, self.two_class = certificate.p_lower[rows], certificate.two_class[rows]
        self.draws, self.generator = draws, checks.generator(generator, x.device)
        self.low, self.high = _box(smoothed)
        self.predictions: list[SmoothedPrediction] = []

    def level(self, alpha: float) -> float:
        """Level of each test, for ``alpha`` over all rows; so many draws have to be able to refute something."""
        level = alpha / len(self.rows)
        needed = 0.5**self.draws * (self.classifier.num_classes - 1)
        if not needed < level:
            raise InvalidInput(
                f"draws must be more, got {self.draws}: not even votes that are all for another class refute a row at "
                f"alpha = {level:.3g} for each test"
            )
        return level

    def at_the_inputs(self, level: float) -> list[str]:
        """Rows whose label is not as likely as they state, in words."""
        votes = self._votes(self.x).gather(1, self.label[:, None]).squeeze(1)
        highest = clopper_pearson_upper(votes, self.draws, alpha=level)
        return [
            f"row {int(self.rows[i])}: class {int(self.label[i])} has a probability of {float(self.p_lower[i]):.4g} or "
            f"more, it says, but {int(votes[i])} of {self.draws} votes, a share of {float(highest[i]):.4g} at most"
            for i in (highest < self.p_lower).nonzero().flatten().tolist()
        ]

    def random(self) -> Tensor:
        """Perturbations of the length of the radii, in random directions."""
        return self._scaled(unit_noise(self.x, self.norm, "sphere", self.generator))

    def towards(self, points: Tensor) -> Tensor:
        """Perturbations of that length in the direction of points, which are given for all rows of the certificate."""
        move = points[self.rows] - self.x
        return self._scaled((move / per_row(length(move, self.norm), move)).nan_to_num(0.0, 0.0, 0.0))

    def attacked(self) -> Tensor:
        """Perturbations to where an attack on the smoothed classifier ends; 0 where it finds nothing."""
        found = smoothed_robust_accuracy(
            self.classifier,
            self.x,
            self.label,
            norm=self.norm,
            epsilon=self.radius * INSIDE,
            low=self.low,
            high=self.high,
            draws=GRADIENT_DRAWS,
            steps=STEPS,
            n=self.draws,
            alpha=0.5,  # what it takes for found is asked again, at the level of this test
            generator=self.generator,
        )
        return found.adversarial - self.x

    def moved(self, kind: str, move: Tensor, level: float) -> list[str]:
        """Rows whose label is refuted at the moved inputs, in words."""
        votes = self._votes(self._within(move))
        own = votes.gather(1, self.label[:, None]).squeeze(1)
        rival = votes.scatter(1, self.label[:, None], 0).amax(1)
        classes = self.classifier.num_classes
        against_one = clopper_pearson_upper(own, (own + rival).clamp(min=1), alpha=level / (classes - 1))
        highest = torch.where(self.two_class, against_one, clopper_pearson_upper(own, self.draws, alpha=level))
        return [
            f"row {int(self.rows[i])}: certified within {float(self.radius[i]):.6g}, but after {kind} within it class "
            f"{int(self.label[i])} has {int(own[i])} of {self.draws} votes, a share of {float(highest[i]):.4g} at most"
            for i in (highest < 0.5).nonzero().flatten().tolist()
        ]

    def _votes(self, points: Tensor) -> Tensor:
        self.predictions.append(self.classifier.predict(points, self.draws, generator=self.generator))
        return self.predictions[-1].counts

    def _scaled(self, direction: Tensor) -> Tensor:
        return direction * per_row((self.radius * INSIDE).to(self.x.dtype), direction)

    def _within(self, move: Tensor) -> Tensor:
        """The moved inputs that the certificate speaks of: in its box, on its grid and within its radius."""
        points, open_ = self.x.clone(), torch.ones_like(self.two_class)
        for share in SHARES:
            tried = self.x + share * move
            if self.low is not None and self.high is not None:
                tried = clip(tried, torch.full_like(tried, self.low), torch.full_like(tried, self.high))
            if self.steps is not None:
                tried = ((tried.double() * self.steps).round() / self.steps).to(self.x.dtype)
            fits = open_ & (length(tried.double() - self.x.double(), self.norm) <= self.radius)
            points, open_ = torch.where(per_row(fits, points), tried, points), open_ & ~fits
        return points


def _box(smoothed: SmoothedClassifier) -> tuple[float | None, float | None]:
    """Sides of the box of inputs that certificates of the noise speak of; None where they speak of any."""
    noise = smoothed.noise.noise if isinstance(smoothed.noise, InNorm) else smoothed.noise
    if noise.domain == "any input":
        return None, None
    return getattr(noise, "low", 0.0), getattr(noise, "high", 1.0)
