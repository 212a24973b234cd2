"""Randomized smoothing: noise, sampling, the smoothed classifier, logs of other tools."""

from certify.smoothing.classifier import SmoothedClassifier
from certify.smoothing.logs import CertificationLog, read_certification_log
from certify.smoothing.noise import Gaussian

__all__ = ["CertificationLog", "Gaussian", "SmoothedClassifier", "read_certification_log"]
