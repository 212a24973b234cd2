"""Randomized smoothing: noise, sampling, the smoothed classifier, logs of other tools."""

from certify.smoothing.classifier import SmoothedClassifier
from certify.smoothing.noise import Gaussian

__all__ = ["Gaussian", "SmoothedClassifier"]
