"""Randomized smoothing: noises, sampling, smoothed classifiers, statements about data sets, training."""

from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.classifiers.ensembles import Consensus, Ensemble
from certify.smoothing.classifiers.incremental import IncrementalCertificate, certify_incrementally
from certify.smoothing.classifiers.top_k import TopKCertificate, certify_top_k
from certify.smoothing.data_sets.accuracy import (
    AbstentionRate,
    CertifiedAccuracyStatement,
    abstention_rate,
    average_certified_radius,
    certificate_table,
    certified_accuracy_at_least,
    certified_quantiles,
    wrong_certificates_at_most,
)
from certify.smoothing.data_sets.envelope import CertifiedAccuracyEnvelope
from certify.smoothing.data_sets.logs import (
    CertificationLog,
    ClassCounts,
    read_certification_log,
    read_class_counts,
    read_vote_log,
)
from certify.smoothing.derandomized.patches import (
    BlockAblation,
    ColumnAblation,
    PatchAblation,
    PatchCertificate,
    PatchSmoothedClassifier,
    ablate,
)
from certify.smoothing.derandomized.shifts import ShiftCertificate, certify_cyclic_shifts
from certify.smoothing.derandomized.splitting import DerandomizedSplitting, SplittingCertificate, split
from certify.smoothing.noises.base import Gaussian, InNorm, Laplace, Noise, Uniform
from certify.smoothing.noises.earlier_radii import lecuyer_laplace_radius, lecuyer_radius, li_radius
from certify.smoothing.noises.generalized_gaussian import GeneralizedGaussian
from certify.smoothing.noises.l0 import Ablation, DiscreteNoise
from certify.smoothing.noises.l1 import SplittingNoise, UniformInBox
from certify.smoothing.noises.linf import UniformLInf
from certify.smoothing.noises.photometric import PhotometricNoise
from certify.smoothing.noises.shifts import CyclicShiftNoise
from certify.smoothing.outputs.center import CenterCertificate, CenterSmoothing
from certify.smoothing.outputs.regression import PercentileCertificate, SmoothedRegressor
from certify.smoothing.outputs.segmentation import SegmentationCertificate, SmoothedSegmentation
from certify.smoothing.outputs.segmentation_attack import segmentation_pgd
from certify.smoothing.outputs.segmentation_scores import SegmentationScores, segmentation_scores
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
    "CyclicShiftNoise",
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
    "PhotometricNoise",
    "SegmentationCertificate",
    "SegmentationScores",
    "ShiftCertificate",
    "SmoothedClassifier",
    "SmoothedRegressor",
    "SmoothedSegmentation",
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
    "certify_cyclic_shifts",
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
    "segmentation_pgd",
    "segmentation_scores",
    "smoothadv_loss",
    "smoothed_pgd",
    "split",
    "wrong_certificates_at_most",
]
