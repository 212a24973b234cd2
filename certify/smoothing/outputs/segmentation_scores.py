"""Pixel accuracy and mean intersection over union that certificates of segmentation prove, and allow at most."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from certify.smoothing.outputs.segmentation import SegmentationCertificate


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationScores:
    """Scores of segmentations on pixels with known classes, counted over all images together.

    Attributes:
        pixel_accuracy: share of pixels certified to be right: every input within the radius has at least this accuracy.
        pixel_accuracy_at_most: share of pixels not certified to be wrong. The least accuracy within the radius is at
            most this. It attacks the model where the certificate is of adversarial inputs and radius 0.
        mean_iou: the certified mean intersection over union that the literature states. A pixel without a certificate
            is missing from its class, but is counted for no other class.
        mean_iou_at_least: proved for every input within the radius. A pixel without a certificate is also counted
            against every class that it might get.
        mean_iou_at_most: the least mean within the radius is at most this, as for the accuracy.
        iou: (K,) float64, behind ``mean_iou``; NaN for a class without a pixel.
        iou_at_least: (K,) float64, behind ``mean_iou_at_least``.
        iou_at_most: (K,) float64, behind ``mean_iou_at_most``.
        abstained: share of pixels without a certificate.
        pixels: number of pixels that were counted.
        images: number of images. Each certificate of an image is wrong with probability at most ``alpha``, so that
            all hold at once except with probability ``images * alpha``.
        alpha: of each image.
        radius: of the certificates.
        subject: the smoothed model.
    """

    pixel_accuracy: float
    pixel_accuracy_at_most: float
    mean_iou: float
    mean_iou_at_least: float
    mean_iou_at_most: float
    iou: Tensor
    iou_at_least: Tensor
    iou_at_most: Tensor
    abstained: float
    pixels: int
    images: int
    alpha: float
    radius: float
    subject: str


def segmentation_scores(
    certificate: SegmentationCertificate, labels: Tensor, *, ignore_index: int | None = None
) -> SegmentationScores:
    """Pixel accuracy and mean intersection over union, certified and at most.

    The mean is over the classes that some pixel has. For attacked scores, certify adversarial inputs at radius 0 and
    take ``pixel_accuracy_at_most`` and ``mean_iou_at_most``.

    Args:
        certificate: of N images.
        labels: (N, *P) integer, the correct classes.
        ignore_index: a label whose pixels count nowhere, such as 255.

    Raises:
        InvalidInput: labels of another shape, or of no class.
    """
    counted, truth = _counted(certificate, labels, ignore_index)
    label, sure = certificate.label[counted], ~certificate.abstained[counted]
    right = sure & (label == truth)
    wrong = sure & (label != truth)
    pixels = len(truth)
    k = certificate.num_classes

    def per_class(chosen: Tensor, classes: Tensor) -> Tensor:
        return torch.bincount(classes[chosen], minlength=k).double()

    every = torch.ones_like(right)
    present, hits, astray = per_class(every, truth), per_class(right, truth), per_class(wrong, label)
    unsure = per_class(~sure, truth)
    union = present + astray  # pixels of the class, and others that certainly get it
    might = union + unsure.sum() - unsure  # and others that might
    absent = present == 0
    iou, least, most = (
        (share / whole).masked_fill(absent, torch.nan)
        for share, whole in ((hits, union), (hits, might), (hits + unsure, union))
    )
    return SegmentationScores(
        pixel_accuracy=_share(right),
        pixel_accuracy_at_most=_share(~wrong),
        mean_iou=float(iou.nanmean()),
        mean_iou_at_least=float(least.nanmean()),
        mean_iou_at_most=float(most.nanmean()),
        iou=iou,
        iou_at_least=least,
        iou_at_most=most,
        abstained=_share(~sure),
        pixels=pixels,
        images=len(certificate),
        alpha=certificate.alpha,
        radius=certificate.radius,
        subject=certificate.subject,
    )


def _counted(certificate: SegmentationCertificate, labels: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """(N, *P) bool, the pixels that count, and their classes (M,)."""
    labels = checks.same_shape("labels", labels, certificate.label).to(certificate.label.device)
    counted = torch.ones_like(certificate.abstained) if ignore_index is None else labels != ignore_index
    truth = labels[counted].long()
    if bool(((truth < 0) | (truth >= certificate.num_classes)).any()):
        raise InvalidInput(
            f"labels must be class indices from 0 to {certificate.num_classes - 1}, got values from {int(truth.min())} "
            f"to {int(truth.max())}: name the label of pixels that do not count with ignore_index="
        )
    return counted, truth


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
