"""One small call of every public function of confidence, of counterfactuals, and of all inputs at once."""

import math

from hostile.calls_of_bounds import Call
from oracles.halfspace import generator
from torch import Tensor

import bounds
import certify
from certify import attacks

LINF = {"norm": math.inf, "epsilon": 0.1}


def two_entries(x: Tensor) -> bounds.FeatureChanges:
    """Rows of which one of two entries may change."""
    return bounds.FeatureChanges(x, [bounds.Numeric(0, 0.0, 1.0), bounds.Levels(3, [0.0, 0.5, 1.0])], 1)


CONFIDENCE: dict[str, Call] = {
    "certify.certified_universal_accuracy": lambda c: (
        certify.certified_universal_accuracy(c.model, c.x, c.y, **LINF, method="crown_ibp").alone
    ),
    "certify.confidence_bound": lambda c: certify.confidence_bound(c.model, bounds.LpBall(c.x, 0.05), "crown_ibp"),
    "certify.ood_detection": lambda c: (
        certify.ood_detection(
            c.model, c.x, 1 - c.x, 0.05, method="ibp", steps=3, restarts=1, generator=generator()
        ).to_dataframe()
    ).to_dict("list"),
    "certify.certified_no_counterfactual": lambda c: certify.certified_no_counterfactual(
        c.model, c.x, two_entries(c.x), most_parts=4
    ),
    "attacks.counterfactual": lambda c: attacks.counterfactual(c.model, c.x, c.y, two_entries(c.x)),
    "certify.random_changes": lambda c: certify.random_changes(
        c.model, c.x, c.y, two_entries(c.x), draws=5, generator=generator()
    ),
    "attacks.highest_confidence": lambda c: attacks.highest_confidence(
        c.model, c.x, **LINF, steps=4, restarts=2, generator=generator()
    ),
}

CONFIDENCE_RECORDS = {
    *("CalibrationError", "ConfidenceCertificate", "ConfidenceWitness", "DetectionCurve", "RocCurve"),
    *("ChangeAccuracy", "ChangedFeatures", "ChangedWords", "SetCurves"),
    *("CounterfactualCertificate", "CounterfactualWitness", "UniversalCertificate"),
}
