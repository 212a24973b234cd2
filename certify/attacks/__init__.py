"""Attacks: inputs that break a model, each re-checked before it is believed; and random noise next to them."""

from certify.attacks.fixed_budget.auto_pgd import apgd, targeted_apgd
from certify.attacks.fixed_budget.autoattack import autoattack
from certify.attacks.fixed_budget.driver import FIXED_BUDGET
from certify.attacks.fixed_budget.gradient_sign import fgsm, iterative_fgsm, pgd, random_fgsm
from certify.attacks.fixed_budget.robust_accuracy import robust_accuracy
from certify.attacks.fixed_budget.square import square
from certify.attacks.minimum_norm.boundary_walk import boundary_walk
from certify.attacks.minimum_norm.carlini_wagner import carlini_wagner
from certify.attacks.minimum_norm.deepfool import deepfool
from certify.attacks.minimum_norm.fast_adaptive_boundary import fast_adaptive_boundary
from certify.attacks.minimum_norm.minimal_perturbation import minimal_perturbation
from certify.attacks.minimum_norm.sparsefool import sparsefool
from certify.attacks.minimum_norm.superdeepfool import superdeepfool
from certify.attacks.search.driver import MINIMUM_NORM
from certify.attacks.studies.confidence import ConfidenceWitness, highest_confidence
from certify.attacks.studies.counterfactual import CounterfactualWitness, counterfactual
from certify.attacks.studies.gradient_masking import GradientMaskingReport, gradient_masking
from certify.attacks.studies.noise_accuracy import NoiseAccuracy, noise_accuracy
from certify.attacks.studies.robustness_figures import NormFigures, RobustnessFigures, robustness_figures
from certify.attacks.studies.smoothed import (
    SmoothedAttackedAccuracy,
    SmoothedWitness,
    smoothed_minimal_perturbation,
    smoothed_robust_accuracy,
)
from certify.attacks.studies.transformations import TransformationWitness, transformation
from certify.attacks.studies.universal import FoolingRate, UniversalPerturbation, fooling_rate, universal_perturbation

__all__ = [
    "FIXED_BUDGET",
    "MINIMUM_NORM",
    "ConfidenceWitness",
    "CounterfactualWitness",
    "FoolingRate",
    "GradientMaskingReport",
    "NoiseAccuracy",
    "NormFigures",
    "RobustnessFigures",
    "SmoothedAttackedAccuracy",
    "SmoothedWitness",
    "TransformationWitness",
    "UniversalPerturbation",
    "apgd",
    "autoattack",
    "boundary_walk",
    "carlini_wagner",
    "counterfactual",
    "deepfool",
    "fast_adaptive_boundary",
    "fgsm",
    "fooling_rate",
    "gradient_masking",
    "highest_confidence",
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
    "transformation",
    "universal_perturbation",
]
