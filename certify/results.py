"""Results of methods. The type says what the numbers promise.

A :class:`Certificate` is proved, or proved with probability at least ``1 - alpha``. A :class:`Witness` is an
input that breaks the model and therefore an upper bound. An :class:`Estimate` promises nothing. They never share a
column.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """Base of all results: tensors with one row per input, and numbers that hold for all rows."""

    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy on ``device``; ``dtype`` changes floating fields of the shape of the inputs only.

        Numbers of a row, such as radii, distances and probabilities, stay float64: rounding could break what
        they promise. An adversarial input that was rounded is no longer the one that was checked.
        """
        moved = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, dtype if value.is_floating_point() and value.ndim > 1 else None)
        return dataclasses.replace(self, **moved)

    def cpu(self) -> Self:
        """A copy on the CPU."""
        return self.to("cpu")

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input. What is said of all rows is repeated, counts (N, K) give a column per class.

        Fields of another kind, such as the parts of a proof, have no column.
        """
        import pandas as pd

        columns: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Tensor):
                words = isinstance(value, tuple) and len(value) == len(self) and all(isinstance(v, str) for v in value)
                if words or value is None or isinstance(value, bool | int | float | str):
                    columns[field.name] = value
            elif value.ndim == 1:
                columns[field.name] = value.cpu().numpy()
            elif value.ndim == 2 and not value.is_floating_point():
                columns |= {f"{field.name}_{k}": value[:, k].cpu().numpy() for k in range(value.shape[1])}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="row"))


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
class Drawn(Record):
    """Base of statements that rest on noise draws: what the draws are a function of, and what the statement is about.

    Attributes:
        subject: the smoothed model.
        domain: the perturbed inputs that the statement is about, ``"any input"`` or a part of them.
        seed: run seed; noise is a function of it, the index of the input and the block of draws.
        first_index: index of row 0 in its data set.
        noise_group: consecutive inputs that share their noise draws; 1 makes all inputs independent.
        sampling: how noisy inputs are made; with ``"floating point"`` the theorem holds up to the rounding of noisy
            inputs, with all others exactly.
        precision: dtype in which the model answers.
        draws_version: version of what a seed means: another one gives other draws.
        sampling_error: total variation distance, of a whole noisy input, between the noise as drawn and the noise that
            the theorem is about, at most; probabilities are lowered by it.
    """

    subject: str
    domain: str
    seed: int
    first_index: int
    noise_group: int
    sampling: str
    precision: str
    sampling_error: float = 0.0
    draws_version: int = 1


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
class Witness(Record):
    """Inputs that the model gets wrong, found near the given ones and checked again afterwards.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input.
        distance: (N,) float64, norm of the perturbation recomputed from the stored tensors and rounded up, at least
            the exact one; 0 where the clean input is misclassified already, infinite where nothing was found.
        adversarial: (N, *D), the input found; the clean input where nothing was found.
        found: (N,) bool, True where the model, run once more, misclassifies ``adversarial`` inside the box.
        adversarial_label: (N,) int64, what the model predicts for ``adversarial``.
        norm: order of the norm.
        queries: forward passes per input, the re-check included; of the input with the most.
        method: name of the attack.
        subject: the classifier it speaks of.
        backward_passes: backward passes per input, likewise.
        winner: N names, the part of the attack that found each row; empty where nothing was searched or found.
        queries_per_row: (N,) int64, forward passes of each row, that of the clean input and the re-check included.
        backward_passes_per_row: (N,) int64, backward passes of each row.
        blind: (N,) bool, True where gradients said nothing: all were 0, some were not finite even a little further
            inside the box, or that at the input foretold no change. Such rows are attacked without gradients.
        symptoms: N names of what was wrong with the gradients of a row, joined by ``+``: ``"zero_gradient"``,
            ``"nonfinite_gradient"``, ``"uninformative_gradient"``; empty if nothing was.
        unfinished: (N,) bool, True where a time limit ended the search.
    """

    distance: Tensor
    adversarial: Tensor
    found: Tensor
    adversarial_label: Tensor
    norm: float
    queries: int
    method: str
    subject: str = "base"
    backward_passes: int = 0
    winner: tuple[str, ...] | None = None
    queries_per_row: Tensor | None = None
    backward_passes_per_row: Tensor | None = None
    blind: Tensor | None = None
    symptoms: tuple[str, ...] | None = None
    unfinished: Tensor | None = None


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


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackedAccuracy(Record):
    """Accuracy after attacks at a fixed budget: an upper bound on the robust accuracy.

    Every adversarial input was run through the model once more after the attack, and was measured in float64. That a
    row is ``robust`` means that these attacks found nothing, and proves nothing.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        robust: (N,) bool, True where the clean input is classified correctly and no attack changed that.
        misclassified: (N,) bool, True where the clean input is not classified correctly, and was not attacked.
        found: (N,) bool, True where the model misclassifies ``adversarial``.
        adversarial: (N, *D), the input found; the clean input where nothing was found or needed.
        adversarial_label: (N,) int64, what the model predicts for ``adversarial``.
        distance: (N,) float64, norm of the perturbation, recomputed from the stored tensors and rounded up, at most
            ``epsilon``; 0 where the clean input is misclassified, infinite where nothing was found. In l-infinity where
            no norm was given.
        epsilon: (N,) float64, the budget of each row, in units of the input; NaN for sets of one's own.
        margin: (N,) float64, the lowest lead of the label over the best other class that an attack saw, in units of
            the logits; infinite where there was no attack.
        blind: (N,) bool, True where gradients said nothing: all were 0, or some were not finite even a little further
            inside the box. Attacks with gradients alone did not really test the row. In :func:`robust_accuracy` also
            where the gradient at the input foretold no change; it attacks such rows without gradients too.
        symptoms: N names of what was wrong with the gradients of a row, as of a :class:`Witness`.
        unfinished: (N,) bool, True where a time limit ended the attacks before they found anything or were through.
        attack: name of the attack that found the input of each row, empty where none did.
        forward_passes: (N,) int64, forward passes of each row, that of the clean input and the re-check included.
        backward_passes: (N,) int64, backward passes of each row.
        norm: order of the norm; NaN for sets of one's own.
        method: name of the function that ran the attacks.
        subject: the classifier it speaks of.
    """

    robust: Tensor
    misclassified: Tensor
    found: Tensor
    adversarial: Tensor
    adversarial_label: Tensor
    distance: Tensor
    epsilon: Tensor
    margin: Tensor
    blind: Tensor
    attack: tuple[str, ...]
    forward_passes: Tensor
    backward_passes: Tensor
    norm: float
    method: str
    subject: str = "base"
    symptoms: tuple[str, ...] | None = None
    unfinished: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """Share of robust rows; NaN without any row."""
        return float(self.robust.double().mean())

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The exact (Clopper-Pearson) interval for the accuracy under these attacks on new inputs.

        It holds the probability that an input withstands them, for inputs drawn as these were, with probability
        at least ``1 - alpha``. The robust accuracy may be lower still; only the upper end bounds it.
        """
        return share_interval(self.robust, alpha)


def share_interval(hits: Tensor, alpha: float) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval for the probability of a hit, from independent ones, (N,) bool.

    It holds with probability at least ``1 - alpha``.
    """
    lower, upper = clopper_pearson_interval(hits.sum(), len(hits), confidence=1 - checks.probability("alpha", alpha))
    return float(lower), float(upper)


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
