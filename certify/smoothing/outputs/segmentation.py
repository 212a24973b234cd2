r"""Certified segmentation: a label or an abstention for every pixel of an image (SegCertify, Fischer et al. 2021).

The smoothed model gives each pixel the class that it most often gets under noise. One radius is asked about. Within it
a pixel keeps its class if the class has more than the probability :math:`\tau` that the radius needs. So each pixel has
a hypothesis, "at most :math:`\tau`", that its votes may reject. A correction for many tests keeps the probability that
any pixel of an image is certified wrongly.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidModel
from bounds.numerics import round_up
from bounds.statistics.multiple import CORRECTIONS, Correction, familywise_rejections, p_values_of_counts
from certify.results import Drawn
from certify.smoothing.classifiers.noisy_model import Grid
from certify.smoothing.drawing.votes import Sampling, Stage, draw_run_seed
from certify.smoothing.noises.base import Noise
from certify.smoothing.outputs.base import NoisyOutputs


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationCertificate(Drawn):
    """Labels of pixels that a smoothed segmentation model keeps for all inputs within a radius.

    ``*P`` is the shape of the pixels, such as (H, W).

    Attributes:
        label: (N, *P) int64, the class that separate draws chose.
        abstained: (N, *P) bool, False where the smoothed model is certified to return ``label`` for the pixel, at every
            input within ``radius``.
        counts: (N, *P) int64, votes for ``label`` among the ``n`` draws; a NaN among the logits of a pixel votes for
            no class.
        threshold: (N,) float64, the probability that a class needs for the radius.
        radius: bound of the perturbation, in units of the input.
        norm: order of the norm.
        alpha: probability, per row, that any pixel of it is certified wrongly.
        correction: ``"holm"`` or ``"bonferroni"``.
        num_classes: K.
        n: draws per input behind ``counts``.
        n0: separate draws per input that chose the labels.
    """

    abstained: Tensor
    counts: Tensor
    threshold: Tensor
    radius: float
    norm: float
    alpha: float
    correction: str
    num_classes: int
    n: int
    n0: int

    def certified(self, labels: Tensor) -> Tensor:
        """(N, *P) bool: the pixel is certified to have the given label, from ``labels`` (N, *P).

        Raises:
            InvalidInput: labels of another shape.
        """
        return ~self.abstained & (self.label == checks.same_shape("labels", labels, self.label).to(self.label.device))


class SmoothedSegmentation:
    """The segmentation model that returns, for each pixel, the class that a model most often gives it under noise.

    Args:
        model: maps (N, *D) to logits (N, K, *P), deterministic and row by row; normalisation belongs inside it.
        noise: distribution of the perturbation, in units of the input.
        batch_size: rows of a forward pass; it affects memory and speed only.
        noise_group: number of consecutive inputs that share their noise draws.
        grid: as for :class:`certify.SmoothedClassifier`; the model is then that behind a rounding to the grid.

    Raises:
        InvalidInput: batch_size or noise_group below 1, a grid for a noise that knows none.

    References:
        Fischer, Baader, Vechev (2021), Scalable certified segmentation via randomized smoothing, ICML,
        arXiv:2107.00228, algorithm SegCertify.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Noise,
        *,
        batch_size: int = 32,
        noise_group: int = 1,
        grid: Grid = "auto",
    ) -> None:
        self.outputs = NoisyOutputs(model, noise, batch_size=batch_size, noise_group=noise_group, grid=grid)

    @property
    def noise(self) -> Noise:
        """Noise of the smoothed model."""
        return self.outputs.noise

    @in_deployed_precision
    def certify(
        self,
        x: Tensor,
        radius: float,
        n: int = 1_000,
        n0: int = 100,
        alpha: float = 1e-3,
        *,
        correction: Correction = "holm",
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> SegmentationCertificate:
        """Pixels whose label the smoothed model keeps for every input within ``radius``.

        For each row, the statement "for every pixel without abstention, the smoothed model returns ``label`` at all
        inputs within ``radius``" is false with probability at most ``alpha``. Draws are counted on the device as they
        come: of N images, memory holds K counts per pixel for a few, and one for all.

        Args:
            x: (N, *D), floating and finite.
            radius: bound of the perturbation, in units of the input, at least 0. ``noise.radius`` of a probability is
                the radius that this probability certifies.
            n: noise draws per input for the tests.
            n0: separate draws per input that choose the labels.
            alpha: failure probability, per row, of all its pixels together.
            correction: for many tests. ``"holm"`` certifies what ``"bonferroni"`` does, and more.
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: an output that is no (N, K, *P) with K of at least 2; see :func:`certify.models.probe`.

        References:
            Fischer et al. (2021), arXiv:2107.00228, algorithm SegCertify with Holm's correction.
        """
        radius, alpha = checks.nonnegative("radius", radius), checks.probability("alpha", alpha)
        n, n0 = checks.at_least("n", n, 1), checks.at_least("n0", n0, 1)
        checks.one_of("correction", correction, CORRECTIONS)
        sampling = self.outputs.sampling(x, max(n, n0), draw_run_seed(generator), first_index)
        classes, pixels = self._shape(sampling)
        threshold = self.noise.probability_needed_at(x.detach(), radius).clamp(max=1.0)
        label, counts = (torch.zeros(len(x), math.prod(pixels), dtype=torch.int64, device=x.device) for _ in range(2))
        abstained = torch.ones_like(label, dtype=torch.bool)
        for rows, part in self.outputs.parts(sampling, max(n, n0)):
            label[rows] = _chosen(part, label[rows], classes, n0)
            counts[rows] = _agreeing(part, label[rows], n)
            p_values = _p_values(counts[rows], threshold[rows], n, sampling.error)
            abstained[rows] = ~familywise_rejections(p_values, alpha, correction)
        return SegmentationCertificate(
            label=label.view(-1, *pixels),
            abstained=abstained.view(-1, *pixels),
            counts=counts.view(-1, *pixels),
            threshold=threshold,
            radius=radius,
            norm=self.noise.norm,
            alpha=alpha,
            correction=correction,
            num_classes=classes,
            n=n,
            n0=n0,
            **self.outputs.provenance(sampling, "segmentation by "),
        )

    def _shape(self, sampling: Sampling) -> tuple[int, tuple[int, ...]]:
        """Number of classes and shape of the pixels."""
        shape = tuple(self.outputs.example(sampling).shape)
        if len(shape) < 3 or shape[1] < 2:
            raise InvalidModel(
                f"the model must return logits (N, K, *P) of K >= 2 classes and pixels *P, got {shape}: for one class "
                f"per input use certify.SmoothedClassifier"
            )
        return shape[1], shape[2:]


def _chosen(part: Sampling, like: Tensor, classes: int, draws: int) -> Tensor:
    """Labels (M, P): the class with the most votes of each pixel, the first one of equals."""
    rows, pixels = like.shape
    votes = torch.zeros(rows * (classes + 1) * pixels, dtype=torch.int32, device=like.device)
    places = torch.arange(pixels, device=like.device)

    def count(logits: Tensor, row: Tensor, draw: Tensor) -> None:
        cell = (_choice(logits) + row[:, None] * (classes + 1)) * pixels + places
        votes.scatter_add_(0, cell.flatten(), votes.new_ones(()).expand(cell.numel()))

    part.run(draws, Stage.SELECTION, count)
    return votes.view(rows, classes + 1, pixels)[:, :-1].argmax(1)


def _agreeing(part: Sampling, label: Tensor, draws: int) -> Tensor:
    """Votes (M, P) for the given labels (M, P)."""
    votes = torch.zeros_like(label)

    def count(logits: Tensor, row: Tensor, draw: Tensor) -> None:
        votes.index_add_(0, row, (_choice(logits) == label[row]).long())

    part.run(draws, Stage.ESTIMATION, count)
    return votes


def _choice(logits: Tensor) -> Tensor:
    """Classes (B, P) of logits (B, K, *P); K where one is NaN, which votes for no class."""
    largest, choice = logits.flatten(2).max(dim=1)
    return torch.where(largest.isnan(), logits.shape[1], choice)


def _p_values(counts: Tensor, threshold: Tensor, n: int, error: float) -> Tensor:
    """P-values (M, P) of "the label has at most the probability ``threshold``", (M,), from counts (M, P).

    The noise as drawn may give the label as much more as the total variation distance ``error``.
    """
    raised = round_up(threshold + error, 2.0**-52).clamp(max=1.0).tolist()  # one read of the device for a few images
    tables = {probability: p_values_of_counts(n, probability).to(counts.device) for probability in set(raised)}
    return torch.stack([tables[probability][row] for probability, row in zip(raised, counts, strict=True)])
