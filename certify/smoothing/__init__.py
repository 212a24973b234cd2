"""Randomized smoothing: noise, sampling, the smoothed classifier, logs of other tools."""

from certify.smoothing.classifier import SmoothedClassifier
from certify.smoothing.logs import CertificationLog, read_certification_log
from certify.smoothing.noise import Gaussian, InNorm, Laplace, Noise, Uniform
from certify.smoothing.patches import BlockAblation, ColumnAblation, PatchCertificate, PatchSmoothedClassifier, ablate
from certify.smoothing.splitting import DerandomizedSplitting, SplittingCertificate, split

__all__ = [
    "BlockAblation",
    "CertificationLog",
    "ColumnAblation",
    "DerandomizedSplitting",
    "Gaussian",
    "InNorm",
    "Laplace",
    "Noise",
    "PatchCertificate",
    "PatchSmoothedClassifier",
    "SmoothedClassifier",
    "SplittingCertificate",
    "Uniform",
    "ablate",
    "read_certification_log",
    "split",
]
