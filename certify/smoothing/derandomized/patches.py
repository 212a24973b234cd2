"""Certificates against patches: a smoothed classifier that sees one band of the image at a time.

A patch touches few bands, wherever it is and whatever it shows, and cannot change the votes of the others. The votes
of all bands are counted, so that certificates are certain.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from certify.results import Record
from certify.smoothing.derandomized.counting import count_all, lead


class PatchAblation(ABC):
    """A family of bands of an image, each of which is kept while all else is hidden."""

    @abstractmethod
    def positions(self, height: int, width: int) -> int:
        """Number of bands in an image of this size.

        Raises:
            InvalidInput: the band does not fit in.
        """

    @abstractmethod
    def kept(self, position: Tensor, height: int, width: int) -> Tensor:
        """(B, height, width) bool: the pixels of the bands at the given positions, (B,) int64."""

    @abstractmethod
    def hits(self, side: int, height: int, width: int) -> int:
        """Most bands that a square patch of ``side`` pixels touches, wherever it is; never fewer for a larger one."""


@dataclass(frozen=True)
class ColumnAblation(PatchAblation):
    """Bands of adjacent columns, one beginning at every column; bands at the right border continue at the left one.

    A patch m columns wide touches ``m + columns - 1`` of them, or all.

    Args:
        columns: columns of a band.

    Raises:
        InvalidInput: columns below 1.

    >>> ColumnAblation(columns=4).hits(5, height=32, width=32)
    8
    """

    columns: int

    def __post_init__(self) -> None:
        checks.at_least("columns", self.columns, 1)

    def __str__(self) -> str:
        return f"column_ablation(columns={self.columns})"

    def positions(self, height: int, width: int) -> int:
        """Number of bands: one for each column."""
        _require_fit("columns", self.columns, width)
        return width

    def kept(self, position: Tensor, height: int, width: int) -> Tensor:
        """(B, height, width) bool: the pixels of the bands at the given positions, (B,) int64."""
        return _circular_window(position, width, self.columns)[:, None, :].expand(-1, height, -1)

    def hits(self, side: int, height: int, width: int) -> int:
        """Bands that a square patch of ``side`` pixels touches."""
        return min(side + self.columns - 1, width)


@dataclass(frozen=True)
class BlockAblation(PatchAblation):
    """Square blocks, one beginning at every pixel; blocks at a border continue at the opposite one.

    A square patch of side m touches ``(m + side - 1) ** 2`` of them, or all.

    Args:
        side: side of a block, in pixels.

    Raises:
        InvalidInput: side below 1.

    >>> BlockAblation(side=12).hits(5, height=32, width=32)
    256
    """

    side: int

    def __post_init__(self) -> None:
        checks.at_least("side", self.side, 1)

    def __str__(self) -> str:
        return f"block_ablation(side={self.side})"

    def positions(self, height: int, width: int) -> int:
        """Number of blocks: one for each pixel."""
        _require_fit("side", self.side, min(height, width))
        return height * width

    def kept(self, position: Tensor, height: int, width: int) -> Tensor:
        """(B, height, width) bool: the pixels of the blocks at the given positions, (B,) int64, row by row."""
        rows, columns = position // width, position % width
        return (
            _circular_window(rows, height, self.side)[:, :, None]
            & _circular_window(columns, width, self.side)[:, None, :]
        )

    def hits(self, side: int, height: int, width: int) -> int:
        """Blocks that a square patch of ``side`` pixels touches: as many rows of them as columns, or all."""
        return min(side + self.side - 1, height) * min(side + self.side - 1, width)


def ablate(x: Tensor, kept: Tensor) -> Tensor:
    """Ablated inputs: the channels x and 1 - x of the kept pixels, and 0 in both elsewhere.

    A hidden pixel differs from every visible one, black or white, since the two channels of these sum to 1. Train
    the base classifier on it, with positions drawn at random.

    Args:
        x: (B, C, H, W).
        kept: (B, H, W) bool, for example from :meth:`PatchAblation.kept`.

    Returns:
        (B, 2 C, H, W), the C channels of x first.
    """
    hidden = ~kept.unsqueeze(1)
    return torch.cat([x.masked_fill(hidden, 0.0), (1 - x).masked_fill(hidden, 0.0)], dim=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchCertificate(Record):
    """Sizes of the square patches that provably cannot change the prediction, wherever they are.

    Attributes:
        label: (N,) int64, the predicted class.
        side: (N,) int64, side of the largest such patch, in pixels; 0 where nothing is proved.
        counts: (N, K) int64, votes; the rows sum to ``positions - invalid``.
        invalid: (N,) int64, bands without a vote because a logit was NaN.
        positions: bands of an image, each a forward pass.
        subject: the smoothed classifier.
        alpha: 0, the statement is certain.
        method: name of the method.
    """

    side: Tensor
    counts: Tensor
    invalid: Tensor
    positions: int
    subject: str
    alpha: float = 0.0
    method: str = "patch_ablation"

    def certified(self, labels: Tensor, side: int) -> Tensor:
        """(N,) bool: the correct label, from ``labels`` (N,), is predicted, and proved for patches of ``side``.

        Raises:
            InvalidInput: labels of another shape.
        """
        checks.rows("labels", labels, len(self))
        return (self.label == labels.to(self.label.device)) & (self.side >= side)


class PatchSmoothedClassifier:
    """The classifier that returns the class a model most often gives over all bands of an image.

    Args:
        model: maps ablated images (N, 2 C, H, W), see :func:`ablate`, to logits (N, K), deterministic and row by
            row.
        ablation: the bands.
        num_classes: K.
        batch_size: rows of a forward pass; it affects memory and speed only.

    Raises:
        InvalidInput: num_classes below 2, batch_size below 1, ablation no :class:`PatchAblation`.

    References:
        Levine, Feizi (2020), (De)randomized smoothing for certifiable defense against patch attacks,
        arXiv:2002.10733, Theorem 1; here each band has one vote, which needs no threshold.
    """

    def __init__(self, model: nn.Module, ablation: PatchAblation, *, num_classes: int, batch_size: int = 1000) -> None:
        if not isinstance(ablation, PatchAblation):
            raise InvalidInput(f"ablation must be a PatchAblation such as ColumnAblation(columns=4), got {ablation!r}")
        self.model = model
        self.ablation = ablation
        self.num_classes = checks.at_least("num_classes", num_classes, 2)
        self.batch_size = checks.at_least("batch_size", batch_size, 1)

    @property
    def subject(self) -> str:
        """Name of this classifier in records."""
        return f"smoothed({self.ablation})"

    @in_deployed_precision
    def certify(self, x: Tensor) -> PatchCertificate:
        """Side of the largest square patch that cannot change the label of the smoothed classifier.

        The statement is certain: whatever replaces the pixels of one square of that side, anywhere in the image,
        the smoothed classifier returns ``label``. It speaks of the smoothed classifier, not of the model. A band
        with a NaN logit has no vote. A patch that touches it may turn it into a vote for any class, so it counts
        like every other band.

        The proof takes the model as one function of its input. It does not cover the rounding errors by which logits
        differ between batch sizes.

        Args:
            x: (N, C, H, W), floating and finite.

        Raises:
            InvalidInput: x of another shape; a band that does not fit into the image.
            InvalidModel: see :func:`certify.models.probe`.
        """
        if checks.inputs(x).ndim != 4:
            raise InvalidInput(f"x must have shape (N, C, H, W), got {tuple(x.shape)}: patches need images")
        height, width = x.shape[2:]
        positions = self.ablation.positions(height, width)

        def encode(rows: Tensor, position: Tensor) -> Tensor:
            return ablate(rows, self.ablation.kept(position, height, width))

        votes = count_all(
            self.model, x.detach(), encode, positions, num_classes=self.num_classes, batch_size=self.batch_size
        )
        counts = votes[:, :-1]
        label, margin = lead(counts)
        hits = [self.ablation.hits(side, height, width) for side in range(1, min(height, width) + 1)]
        safe = 2 * torch.tensor(hits, device=x.device) <= margin[:, None]  # (N, sides), True up to the largest
        return PatchCertificate(
            label=label,
            side=safe.sum(1),
            counts=counts,
            invalid=votes[:, -1],
            positions=positions,
            subject=self.subject,
        )


def _circular_window(start: Tensor, length: int, size: int) -> Tensor:
    """(B, length) bool: ``size`` places from each start (B,) onwards, on a circle of ``length`` places."""
    return (torch.arange(length, device=start.device) - start[:, None]) % length < size


def _require_fit(name: str, size: int, largest: int) -> None:
    """Refuse a band that is larger than the image."""
    if size > largest:
        raise InvalidInput(f"{name} must be at most {largest} for images of this size, got {size}: use a smaller band")
