"""Certificates, and what smoothed classifiers answer: proved, or proved with a stated probability."""

from dataclasses import dataclass

from torch import Tensor

from bounds import checks
from certify.results.base import Drawn, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class Certificate(Record):
    """Radii within which the prediction is proved not to change, one row per input.

    Attributes:
        label: (N,) int64, the predicted class; -1 where the logits of a base classifier are not finite.
        radius: (N,) float64, in units of the input; 0 where nothing is proved.
        abstained: (N,) bool, True where the method gives no statement at all; the radius is then 0.
        norm: order of the norm; NaN where the radius is that of a family of sets of one's own.
        alpha: probability, per row, that the statement is wrong; 0 for a deterministic proof.
        subject: the classifier it speaks of, ``"base"`` or ``"smoothed(...)"``.
        method: name of the method.
        sound: the arithmetic that the statement is about: ``"real"``, ``"rounding"`` (the same, with all rounding
            errors of the proof included) or ``"deployed"`` (the float32 network as it runs).
    """

    radius: Tensor
    abstained: Tensor
    norm: float
    alpha: float
    subject: str
    method: str
    sound: str = "real"

    def certified(self, labels: Tensor, radius: float) -> Tensor:
        """(N,) bool: the correct label, from ``labels`` (N,), is predicted, and proved within ``radius``.

        Raises:
            InvalidInput: labels of another shape.
        """
        checks.rows("labels", labels, len(self))
        right = (self.label == labels.to(self.label.device)) & ~self.abstained
        return right & (self.radius >= radius)


@dataclass(frozen=True, eq=False, kw_only=True)
class CompleteCertificate(Certificate):
    """Radii of a complete search, between a proof and an adversarial example.

    Attributes:
        upper: (N,) float64, distance of ``adversarial``, rounded up: the model is not robust up to it. Infinite where
            none was found, 0 where the model is wrong; below ``radius`` only where rounding in the model as it runs
            changes the class, of which ``sound`` other than ``"deployed"`` knows nothing.
        adversarial: (N, *D), the nearest input of another class that was found; the clean input where none was.
    """

    upper: Tensor
    adversarial: Tensor

    @property
    def gap(self) -> Tensor:
        """(N,) float64, how far apart both sides ended: the radius at which the model errs lies between them."""
        return self.upper - self.radius


@dataclass(frozen=True, eq=False, kw_only=True)
class SmoothingCertificate(Drawn, Certificate):
    """Certificates of a smoothed classifier, with the counts behind them.

    Attributes:
        counts: (N, K) int64, votes of the estimation draws; the rows sum to ``draws - invalid``.
        selection_counts: (N, K) int64, votes of the separate draws that chose ``label``.
        invalid: (N,) int64, estimation draws without a vote because a logit was NaN.
        p_lower: (N,) float64, lower confidence bound of the probability of ``label``.
        p_upper: (N,) float64, upper bound of the probability of every other class; both hold together.
        two_class: (N,) bool, True where ``p_upper`` was estimated, at half of alpha each; else it is ``1 - p_lower``.
        draws: (N,) int64, estimation draws.
        sequential: whether the bounds hold at every moment, so that more draws may follow; else ``draws`` is ``n``.
        n: most estimation draws per input.
        n0: selection draws per input.
    """

    counts: Tensor
    selection_counts: Tensor
    invalid: Tensor
    p_lower: Tensor
    p_upper: Tensor
    two_class: Tensor
    draws: Tensor
    sequential: bool
    n: int
    n0: int


@dataclass(frozen=True, eq=False, kw_only=True)
class RadiusDecision(Drawn):
    """Whether one given radius is certified, decided on as few draws as it takes.

    Attributes:
        label: (N,) int64, the class that the separate draws chose.
        certified: (N,) bool, True where the smoothed classifier is certified to return ``label`` within ``radius``.
        decided: (N,) bool, False where the budget ended before either answer.
        successes: (N,) int64, votes for ``label``.
        draws: (N,) int64, draws counted.
        radius: the radius asked about, in units of the input.
        norm: order of the norm.
        alpha: probability, per row, that a certified row is wrong.
        n0: selection draws per input.
    """

    certified: Tensor
    decided: Tensor
    successes: Tensor
    draws: Tensor
    radius: float
    norm: float
    alpha: float
    n0: int


@dataclass(frozen=True, eq=False, kw_only=True)
class SmoothedPrediction(Record):
    """Predictions of a smoothed classifier.

    Attributes:
        label: (N,) int64, the class with the most votes.
        abstained: (N,) bool, True where the test could not tell the two leading classes apart.
        counts: (N, K) int64, votes.
        p_value: (N,) float64, of the two-sided test that the two leading classes are equally likely.
        alpha: probability, per row, of returning a class other than the smoothed classifier's.
        n: draws per input.
        seed: run seed.
        subject: the smoothed classifier.
    """

    abstained: Tensor
    counts: Tensor
    p_value: Tensor
    alpha: float
    n: int
    seed: int
    subject: str


@dataclass(frozen=True, eq=False, kw_only=True)
class VerdictCertificate(Certificate):
    """Verdicts at one radius as certificates: of that radius where verified, of 0 elsewhere.

    Attributes:
        verdict: N names, ``"verified"``, ``"falsified"`` or ``"unknown"``.
        decided_by: N names, of what decided the row; empty where it is unknown.
        adversarial: (N, *D), the input that falsified the row; the clean input where none did.
        distance: (N,) float64, of ``adversarial``; infinite where none was found.
    """

    verdict: tuple[str, ...]
    decided_by: tuple[str, ...]
    adversarial: Tensor
    distance: Tensor
