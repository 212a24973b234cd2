"""Accuracy under random transformations."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from certify.models import frozen, predictions, predictions_and_labels, probe
from certify.semantic.transformations import Transformation
from certify.sets.draws import SetAccuracy


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformationAccuracy(SetAccuracy):
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

    transformation: str


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
