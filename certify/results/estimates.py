"""Estimates: they promise nothing about adversaries."""

from dataclasses import dataclass

from torch import Tensor

from certify.results.base import Record


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimate(Record):
    """Guesses of the distance to the nearest other class: no bound in any direction, and never a certificate.

    Attributes:
        label: (N,) int64, the predicted class.
        score: (N,) float64, in units of the input; NaN where there is none.
        status: N names, how far the guess can be trusted, see :data:`bounds.estimates.result.STATUSES`.
        lipschitz: (N,) float64, the local Lipschitz constant (of order 2: the curvature) behind it.
        largest: (N,) float64, the largest sampled value for that constant, over all targets.
        capped: (N,) bool, whether the score is the largest one possible, ``reach``.
        reach: radius of the ball in which points were drawn.
        norm: order of the norm.
        method: name of the method.
        num_batches: maxima that a distribution was fitted to.
        batch_size: points behind each.
        subject: the classifier it speaks of.
    """

    score: Tensor
    status: tuple[str, ...]
    lipschitz: Tensor
    largest: Tensor
    capped: Tensor
    reach: float
    norm: float
    method: str
    num_batches: int
    batch_size: int
    subject: str = "base"


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseTolerance(Record):
    """Sizes of random noise that change the prediction with a given probability: nothing about adversaries.

    Attributes:
        label: (N,) int64, the predicted class.
        radius: (N,) float64, the first size at which at least the share ``epsilon`` of the draws changes the
            prediction; infinite where none up to the largest size does.
        lower: (N,) float64, a size up to which the share is not significantly as large.
        upper: (N,) float64, the first size at which it is significantly as large; infinite where none is.
        epsilon: the probability.
        norm: order of the norm of the ball that noise is uniform in.
        method: name of the method.
        subject: the classifier it speaks of.
    """

    radius: Tensor
    lower: Tensor
    upper: Tensor
    epsilon: float
    norm: float
    method: str
    subject: str = "base"


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnAccuracy(Record):
    """Base of correct predictions under random changes of each input: nothing about the worst one."""
