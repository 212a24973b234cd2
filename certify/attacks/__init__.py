"""Attacks: inputs that break a model, each re-checked before it is believed."""

from certify.attacks.boundary_walk import boundary_walk
from certify.attacks.carlini_wagner import carlini_wagner
from certify.attacks.deepfool import deepfool
from certify.attacks.fast_adaptive_boundary import fast_adaptive_boundary
from certify.attacks.minimal import minimal_perturbation
from certify.attacks.sparsefool import sparsefool
from certify.attacks.superdeepfool import superdeepfool

__all__ = [
    "boundary_walk",
    "carlini_wagner",
    "deepfool",
    "fast_adaptive_boundary",
    "minimal_perturbation",
    "sparsefool",
    "superdeepfool",
]
