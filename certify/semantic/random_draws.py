"""Accuracy under random transformations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import checks, clopper_pearson_interval
from bounds.checks import Limit
from bounds.circumstances import isolated
from certify.models import frozen, predictions, predictions_and_labels, probe
from certify.results import DrawnAccuracy, share_interval
from certify.semantic.transformations import Transformation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformationAccuracy(DrawnAccuracy):
    """Counts of correct predictions under random transformations: nothing about the worst one.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input; -1 where its logits are not finite.
        correct: (N,) int64, transformed copies that are classified correctly.
        right: (N, draws) bool, which ones.
        distance: (N, draws) float64, distance of their parameters from the identity, in ``unit``.
        draws: copies of each input.
        transformation: the transformation, in words.
        unit: of the distances, see :class:`SemanticCertificate`.
        reach: the distance of the whole range.
        subject: the classifier it speaks of.
    """

    correct: Tensor
    right: Tensor
    distance: Tensor
    draws: int
    transformation: str
    unit: str
    reach: float
    subject: str = "base"

    @property
    def accuracy(self) -> float:
        """Share of all copies that are classified correctly; NaN without any row."""
        return float(self.right.double().mean())

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, without a column for each copy."""
        table = super().to_dataframe()
        return table[[name for name in table if not str(name).startswith("right_")]]

    def error_interval(self, alpha: float = 0.05) -> tuple[Tensor, Tensor]:
        """Exact interval for the probability of an error of each row, (N,) float64 each.

        It holds for one row at a time, with probability at least ``1 - alpha`` over the parameters.
        """
        confidence = 1 - checks.probability("alpha", alpha)
        return clopper_pearson_interval(self.draws - self.correct, self.draws, confidence=confidence)

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Exact interval for the accuracy on new inputs, from the first copy of each row.

        Copies of one input are no independent draws of inputs, so more of them do not narrow it; it holds for
        inputs drawn as these were, with probability at least ``1 - alpha``.
        """
        return share_interval(self.right[:, 0], alpha)


@isolated
def random_transformations(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None,
    transformation: Transformation,
    *,
    draws: int = 100,
    low: Limit = 0.0,
    high: Limit = 1.0,
    channels_last: bool = False,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> TransformationAccuracy:
    """Number of correct predictions of each input under transformations with uniform parameters of the range.

    Args:
        model: maps images to logits (N, K).
        x: images, see :func:`certify_transformation`.
        labels: (N,) correct classes; None for those that the model predicts.
        transformation: with a range for each parameter.
        draws: transformed copies of each input.
        low: lower side of the range of pixels.
        high: upper side.
        channels_last: whether images are (N, H, W, C).
        batch_size: images of a forward pass.
        generator: source of the parameters.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    checks.at_least("draws", draws, 1)
    checks.at_least("batch_size", batch_size, 1)
    checks.inputs(x, low, high)
    layout = transformation.layout(x, channels_last=channels_last)
    generator, x = checks.generator(generator, x.device), x.detach()
    shares = torch.rand(
        len(x), draws, len(transformation.parameters), generator=generator, device=x.device, dtype=torch.float64
    )
    values = transformation.within(shares)
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        found = [torch.zeros(0, dtype=torch.bool, device=x.device)]
        for copies in torch.arange(len(x) * draws, device=x.device).split(batch_size) if len(x) else ():
            rows, draw = copies // draws, copies % draws
            made = transformation.transformed(x[rows], values[rows, draw], layout, low, high)
            found.append(predictions(model, made, batch_size) == labels[rows])
    right = torch.cat(found).view(len(x), draws)
    return TransformationAccuracy(
        label=predicted,
        correct=right.sum(1),
        right=right,
        distance=transformation.distance(values) * transformation.reach,
        draws=draws,
        transformation=repr(transformation),
        unit=transformation.unit,
        reach=transformation.reach,
    )
