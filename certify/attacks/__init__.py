"""Attacks: inputs that break a model, each re-checked before it is believed; and random noise beside them."""

from certify.attacks.auto_pgd import apgd, targeted_apgd
from certify.attacks.boundary_walk import boundary_walk
from certify.attacks.carlini_wagner import carlini_wagner
from certify.attacks.deepfool import deepfool
from certify.attacks.external import autoattack
from certify.attacks.fast_adaptive_boundary import fast_adaptive_boundary
from certify.attacks.figures import NormFigures, RobustnessFigures, robustness_figures
from certify.attacks.gradient_sign import fgsm, iterative_fgsm, pgd, random_fgsm
from certify.attacks.masking import GradientMaskingReport, gradient_masking
from certify.attacks.minimal import minimal_perturbation
from certify.attacks.random_noise import NoiseAccuracy, noise_accuracy
from certify.attacks.robust import robust_accuracy
from certify.attacks.score_based import square
from certify.attacks.smoothed import (
    SmoothedAttackedAccuracy,
    SmoothedWitness,
    smoothed_minimal_perturbation,
    smoothed_robust_accuracy,
)
from certify.attacks.sparsefool import sparsefool
from certify.attacks.superdeepfool import superdeepfool
from certify.attacks.universal import FoolingRate, UniversalPerturbation, fooling_rate, universal_perturbation

__all__ = [
    "FoolingRate",
    "GradientMaskingReport",
    "NoiseAccuracy",
    "NormFigures",
    "RobustnessFigures",
    "SmoothedAttackedAccuracy",
    "SmoothedWitness",
    "UniversalPerturbation",
    "apgd",
    "autoattack",
    "boundary_walk",
    "carlini_wagner",
    "deepfool",
    "fast_adaptive_boundary",
    "fgsm",
    "fooling_rate",
    "gradient_masking",
    "iterative_fgsm",
    "minimal_perturbation",
    "noise_accuracy",
    "pgd",
    "random_fgsm",
    "robust_accuracy",
    "robustness_figures",
    "smoothed_minimal_perturbation",
    "smoothed_robust_accuracy",
    "sparsefool",
    "square",
    "superdeepfool",
    "targeted_apgd",
    "universal_perturbation",
]
