"""Losses and steps that train networks worth certifying: robust, smoothed, verified."""

from certify.smoothing.training import consistency_loss, gaussian_augmentation_loss, macer_loss, smoothadv_loss
from certify.training.adversarial import adversarial_inputs, fast_loss, pgd_loss, trades_loss
from certify.training.confidence import acet_loss, good_loss
from certify.training.regularised import cure_loss, grad_align_loss, grad_align_penalty, input_gradient_loss
from certify.training.steps import TrainingStep, free_step, yopo_step
from certify.training.stopping import EarlyStopping
from certify.training.verified import CrownIBPWeights, crown_ibp_schedule, mtl_ibp_loss
from certify.verified_training import (
    crown_ibp_loss,
    epsilon_schedule,
    fused_crown_ibp_loss,
    ibp_loss,
    initialize_for_intervals,
    kappa_schedule,
    robust_loss,
    worst_case_logits,
)

__all__ = [
    "CrownIBPWeights",
    "EarlyStopping",
    "TrainingStep",
    "acet_loss",
    "adversarial_inputs",
    "consistency_loss",
    "crown_ibp_loss",
    "crown_ibp_schedule",
    "cure_loss",
    "epsilon_schedule",
    "fast_loss",
    "free_step",
    "fused_crown_ibp_loss",
    "gaussian_augmentation_loss",
    "good_loss",
    "grad_align_loss",
    "grad_align_penalty",
    "ibp_loss",
    "initialize_for_intervals",
    "input_gradient_loss",
    "kappa_schedule",
    "macer_loss",
    "mtl_ibp_loss",
    "pgd_loss",
    "robust_loss",
    "smoothadv_loss",
    "trades_loss",
    "worst_case_logits",
    "yopo_step",
]
