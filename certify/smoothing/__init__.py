"""Randomized smoothing: noise, sampling, the smoothed classifier, logs of other tools."""

from certify.smoothing.classifier import SmoothedClassifier
from certify.smoothing.logs import CertificationLog, read_certification_log
from certify.smoothing.noise import Gaussian, Laplace, Noise, Uniform

__all__ = [
    "CertificationLog",
    "Gaussian",
    "Laplace",
    "Noise",
    "SmoothedClassifier",
    "Uniform",
    "read_certification_log",
]
