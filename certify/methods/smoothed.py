"""Certificates of a smoothed classifier, and attacks on it."""

import math
from typing import Literal

import msgspec

from bounds.errors import InvalidInput
from certify.attacks import smoothed_minimal_perturbation
from certify.methods.base import Method, Problem
from certify.methods.checked import Count, Even, Name, Positive, Probability
from certify.results import Certificate, Witness
from certify.smoothing import Gaussian, Noise, SmoothedClassifier

SIGMA = 0.25


class Smoothed(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a smoothed classifier: ``sigma`` of Gaussian noise, or any ``noise`` of :mod:`certify.smoothing`."""

    sigma: Positive | None = SIGMA
    noise: Noise | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise is None and self.sigma is None:
            raise InvalidInput(f"{type(self).__name__}(sigma=None): pass sigma=, or noise=")
        if self.noise is not None and self.sigma is not None:
            if self.sigma != SIGMA:
                raise InvalidInput(f"{type(self).__name__}: sigma is that of Gaussian noise, so pass sigma= or noise=")
            msgspec.structs.force_setattr(self, "sigma", None)  # not to stand in a manifest without any meaning

    @property
    def randomization(self) -> Noise:
        """The noise of the smoothed classifier."""
        return self.noise if self.noise is not None else Gaussian(self.sigma or SIGMA)

    def classifier(self, problem: Problem, noise_group: int = 1) -> SmoothedClassifier:
        """One and the same classifier for its certificates and for attacks on it."""
        return SmoothedClassifier(
            problem.model,
            self.randomization,
            num_classes=problem.num_classes,
            batch_size=problem.batch_size,
            noise_group=noise_group,
            grid="auto" if problem.on_grid else None,
        )


class Smoothing(Smoothed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Randomized smoothing, with Gaussian noise of ``sigma`` or with any ``noise``, whose norm its radii have.

    All inputs draw their own noise by default (``noise_group=1``), so that statements about the whole data set may
    treat the certificates as independent. The settings are those of :meth:`certify.SmoothedClassifier.certify`. The
    model must also take clean inputs, whose classes the evaluation states, so :class:`certify.smoothing.Ablation`,
    which shows it other channels, serves :class:`certify.SmoothedClassifier` alone.

    >>> from certify.smoothing import Laplace
    >>> Smoothing(noise=Laplace(scale=0.5)).norms
    (1.0,)
    """

    rows_per_unit = 10

    name: Name = "smoothing"
    n: Count = 10_000
    n0: Count = 100
    alpha: Probability = 1e-3
    noise_group: Count = 1
    bound: Literal["binary", "two-class", "selected"] = "binary"
    tolerance: Positive | None = None

    @property
    def norms(self) -> tuple[float, ...]:  # type: ignore[override]  # elsewhere a constant of the class
        """The norm of the noise."""
        return (self.randomization.norm,)

    def shortened(self, share: float = 1.0) -> tuple[Method, float]:
        """With fewer draws: each is one pass."""
        n = min(self.n, int(1000 * share))
        return msgspec.structs.replace(self, n=n), (self.n + self.n0) / (n + self.n0)

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Certificates of the smoothed classifier."""
        return self.classifier(problem, self.noise_group).certify(
            problem.x[rows],
            self.n,
            self.n0,
            self.alpha,
            bound=self.bound,
            tolerance=self.tolerance,
            generator=problem.generator(),
            first_index=problem.place(rows),
        )


class SmoothedAttack(Smoothed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Minimum-norm attack on the classifier that :class:`Smoothing` of the same sigma or noise certifies.

    The settings are those of :func:`certify.attacks.smoothed_minimal_perturbation`.
    """

    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 10
    one_by_one = True  # its predictions draw by the place among the open inputs of a unit

    name: Name = "smoothed_attack"
    draws: Even = 64
    steps: Count = 40
    restarts: Count = 2
    n: Count = 10_000
    alpha: Probability = 1e-3

    def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
        """Inputs at which the smoothed classifier errs."""
        return smoothed_minimal_perturbation(
            self.classifier(problem),
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            low=problem.low,
            high=problem.high,
            draws=self.draws,
            steps=self.steps,
            restarts=self.restarts,
            n=self.n,
            alpha=self.alpha,
            generator=problem.generator(problem.place(rows)),
        )
