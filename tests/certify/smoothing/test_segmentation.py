"""Certified segmentation against per-pixel linear models, whose smoothed labels and radii are known in closed form."""

import math

import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.models import Random
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel
from certify.smoothing import (
    Ablation,
    Gaussian,
    SegmentationCertificate,
    SmoothedSegmentation,
    Uniform,
    segmentation_pgd,
    segmentation_scores,
)

SIGMA = 0.25


class PerPixel(nn.Module):
    """Pixel p has class 1 where ``w_p x + b_p > 0``: its smoothed label keeps up to a distance in closed form."""

    def __init__(self, entries: int, pixels: tuple[int, ...], classes: int = 2) -> None:
        super().__init__()
        self.pixels, self.classes = pixels, classes
        self.linear = nn.Linear(entries, math.prod(pixels), dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.normal_(generator=generator(1))
            self.linear.bias.normal_(generator=generator(2))

    def forward(self, x: Tensor) -> Tensor:
        score = self.linear(x.flatten(1)).view(-1, 1, *self.pixels)
        return torch.cat([-score, score, *[score.abs().neg() - 1] * (self.classes - 2)], 1)

    def distance(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.linear(x.flatten(1)).abs().view(-1, *self.pixels) / self.linear.weight.norm(dim=1).view(
                self.pixels
            )


def images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 1, 3, 4, generator=generator(3), dtype=torch.float64)


@pytest.mark.parametrize(
    "pixels", [(3, 5), *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(2, 3, 2), (7,)])]
)
def test_linear_pixels_are_certified_up_to_their_distance(pixels: tuple[int, ...]):
    model, x, radius = PerPixel(12, pixels, classes=4), images(), 0.2
    found = SmoothedSegmentation(model, Gaussian(SIGMA)).certify(x, radius, n=1_500, alpha=1e-6, generator=generator())
    distance = model.distance(x)
    assert found.label.shape == found.abstained.shape == found.counts.shape == (4, *pixels)
    assert not (~found.abstained & (distance < radius)).any()
    assert not (found.abstained & (distance > radius + 0.5 * SIGMA)).any()
    assert (found.label == model(x).argmax(1))[~found.abstained].all()
    expected = 1_500 * torch.special.ndtr(distance / SIGMA)
    assert ((found.counts - expected).abs() < 6 * (expected * 0.25).sqrt().clamp(min=6))[~found.abstained].all()
    assert torch.allclose(found.threshold, torch.special.ndtr(torch.tensor(radius / SIGMA).double()), rtol=1e-9)
    assert found.subject == "segmentation by smoothed(gaussian(sigma=0.25))"
    assert found.num_classes == 4


def test_holm_certifies_more_pixels_than_bonferroni_on_the_same_draws():
    smoothed, x = SmoothedSegmentation(PerPixel(12, (20, 20)), Gaussian(SIGMA)), images()
    holm, bonferroni = (
        smoothed.certify(x, 0.2, n=300, alpha=0.01, correction=name, generator=generator())
        for name in ("holm", "bonferroni")
    )
    assert torch.equal(holm.counts, bonferroni.counts)
    assert (bonferroni.abstained | ~holm.abstained).all()
    assert int(holm.abstained.sum()) < int(bonferroni.abstained.sum())


@pytest.mark.slow
def test_the_familywise_error_of_an_image_is_at_most_alpha_and_single_tests_exceed_it():
    """Every pixel stands exactly at the radius, so that any certificate is false; pixels share their draws."""
    rows, alpha, n, pixels = 3_000, 0.1, 60, 8
    model = PerPixel(8, (pixels,))
    with torch.no_grad():
        model.linear.weight.copy_(torch.eye(8))
        model.linear.bias.fill_(0.1)
    x = torch.zeros(rows, 8, dtype=torch.float64)
    smoothed = SmoothedSegmentation(model, Gaussian(SIGMA), grid=None, batch_size=4096)
    found = smoothed.certify(x, 0.1, n=n, n0=20, alpha=alpha, generator=generator(5))
    wrong = (~found.abstained).any(1).sum()
    assert 0 < int(wrong) <= scipy.stats.binom.isf(1e-6, rows, alpha)
    alone = scipy.stats.binom.sf(found.counts.numpy() - 1, n, float(found.threshold[0])) <= alpha
    assert int(alone.any(1).sum()) > scipy.stats.binom.isf(1e-6, rows, alpha)  # the mutant


