"""Attacks: inputs that break a model, each re-checked before it is believed; and random noise beside them."""

from certify.attacks.auto_pgd import apgd, targeted_apgd
from certify.attacks.external import autoattack
from certify.attacks.gradient_sign import fgsm, iterative_fgsm, pgd, random_fgsm
from certify.attacks.masking import GradientMaskingReport, gradient_masking
from certify.attacks.minimal import minimal_perturbation
from certify.attacks.portfolio import robust_accuracy
from certify.attacks.random_noise import NoiseAccuracy, noise_accuracy
from certify.attacks.score_based import square

__all__ = [
    "GradientMaskingReport",
    "NoiseAccuracy",
    "apgd",
    "autoattack",
    "fgsm",
    "gradient_masking",
    "iterative_fgsm",
    "minimal_perturbation",
    "noise_accuracy",
    "pgd",
    "random_fgsm",
    "robust_accuracy",
    "square",
    "targeted_apgd",
]
