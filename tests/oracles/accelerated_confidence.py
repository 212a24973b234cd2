"""Confidence, transformations, and one perturbation for all: calls for the accelerator made of the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from oracles.accelerated_training import Place, X, Y, network
from oracles.halfspace import generator

import bounds
import certify
from certify import attacks, semantic, smoothing


def ball(t: Place) -> bounds.LpBall:
    """Balls in float64, in which bounds are the same on all devices."""
    return bounds.LpBall(t(X.double()), 0.02)


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
}

WAITS = {
    "certify.ood_detection": 150,  # an attack, and two sets of bounds
    "certify.certified_universal_accuracy": 120,  # bounds of two kinds, and programmes on the host
}

DRAWING = {"certify.attacks.highest_confidence", "certify.ood_detection", "certify.certified_universal_accuracy"}
