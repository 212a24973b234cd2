"""Randomized smoothing: noises, sampling, smoothed classifiers, statements about data sets, training."""

from certify.smoothing.center import CenterCertificate, CenterSmoothing
from certify.smoothing.classifier import SmoothedClassifier
from certify.smoothing.comparisons import lecuyer_laplace_radius, lecuyer_radius, li_radius
from certify.smoothing.ensembles import Consensus, Ensemble
from certify.smoothing.envelope import CertifiedAccuracyEnvelope
from certify.smoothing.generalized_gaussian import GeneralizedGaussian
from certify.smoothing.incremental import IncrementalCertificate, certify_incrementally
from certify.smoothing.l0 import Ablation, DiscreteNoise
from certify.smoothing.l1 import SplittingNoise, UniformInBox
from certify.smoothing.linf import UniformLInf
from certify.smoothing.logs import (
    CertificationLog,
    ClassCounts,
    read_certification_log,
    read_class_counts,
    read_vote_log,
)
from certify.smoothing.noise import Gaussian, InNorm, Laplace, Noise, Uniform
from certify.smoothing.patches import (
    BlockAblation,
    ColumnAblation,
    PatchAblation,
    PatchCertificate,
    PatchSmoothedClassifier,
    ablate,
)
from certify.smoothing.regression import PercentileCertificate, SmoothedRegressor
from certify.smoothing.splitting import DerandomizedSplitting, SplittingCertificate, split
from certify.smoothing.statements import (
    AbstentionRate,
    CertifiedAccuracyStatement,
    abstention_rate,
    average_certified_radius,
    certificate_table,
    certified_accuracy_at_least,
    certified_quantiles,
    wrong_certificates_at_most,
)
from certify.smoothing.top_k import TopKCertificate, certify_top_k
from certify.smoothing.training import (
    consistency_loss,
    gaussian_augmentation_loss,
    macer_loss,
    smoothadv_loss,
    smoothed_pgd,
)

__all__ = [
    "Ablation",
    "AbstentionRate",
    "BlockAblation",
    "CenterCertificate",
    "CenterSmoothing",
    "CertificationLog",
    "CertifiedAccuracyEnvelope",
    "CertifiedAccuracyStatement",
    "ClassCounts",
    "ColumnAblation",
    "Consensus",
    "DerandomizedSplitting",
    "DiscreteNoise",
    "Ensemble",
    "Gaussian",
    "GeneralizedGaussian",
    "InNorm",
    "IncrementalCertificate",
    "Laplace",
    "Noise",
    "PatchAblation",
    "PatchCertificate",
    "PatchSmoothedClassifier",
    "PercentileCertificate",
    "SmoothedClassifier",
    "SmoothedRegressor",
    "SplittingCertificate",
    "SplittingNoise",
    "TopKCertificate",
    "Uniform",
    "UniformInBox",
    "UniformLInf",
    "ablate",
    "abstention_rate",
    "average_certified_radius",
    "certificate_table",
    "certified_accuracy_at_least",
    "certified_quantiles",
    "certify_incrementally",
    "certify_top_k",
    "consistency_loss",
    "gaussian_augmentation_loss",
    "lecuyer_laplace_radius",
    "lecuyer_radius",
    "li_radius",
    "macer_loss",
    "read_certification_log",
    "read_class_counts",
    "read_vote_log",
    "smoothadv_loss",
    "smoothed_pgd",
    "split",
    "wrong_certificates_at_most",
]
