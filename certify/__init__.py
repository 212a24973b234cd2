"""Certify and verify the robustness of trained PyTorch classifiers, next to the attacks that test them."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bounds.layers import Logits, Normalize, TwoClasses
    from certify import (
        attacks,
        corruptions,
        distribution,
        methods,
        poisoning,
        reference,
        semantic,
        smoothing,
        surveys,
        tracking,
        training,
    )
    from certify.auditing.audit import audit
    from certify.auditing.tally import AuditReport, Finding
    from certify.changes.random_changes import ChangeAccuracy, random_changes
    from certify.changes.sets import ChangedFeatures, ChangedWords
    from certify.comparison.comparison import Comparison, compare
    from certify.confidence.calibration import CalibrationError, calibration_error
    from certify.confidence.certificates import ConfidenceCertificate, confidence_bound
    from certify.confidence.detection import DetectionCurve, ood_detection
    from certify.confidence.roc import RocCurve
    from certify.configuration.data.inputs import load_data
    from certify.configuration.data.labelled import LabelledInputs
    from certify.configuration.keys import DataSource, ModelSource
    from certify.configuration.sources import load_model
    from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve
    from certify.evaluation.budget.costs import Cost, CostEstimate
    from certify.evaluation.budget.probe import estimate_cost
    from certify.evaluation.callbacks import FinishedUnit
    from certify.evaluation.evaluating import evaluate
    from certify.evaluation.evaluation import Evaluation
    from certify.evaluation.merging import merge
    from certify.evaluation.storage.run_directory import RunDirectory
    from certify.evaluation.summaries.comparisons import Contradiction, Outside
    from certify.evaluation.summaries.groups import GroupAccuracies
    from certify.generalisation.margin_generalisation import MarginGeneralisation, margin_generalisation
    from certify.generalisation.regression import GapRegression, gap_regression
    from certify.generalisation.track import track
    from certify.generalisation.tracked import OverfittingTest, TrackedTraining
    from certify.loaders import collect
    from certify.proofs.checking import ProofReport, check_proof
    from certify.results import (
        AttackedAccuracy,
        Certificate,
        CompleteCertificate,
        Estimate,
        NoiseTolerance,
        RadiusDecision,
        SmoothedPrediction,
        SmoothingCertificate,
        Witness,
    )
    from certify.sets.curves import SetCurves
    from certify.smoothing.classifiers.classifier import SmoothedClassifier
    from certify.stored_inputs import StoredInputs
    from certify.surveys.transfer import TransferMatrix, transfer_matrix
    from certify.verification.changed.certificate import CounterfactualCertificate
    from certify.verification.changed.certification import certified_no_counterfactual
    from certify.verification.decide import decide
    from certify.verification.decision import Decision
    from certify.verification.lipschitz import lipschitz_certificate
    from certify.verification.quantisation.quantised import QuantisedCertificate, certified_quantised
    from certify.verification.quantisation.quantised_weights import QuantisedTensor
    from certify.verification.radius import certified_radius
    from certify.verification.shared.universal import UniversalCertificate, certified_universal_accuracy
    from certify.verification.verdicts import Verdict, verify

__version__ = "0.2.0"

__all__ = [
    "AttackedAccuracy",
    "AttackedAccuracyCurve",
    "AuditReport",
    "CalibrationError",
    "Certificate",
    "CertifiedAccuracyCurve",
    "ChangeAccuracy",
    "ChangedFeatures",
    "ChangedWords",
    "Comparison",
    "CompleteCertificate",
    "ConfidenceCertificate",
    "Contradiction",
    "Cost",
    "CostEstimate",
    "CounterfactualCertificate",
    "DataSource",
    "Decision",
    "DetectionCurve",
    "Estimate",
    "Evaluation",
    "Finding",
    "FinishedUnit",
    "GapRegression",
    "GroupAccuracies",
    "LabelledInputs",
    "Logits",
    "MarginGeneralisation",
    "ModelSource",
    "NoiseTolerance",
    "Normalize",
    "Outside",
    "OverfittingTest",
    "ProofReport",
    "QuantisedCertificate",
    "QuantisedTensor",
    "RadiusDecision",
    "RocCurve",
    "RunDirectory",
    "SetCurves",
    "SmoothedClassifier",
    "SmoothedPrediction",
    "SmoothingCertificate",
    "StoredInputs",
    "TrackedTraining",
    "TransferMatrix",
    "TwoClasses",
    "UniversalCertificate",
    "Verdict",
    "Witness",
    "attacks",
    "audit",
    "calibration_error",
    "certified_no_counterfactual",
    "certified_quantised",
    "certified_radius",
    "certified_universal_accuracy",
    "check_proof",
    "collect",
    "compare",
    "confidence_bound",
    "corruptions",
    "decide",
    "distribution",
    "estimate_cost",
    "evaluate",
    "gap_regression",
    "lipschitz_certificate",
    "load_data",
    "load_model",
    "margin_generalisation",
    "merge",
    "methods",
    "ood_detection",
    "poisoning",
    "random_changes",
    "reference",
    "semantic",
    "smoothing",
    "surveys",
    "track",
    "tracking",
    "training",
    "transfer_matrix",
    "verify",
]

_HOMES = {
    "AttackedAccuracy": "certify.results.witnesses",
    "AttackedAccuracyCurve": "certify.curves",
    "AuditReport": "certify.auditing.tally",
    "CalibrationError": "certify.confidence.calibration",
    "Certificate": "certify.results.certificates",
    "CertifiedAccuracyCurve": "certify.curves",
    "ChangeAccuracy": "certify.changes.random_changes",
    "ChangedFeatures": "certify.changes.sets",
    "ChangedWords": "certify.changes.sets",
    "Comparison": "certify.comparison.comparison",
    "CompleteCertificate": "certify.results.certificates",
    "ConfidenceCertificate": "certify.confidence.certificates",
    "Contradiction": "certify.evaluation.summaries.comparisons",
    "Cost": "certify.evaluation.budget.costs",
    "CostEstimate": "certify.evaluation.budget.costs",
    "CounterfactualCertificate": "certify.verification.changed.certificate",
    "DataSource": "certify.configuration.keys",
    "Decision": "certify.verification.decision",
    "DetectionCurve": "certify.confidence.detection",
    "Estimate": "certify.results.estimates",
    "Evaluation": "certify.evaluation.evaluation",
    "Finding": "certify.auditing.tally",
    "FinishedUnit": "certify.evaluation.callbacks",
    "GapRegression": "certify.generalisation.regression",
    "GroupAccuracies": "certify.evaluation.summaries.groups",
    "LabelledInputs": "certify.configuration.data.labelled",
    "Logits": "bounds.layers",
    "MarginGeneralisation": "certify.generalisation.margin_generalisation",
    "ModelSource": "certify.configuration.keys",
    "NoiseTolerance": "certify.results.estimates",
    "Normalize": "bounds.layers",
    "Outside": "certify.evaluation.summaries.comparisons",
    "OverfittingTest": "certify.generalisation.tracked",
    "ProofReport": "certify.proofs.checking",
    "QuantisedCertificate": "certify.verification.quantisation.quantised",
    "QuantisedTensor": "certify.verification.quantisation.quantised_weights",
    "RadiusDecision": "certify.results.certificates",
    "RocCurve": "certify.confidence.roc",
    "RunDirectory": "certify.evaluation.storage.run_directory",
    "SetCurves": "certify.sets.curves",
    "SmoothedClassifier": "certify.smoothing.classifiers.classifier",
    "SmoothedPrediction": "certify.results.certificates",
    "SmoothingCertificate": "certify.results.certificates",
    "StoredInputs": "certify.stored_inputs",
    "TrackedTraining": "certify.generalisation.tracked",
    "TransferMatrix": "certify.surveys.transfer",
    "TwoClasses": "bounds.layers",
    "UniversalCertificate": "certify.verification.shared.universal",
    "Verdict": "certify.verification.verdicts",
    "Witness": "certify.results.witnesses",
    "audit": "certify.auditing.audit",
    "calibration_error": "certify.confidence.calibration",
    "certified_no_counterfactual": "certify.verification.changed.certification",
    "certified_quantised": "certify.verification.quantisation.quantised",
    "certified_radius": "certify.verification.radius",
    "certified_universal_accuracy": "certify.verification.shared.universal",
    "check_proof": "certify.proofs.checking",
    "collect": "certify.loaders",
    "compare": "certify.comparison.comparison",
    "confidence_bound": "certify.confidence.certificates",
    "decide": "certify.verification.decide",
    "estimate_cost": "certify.evaluation.budget.probe",
    "evaluate": "certify.evaluation.evaluating",
    "gap_regression": "certify.generalisation.regression",
    "lipschitz_certificate": "certify.verification.lipschitz",
    "load_data": "certify.configuration.data.inputs",
    "load_model": "certify.configuration.sources",
    "margin_generalisation": "certify.generalisation.margin_generalisation",
    "merge": "certify.evaluation.merging",
    "ood_detection": "certify.confidence.detection",
    "random_changes": "certify.changes.random_changes",
    "track": "certify.generalisation.track",
    "transfer_matrix": "certify.surveys.transfer",
    "verify": "certify.verification.verdicts",
}


def _refuse_shadow() -> None:
    """Another module called ``bounds``, such as a user's own file, hides the lower floor of this one."""
    found = find_spec("bounds")
    origin = found.origin if found is not None else None
    if origin is not None and not Path(origin).with_name("noise_theorems.py").is_file():
        raise ImportError(
            f"{origin} hides the package 'bounds' that certify needs: rename it, or start Python in another folder"
        )


_refuse_shadow()


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
