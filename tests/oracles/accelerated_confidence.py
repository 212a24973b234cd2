"""Confidence, transformations, and one perturbation for all: calls for the accelerator made of the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from oracles.accelerated_training import Place, X, Y, network
from oracles.halfspace import generator
from torch import nn

import bounds
import certify
from certify import attacks, poisoning, semantic, smoothing


def ball(t: Place) -> bounds.LpBall:
    """Balls in float64, in which bounds are the same on all devices."""
    return bounds.LpBall(t(X.double()), 0.02)


def two_entries(t: Place) -> bounds.FeatureChanges:
    """Rows of which one of two entries may change."""
    return bounds.FeatureChanges(t(X), [bounds.Numeric(0, -9.0, 9.0), bounds.Levels(3, [0.0, 0.5, 1.0])], 1)


def segmentation(t: Place) -> smoothing.SmoothedSegmentation:
    """The classes of one pixel."""
    model = nn.Sequential(t(network()), nn.Unflatten(1, (4, 1)))
    return smoothing.SmoothedSegmentation(model.eval(), smoothing.Gaussian(0.25))


def drawn(noise: smoothing.Noise) -> Callable[[Place, int], certify.SmoothingCertificate]:
    """A certificate of smoothing."""
    return lambda t, k: certify.SmoothedClassifier(t(network()), noise, num_classes=4).certify(
        t(X), n=500 * k, generator=generator()
    )


CALLS: dict[str, Callable[[Place, int], Any]] = {
    "bounds.linear_forms": lambda t, k: bounds.linear_forms(t(network()), ball(t), t(torch.eye(4).expand(3, 4, 4))),
    "bounds.pairwise_margins": lambda t, k: bounds.pairwise_margins(t(network()), ball(t)),
    "certify.certified_universal_accuracy": lambda t, k: (
        certify.certified_universal_accuracy(
            t(network()), t(X), t(Y), norm=2, epsilon=0.3, method="crown_ibp", timeout=2.0 * k
        ).alone
    ),
    "certify.confidence_bound": lambda t, k: certify.confidence_bound(t(network()), ball(t), steps=2 * k),
    "bounds.FeatureChanges": lambda t, k: bounds.crown(t(network()), two_entries(t).double()),
    "bounds.Constrained": lambda t, k: bounds.crown(
        t(network()), bounds.Constrained(ball(t), t(torch.ones_like(X[:1])), t(torch.tensor([1e3])))
    ),
    "certify.certified_no_counterfactual": lambda t, k: certify.certified_no_counterfactual(
        t(network()), t(X), two_entries(t), t(Y), most_parts=4
    ),
    "certify.attacks.counterfactual": lambda t, k: attacks.counterfactual(t(network()), t(X), t(Y), two_entries(t)),
    "certify.random_changes": lambda t, k: certify.random_changes(
        t(network()), t(X), t(Y), two_entries(t), draws=10 * k, generator=generator()
    ),
    "certify.attacks.highest_confidence": lambda t, k: attacks.highest_confidence(
        t(network()), t(X), norm=2, epsilon=0.3, steps=4 * k, restarts=2, generator=generator()
    ),
    "certify.ood_detection": lambda t, k: (
        certify.ood_detection(
            t(network()), t(X), t(1 - X), 0.05, method="ibp", steps=4 * k, restarts=1, generator=generator()
        ).attacked.auc
    ),
    "certify.calibration_error": lambda t, k: certify.calibration_error(t(torch.eye(4)[:3]), t(Y)).error,
    "certify.smoothing.PhotometricNoise": drawn(smoothing.PhotometricNoise(0.1, 0.1)),
    "certify.smoothing.CyclicShiftNoise": drawn(smoothing.CyclicShiftNoise(1)),
    "certify.smoothing.certify_cyclic_shifts": lambda t, k: smoothing.certify_cyclic_shifts(
        t(network()), t(X), num_classes=4, reach=k
    ),
    "certify.semantic.certify_transformation": lambda t, k: semantic.certify_transformation(
        t(network()), t(X), t(Y), semantic.Rotation((-2.0, 2.0)), tolerance=0.5
    ),
    "certify.semantic.random_transformations": lambda t, k: semantic.random_transformations(
        t(network()), t(X), t(Y), semantic.Translation((-1.0, 1.0)), draws=10 * k, generator=generator()
    ),
    "bounds.with_weight_box": lambda t, k: bounds.crown(
        bounds.with_weight_box(t(network()), t(X), bounds.WeightBox.around(t(network()), 0.001)), ball(t)
    ),
    "certify.certified_quantised": lambda t, k: certify.certified_quantised(
        t(network()), bounds.WeightBox.around(t(network()), 0.001), t(X), t(Y), norm=2, epsilon=0.1
    ),
    "certify.poisoning.certify_poisoning": lambda t, k: poisoning.certify_poisoning(t(torch.arange(24).view(4, 6)), 24),
    "certify.poisoning.certify_runoff": lambda t, k: poisoning.certify_runoff(
        t(torch.arange(120).view(4, 6, 5).double().sin())
    ),
    "certify.poisoning.hash_partition": lambda t, k: poisoning.hash_partition(t(X), 5),
    "certify.smoothing.SmoothedSegmentation": lambda t, k: segmentation(t).certify(
        t(X), 0.1, n=300 * k, generator=generator()
    ),
    "certify.smoothing.segmentation_pgd": lambda t, k: smoothing.segmentation_pgd(
        segmentation(t), t(X), t(Y)[:, None], 0.1, steps=3 * k, draws=4, generator=generator()
    ),
}

WAITS = {
    "certify.certified_no_counterfactual": 300,  # an attack, bounds of several methods, and parts cut in rounds
    "certify.certified_quantised": 150,  # a ladder of methods
    "certify.ood_detection": 400,  # an attack, two sets of bounds, and parts of single inputs
    "certify.certified_universal_accuracy": 120,  # bounds of two kinds, and programmes on the host
}

DRAWING = {
    "certify.smoothing.segmentation_pgd",
    "certify.attacks.highest_confidence",
    "certify.ood_detection",
    "certify.certified_universal_accuracy",
}
