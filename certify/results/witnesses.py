"""Inputs that break a model, and the accuracy that attacks leave: upper bounds."""

from dataclasses import dataclass

from torch import Tensor

from bounds import checks, clopper_pearson_interval
from certify.results.base import Record


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
