"""Cyclic shifts by whole pixels, derandomised: all shifts are counted, so that statements are certain."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from certify.results import Certificate
from certify.smoothing.derandomized.counting import count_all, lead


@dataclass(frozen=True, eq=False, kw_only=True)
class ShiftCertificate(Certificate):
    """Cyclic shifts that do not change the class with the most votes over all shifts within a reach.

    The radius is in whole pixels along both axes; infinite where all shifts of the image are counted.

    Attributes:
        counts: (N, K) int64, votes.
        invalid: (N,) int64, forward passes without a vote because a logit was NaN.
        shifts: forward passes per input.
    """

    counts: Tensor
    invalid: Tensor
    shifts: int


def require_images(x: Tensor) -> None:
    """Raise InvalidInput unless inputs are images (N, C, H, W) or (N, H, W)."""
    if checks.inputs(x).ndim not in (3, 4):
        raise InvalidInput(f"x must be images (N, C, H, W) or (N, H, W), got {tuple(x.shape)}: reshape it")


def shifted(x: Tensor, shifts: Tensor) -> Tensor:
    """Images (N, .., H, W) under each of some cyclic shifts (S, 2), right and downward, (N, S, .., H, W)."""
    tall, wide = x.shape[-2:]
    rows = (torch.arange(tall, device=x.device) - shifts[:, 1, None]) % tall
    columns = (torch.arange(wide, device=x.device) - shifts[:, 0, None]) % wide
    return x[..., rows[:, :, None], columns[:, None, :]].movedim(-3, 1)


def _each_shifted(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Images (N, .., H, W), each under a cyclic shift of its own, (N,) right and downward."""
    tall, wide = x.shape[-2:]
    lines = (torch.arange(tall, device=x.device) - down[:, None]) % tall
    columns = (torch.arange(wide, device=x.device) - right[:, None]) % wide
    flat = (lines[:, :, None] * wide + columns[:, None, :]).view(len(x), 1, -1)
    return x.reshape(len(x), -1, tall * wide).gather(2, flat.expand(-1, x[0, ..., 0, 0].numel(), -1)).view(x.shape)


@in_deployed_precision
def certify_cyclic_shifts(
    model: nn.Module, x: Tensor, *, num_classes: int, reach: int | None = None, batch_size: int = 1000
) -> ShiftCertificate:
    r"""Cyclic shifts within which the class that a model most often gives over all shifts within a reach stays.

    The statement is certain, and about the smoothed classifier that counts these votes. All shifts of an image are a
    group, over which a vote never changes. Of w = 2 reach + 1 shifts along each axis, a shift by r in both axes
    exchanges :math:`w^2 - (w - r)^2`: the class stays as long as that is at most half its lead.

    Args:
        model: maps images to logits (N, K), deterministic and row by row.
        x: (N, C, H, W) or (N, H, W).
        num_classes: K.
        reach: pixels along each axis, so that ``(2 reach + 1) ** 2`` shifts are counted; None for all shifts.
        batch_size: images of a forward pass.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    require_images(x)
    checks.at_least("num_classes", num_classes, 2)
    checks.at_least("batch_size", batch_size, 1)
    checks.at_least("reach", 1 if reach is None else reach, 1)
    axes, first = ((x.shape[-1], x.shape[-2]), 0) if reach is None else ((2 * reach + 1,) * 2, -reach)

    def encode(rows: Tensor, case: Tensor) -> Tensor:
        return _each_shifted(rows, case % axes[0] + first, case // axes[0] + first)

    votes = count_all(model, x.detach(), encode, math.prod(axes), num_classes=num_classes, batch_size=batch_size)
    counts = votes[:, :-1]
    label, margin = lead(counts)
    if reach is None:
        radius = torch.full_like(label, torch.inf, dtype=torch.float64)
    else:
        width = axes[0]
        exchanged = width**2 - (width - torch.arange(1, width + 1, device=x.device)).square()
        radius = (exchanged <= margin[:, None] // 2).sum(1).double()
    none = counts.sum(1) == 0  # nothing but NaN
    return ShiftCertificate(
        label=label,
        radius=radius.masked_fill(none, 0.0),
        abstained=none,
        norm=math.nan,
        alpha=0.0,
        subject=f"smoothed(all_cyclic_shifts(reach={reach}))",
        method="counting",
        counts=counts,
        invalid=votes[:, -1],
        shifts=math.prod(axes),
    )
