"""Certificates that no counterfactual with few changes exists."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds import checks
from certify.results import Certificate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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

    def sentences(self) -> list[str]:
        """Numbers of decisions that are proved to stand, and of counterfactuals proved the smallest, in words."""
        return [
            f"of {len(self)} decisions, {int(self.verified.sum())} are proved to stand against all changes of the set",
            f"for {int(self.found.sum())} a counterfactual was found, {int(self.smallest.sum())} of them proved to "
            f"have the fewest changes",
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the shares of decisions that are proved to stand, and not found to fall, at each number of changes."""
        ax = checks.axes(ax)
        changes = torch.arange(int(self.changes.amax()) + 1 if len(self) else 1)
        right = (self.distance > 0).cpu()
        proved = ((self.radius.cpu() >= changes[:, None]) & right).double().mean(1)
        standing = (self.distance.cpu() > changes[:, None]).double().mean(1)
        ax.step(changes.numpy(), proved.numpy(), where="post", marker="o", label="proved to stand")
        ax.step(changes.numpy(), standing.numpy(), where="post", marker=".", label="not found to fall")
        ax.set_ylim(0, 1.01)
        ax.set_xlabel("Changes")
        ax.set_ylabel("Share of decisions")
        ax.legend(loc="lower left")
        return ax
