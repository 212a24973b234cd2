"""Certify and verify the robustness of trained PyTorch classifiers, beside the attacks that test them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bounds.layers import Normalize
    from certify import attacks, corruptions, methods, reference, smoothing
    from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve
    from certify.evaluation import Contradiction, Evaluation, Outside, evaluate
    from certify.lipschitz import lipschitz_certificate
    from certify.results import (
        AttackedAccuracy,
        Certificate,
        Estimate,
        RadiusDecision,
        SmoothedPrediction,
        SmoothingCertificate,
        Witness,
    )
    from certify.runs import RunDirectory
    from certify.smoothing.classifier import SmoothedClassifier
    from certify.verdicts import Verdict, verify
    from certify.verification import certified_radius

__version__ = "0.1.0"

__all__ = [
    "AttackedAccuracy",
    "AttackedAccuracyCurve",
    "Certificate",
    "CertifiedAccuracyCurve",
    "Contradiction",
    "Estimate",
    "Evaluation",
    "Normalize",
    "Outside",
    "RadiusDecision",
    "RunDirectory",
    "SmoothedClassifier",
    "SmoothedPrediction",
    "SmoothingCertificate",
    "Verdict",
    "Witness",
    "attacks",
    "certified_radius",
    "corruptions",
    "evaluate",
    "lipschitz_certificate",
    "methods",
    "reference",
    "smoothing",
    "verify",
]

_HOMES = {
    "AttackedAccuracy": "certify.results",
    "AttackedAccuracyCurve": "certify.curves",
    "Certificate": "certify.results",
    "CertifiedAccuracyCurve": "certify.curves",
    "Contradiction": "certify.evaluation",
    "Estimate": "certify.results",
    "Evaluation": "certify.evaluation",
    "Normalize": "bounds.layers",
    "Outside": "certify.evaluation",
    "RadiusDecision": "certify.results",
    "RunDirectory": "certify.runs",
    "SmoothedClassifier": "certify.smoothing.classifier",
    "SmoothedPrediction": "certify.results",
    "SmoothingCertificate": "certify.results",
    "Verdict": "certify.verdicts",
    "Witness": "certify.results",
    "certified_radius": "certify.verification",
    "evaluate": "certify.evaluation",
    "lipschitz_certificate": "certify.lipschitz",
    "verify": "certify.verdicts",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``certify --help`` need not import torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"certify.{name}")
    raise AttributeError(f"module 'certify' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names."""
    return sorted([*__all__, "__version__"])
