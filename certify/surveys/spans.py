"""Accuracy on the span of normals: what a model still recognises of inputs projected onto it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.geometry import leading_directions
from bounds.noise.boundary import random_basis
from bounds.statistics.paired import discordant, paired_interval
from certify.models import frozen, predictions, probe
from certify.results import Record, share_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class SpanAccuracy(Record):
    """Correctness of a model on inputs projected onto a subspace, and onto random ones of as many dimensions.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input.
        clean: (N,) bool, whether that is correct.
        projected: (N,) bool, whether the prediction for the projected input is.
        by_chance: (S,) float64, accuracies on random subspaces.
        p_value: share of random subspaces on which the accuracy is as high, exact if the span is one like them.
        dimension: of the subspace.
        features: D.
    """

    clean: Tensor
    projected: Tensor
    by_chance: Tensor
    p_value: float
    dimension: int
    features: int

    @property
    def accuracy(self) -> float:
        """Accuracy on the projected inputs."""
        return float(self.projected.double().mean())

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Exact interval for that accuracy on new inputs, at least at ``1 - alpha``."""
        return share_interval(self.projected, alpha)

    def loss_interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Interval for the accuracy lost by the projection, clean minus projected, on new inputs."""
        return paired_interval(*discordant(self.clean, self.projected), len(self), 1 - alpha)

    def to_dataframe(self, *, alpha: float = 0.05) -> "pd.DataFrame":
        """Accuracies in all directions, in the span and in random subspaces, and what the projection loses.

        Intervals are for new inputs, that of random subspaces is the range of those that were drawn.

        Args:
            alpha: of each interval.
        """
        import pandas as pd

        clean, chance = float(self.clean.double().mean()), self.by_chance
        rows = [
            ("all directions", clean, *share_interval(self.clean, alpha)),
            ("span", self.accuracy, *self.interval(alpha)),
            ("random subspaces", float(chance.mean()), float(chance.min()), float(chance.max())),
            ("lost in the span", clean - self.accuracy, *self.loss_interval(alpha)),
        ]
        return pd.DataFrame(rows, columns=["kind", "accuracy", "lower", "upper"])

    def sentences(self) -> list[str]:
        """Accuracy lost by the projection, in words."""
        low, high = self.loss_interval()
        lost = float(self.clean.double().mean()) - self.accuracy
        about = f"in {self.dimension} of {self.features} dimensions the model loses {lost:.1%} [{low:.1%}, {high:.1%}]"
        return [
            f"{about} of accuracy; in random ones it keeps {float(self.by_chance.mean()):.1%} (p = {self.p_value:.2g})"
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the accuracies on random subspaces as a histogram, with the two others as lines."""
        ax = checks.axes(ax)
        ax.hist(self.by_chance.cpu().numpy(), bins=20, color="#8b949e", label="random subspaces")
        ax.axvline(self.accuracy, color="#0072b2", label="span of normals")
        ax.axvline(float(self.clean.double().mean()), color="#d55e00", linestyle="--", label="all directions")
        ax.set(xlabel="accuracy", ylabel="subspaces", xlim=(0, 1))
        return ax


@isolated
def span_accuracy(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    normals: Tensor,
    *,
    dimension: int | None = None,
    draws: int = 99,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> SpanAccuracy:
    """Accuracy on inputs that are projected onto the span of normals, against random subspaces of its dimension.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite, at least one; not those that the normals belong to.
        labels: (N,) correct classes.
        normals: (M, *D), of any length above 0, such as minimal perturbations.
        dimension: leading directions of the normals that are kept; all that they span if None.
        draws: random subspaces; the least p-value is 1 / (draws + 1).
        batch_size: inputs per pass.
        generator: source of the subspaces.

    Raises:
        InvalidInput: a bad argument, a normal of length 0.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Jetley, Lord, Torr (2018), With friends like these, who needs adversaries?, arXiv:1807.04200.
    """
    checks.not_empty(checks.inputs(x))
    checks.at_least("draws", draws, 1)
    checks.at_least("batch_size", batch_size, 1)
    generator, x = checks.generator(generator, x.device), x.detach()
    basis = leading_directions(normals, dimension).to(x).flatten(1)
    if basis.shape[1] != x[0].numel():
        checks.rows("normals, an entry of each input", normals[0].flatten(), x[0].numel())
    with frozen(model), torch.no_grad():
        labels = checks.labels(labels, len(x), probe(model, x, batch_size=min(batch_size, len(x)))).to(x.device)
        label = predictions(model, x, batch_size)

        def right(directions: Tensor) -> Tensor:
            """Correctness on inputs projected onto orthonormal directions (k, F)."""
            points = (x.flatten(1) @ directions.T @ directions).view_as(x)
            return predictions(model, points, batch_size) == labels

        projected = right(basis)
        drawn = [right(random_basis(x, 1, len(basis), generator)[0].flatten(1)).double().mean() for _ in range(draws)]
    by_chance = torch.stack(drawn)
    as_high = int((by_chance >= projected.double().mean()).sum())
    return SpanAccuracy(
        label=label,
        clean=label == labels,
        projected=projected,
        by_chance=by_chance,
        p_value=(1 + as_high) / (draws + 1),
        dimension=len(basis),
        features=basis.shape[1],
    )