def test_batches_parts_and_seeds_change_nothing():
    x, model = images(), PerPixel(12, (3, 5))
    whole = SmoothedSegmentation(model, Gaussian(SIGMA)).certify(x, 0.1, n=150, n0=10, generator=generator(7))
    for size, group in ((7, 1), (1000, 1)):
        again = SmoothedSegmentation(model, Gaussian(SIGMA), batch_size=size, noise_group=group)
        found = again.certify(x, 0.1, n=150, n0=10, generator=generator(7))
        assert torch.equal(found.counts, whole.counts)
        assert torch.equal(found.label, whole.label)
    last = SmoothedSegmentation(model, Gaussian(SIGMA)).certify(
        x[3:], 0.1, n=150, n0=10, generator=generator(7), first_index=3
    )
    assert torch.equal(last.counts, whole.counts[3:])
    assert len(whole.to_dataframe()) == 4
    empty = SmoothedSegmentation(model, Gaussian(SIGMA)).certify(x[:0], 0.1, n=5, n0=5)
    assert empty.label.shape == (0, 3, 5)


class Blank(nn.Module):
    """Class 1 everywhere; NaN for the first pixel under noise."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([0 * x, 1 + 0 * x], 1)
        logits[:, 0, 0] += torch.where(x[:, 0] != 0, torch.nan, 0.0)
        return logits


def test_a_pixel_with_nan_votes_for_nothing():
    found = SmoothedSegmentation(Blank(), Gaussian(SIGMA), grid=None).certify(
        torch.zeros(2, 3), 0.1, n=100, generator=generator()
    )
    assert found.counts.tolist() == [[0, 100, 100]] * 2
    assert found.abstained.tolist() == [[True, False, False]] * 2


def test_the_error_of_the_noise_is_counted():
    """Drawn on a grid, noise is a little off: with a large error nothing is certified."""
    smoothed = SmoothedSegmentation(PerPixel(12, (3, 5)), Gaussian(SIGMA))
    sampling = smoothed.outputs.sampling((images() * 255).round() / 255, 10, 0)
    assert sampling.error > 0
    from certify.smoothing.outputs.segmentation import _p_values

    counts, threshold = torch.full((1, 2), 95), torch.tensor([0.8], dtype=torch.float64)
    plain, raised = (_p_values(counts, threshold, 100, error) for error in (0.0, 0.1))
    assert (raised > 10 * plain).all()
    assert torch.allclose(raised, torch.tensor(scipy.stats.binom.sf(94, 100, 0.9)), rtol=1e-6)


def test_other_noises_and_devices():
    x = images().clamp(0, 1)
    found = SmoothedSegmentation(PerPixel(12, (3, 5)), Uniform(0.5)).certify(x, 0.1, n=500, generator=generator())
    assert found.norm == 1
    assert int((~found.abstained).sum()) > 0
    assert float(found.threshold[0]) == pytest.approx(0.6)
    smoothed = SmoothedSegmentation(PerPixel(12, (3, 5)), Gaussian(SIGMA))
    labels, source = torch.zeros(4, 3, 5, dtype=torch.int64), generator()
    with elsewhere():
        segmentation_scores(smoothed.certify(x, 0.1, n=20, n0=5, generator=source), labels)
        segmentation_pgd(smoothed, x, labels, 0.1, steps=2, draws=2, generator=source)


# ----------------------------------------------------------------------------------------------------------- scores


def certificate(label: list[int], abstained: list[bool]) -> SegmentationCertificate:
    smoothed = SmoothedSegmentation(PerPixel(12, (len(label),), classes=3), Gaussian(SIGMA))
    found = smoothed.certify(images(1), 0.1, n=5, n0=5, generator=generator())
    fields = vars(found) | {"label": torch.tensor([label]), "abstained": torch.tensor([abstained])}
    return SegmentationCertificate(**fields)


def worst_and_best(label: list[int], abstained: list[bool], labels: list[int]) -> tuple[list[float], list[float]]:
    """Least and largest mean IoU and accuracy over all labels that abstaining pixels may have, by enumeration."""
    from itertools import product

    truth, found = torch.tensor(labels), []
    for filled in product(*(range(3) if free else [one] for one, free in zip(label, abstained, strict=True))):
        got = torch.tensor(filled)
        ious = [
            int(((got == c) & (truth == c)).sum()) / int(((got == c) | (truth == c)).sum())
            for c in truth.unique().tolist()
        ]
        found.append((sum(ious) / len(ious), float((got == truth).double().mean())))
    return [min(column) for column in zip(*found, strict=True)], [max(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("seed", range(6))
def test_scores_hold_whatever_abstaining_pixels_get(seed: int):
    source = generator(seed)
    label = torch.randint(3, (6,), generator=source).tolist()
    labels = torch.where(torch.rand(6, generator=source) < 0.6, torch.tensor(label), 1).tolist()
    abstained = (torch.rand(6, generator=source) < 0.5).tolist()
    scores = segmentation_scores(certificate(label, abstained), torch.tensor([labels]))
    (iou, accuracy), (iou_best, accuracy_best) = worst_and_best(label, abstained, labels)
    assert scores.mean_iou_at_least <= iou + 1e-12
    assert scores.mean_iou_at_most >= iou_best - 1e-12
    assert scores.mean_iou_at_least <= scores.mean_iou <= scores.mean_iou_at_most
    assert scores.pixel_accuracy == pytest.approx(accuracy)
    assert scores.pixel_accuracy_at_most == pytest.approx(accuracy_best)
    if not any(abstained):
        assert scores.mean_iou_at_least == pytest.approx(iou)


def test_ignored_pixels_count_nowhere():
    made = certificate([0, 1, 1, 2], [False, False, True, False])
    scores = segmentation_scores(made, torch.tensor([[0, 1, 1, 255]]), ignore_index=255)
    assert (scores.pixels, scores.pixel_accuracy, scores.mean_iou) == (3, pytest.approx(2 / 3), pytest.approx(0.75))
    assert scores.iou.isnan().tolist() == [False, False, True]
    with pytest.raises(InvalidInput, match="name the label of pixels that do not count"):
        segmentation_scores(made, torch.tensor([[0, 1, 1, 255]]))


@pytest.mark.slow
def test_an_attack_lies_between_the_certified_accuracy_and_the_closed_form():
    model, x, radius = PerPixel(12, (3, 5)), images(), 0.2
    smoothed, labels = SmoothedSegmentation(model, Gaussian(SIGMA)), model(images()).argmax(1)
    proved = segmentation_scores(smoothed.certify(x, radius, n=2_000, generator=generator()), labels)
    adversarial = segmentation_pgd(smoothed, x, labels, radius, generator=generator())
    assert float((adversarial - x).flatten(1).norm(dim=1).max()) <= radius
    attacked = segmentation_scores(smoothed.certify(adversarial, 0.0, n=2_000, generator=generator()), labels)
    assert proved.pixel_accuracy <= attacked.pixel_accuracy_at_most < 1
    assert proved.mean_iou_at_least <= attacked.mean_iou_at_most
    boxed = segmentation_pgd(smoothed, x.clamp(0, 1), labels, radius, low=0.0, high=1.0, steps=2, draws=2)
    assert ((boxed >= 0) & (boxed <= 1)).all()


def test_bad_arguments():
    smoothed, x = SmoothedSegmentation(PerPixel(12, (3, 5)), Gaussian(SIGMA)), images()
    with pytest.raises(InvalidModel, match="the model must return logits"):
        SmoothedSegmentation(nn.Sequential(nn.Flatten(), nn.Linear(12, 3).double()), Gaussian(SIGMA)).certify(x, 0.1)
    with pytest.raises(InvalidModel, match="random"):
        SmoothedSegmentation(Random(3), Gaussian(SIGMA)).certify(x, 0.1)
    with pytest.raises(InvalidInput, match="correction must be one of"):
        smoothed.certify(x, 0.1, correction="none")
    with pytest.raises(InvalidInput, match="radius must be"):
        smoothed.certify(x, -1.0)
    found = smoothed.certify(x, 0.1, n=5, n0=5)
    with pytest.raises(InvalidInput, match="labels must have shape"):
        found.certified(torch.zeros(4, 3))
    with pytest.raises(InvalidInput, match="smoothed must have added noise"):
        segmentation_pgd(SmoothedSegmentation(PerPixel(12, (3, 5)), Ablation(2, 12)), x, torch.zeros(4, 3, 5).long(), 1)
    with pytest.raises(InvalidInput, match="labels must be class indices from 0 to 1, got 255"):
        segmentation_pgd(smoothed, x, torch.full((4, 3, 5), 255), 0.1, steps=1, draws=2)
