"""One small call of every public function of segmentation, poisoning, and boxes of weights."""

import torch
from hostile.calls_of_bounds import Call, Case, network
from oracles.halfspace import generator
from torch import Tensor, nn
from torch.nn.functional import one_hot

import bounds
import certify
from certify import poisoning, smoothing

WEIGHT = network().state_dict()["1.weight"] + 0.001
VOTES = torch.arange(24).view(4, 6) % 5 % 3
PIXELS = torch.tensor([[0, 1], [2, 2]])


class InPixels(nn.Module):
    """Two pixels of the same classes, the second in another order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return torch.stack([logits, logits.flip(1)], 2)


def segmentation(c: Case) -> smoothing.SmoothedSegmentation:
    return smoothing.SmoothedSegmentation(InPixels(c.model), smoothing.Gaussian(0.25))


def segmented(c: Case) -> smoothing.SegmentationCertificate:
    return segmentation(c).certify(c.x, 0.05, n=100, n0=10, generator=generator())


def scores(c: Case) -> object:
    found = smoothing.segmentation_scores(segmented(c), PIXELS.to(c.x.device))
    return found.pixel_accuracy, found.mean_iou


def boxed(c: Case) -> object:
    box = bounds.WeightBox.around(c.model, 0.001)
    return bounds.crown(bounds.with_weight_box(c.source, c.x, box), c.ball)


def quantised(c: Case) -> certify.QuantisedCertificate:
    return certify.certified_quantised(
        c.model, {"1.weight": WEIGHT}, c.x, c.y, norm=2, epsilon=0.05, method="crown_ibp"
    )


OF_BOUNDS: dict[str, Call] = {"bounds.with_weight_box": boxed}

DEPLOYED: dict[str, Call] = {
    "smoothing.SmoothedSegmentation.certify": segmented,
    "smoothing.segmentation_pgd": lambda c: smoothing.segmentation_pgd(
        segmentation(c), c.x, PIXELS.to(c.x.device), 0.1, steps=2, draws=3, generator=generator()
    ),
    "smoothing.segmentation_scores": scores,
}

COUNTING: dict[str, Call] = {"certify.certified_quantised": quantised}

PURE: dict[str, Call] = {
    "poisoning.certify_poisoning": lambda c: poisoning.certify_poisoning(
        VOTES, 3, spread=poisoning.spread_partitions(6, 2)
    ),
    "poisoning.certify_runoff": lambda c: poisoning.certify_runoff(
        one_hot(VOTES, 3).double(), spread=poisoning.spread_partitions(6, 2)
    ),
    "poisoning.hash_partition": lambda c: poisoning.hash_partition(c.x, 5),
    "poisoning.spread_partitions": lambda c: poisoning.spread_partitions(6, 2),
    "poisoning.training_rows": lambda c: poisoning.training_rows(VOTES[0], poisoning.spread_partitions(6, 2), 1),
}

COUNTING_RECORDS = {
    *("PoisoningCertificate", "QuantisedCertificate", "QuantisedTensor", "SegmentationCertificate"),
    *("SegmentationScores", "WeightBox"),
}
