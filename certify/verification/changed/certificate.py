"""Certificates that no counterfactual with few changes exists."""

from dataclasses import dataclass

from torch import Tensor

from certify.results import Certificate


@dataclass(frozen=True, eq=False, kw_only=True)
class CounterfactualCertificate(Certificate):
    """Numbers of changes that are proved to change no decision, and the fewest that were found to, one row per input.

    ``radius`` is the largest number of changes that is proved: no input of the set with so many changes, or fewer, gets
    another class, or the target.

    Attributes:
        verified: (N,) bool, True where this is proved for all inputs of the set.
        changes: (N,) int64, features or words that may change in the set.
        found: (N,) bool, True where the model, run once more, gives a counterfactual in the set.
        counterfactual: (N, *D), the one with the fewest changes that was found; the clean input where none was.
        distance: (N,) float64, its number of changes; 0 where the decision is another one already, infinite where
            nothing was found.
        counterfactual_label: (N,) int64, what the model predicts for it.
        margin: (N,) float64, the lead of the label that is proved for all inputs with at most ``radius`` changes; minus
            infinity where none was bounded.
        parts: (N,) int64, parts of the set that were bounded.
    """

    verified: Tensor
    changes: Tensor
    found: Tensor
    counterfactual: Tensor
    distance: Tensor
    counterfactual_label: Tensor
    margin: Tensor
    parts: Tensor

    @property
    def smallest(self) -> Tensor:
        """(N,) bool, True where no counterfactual has fewer changes than the one that was found, by proof."""
        return self.found & (self.radius + 1 >= self.distance)

    @property
    def unknown(self) -> Tensor:
        """(N,) bool, True where there may be a counterfactual, but none was found."""
        return ~(self.verified | self.found)
