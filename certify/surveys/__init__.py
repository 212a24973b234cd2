"""Claims of surveys on the geometry and the robustness of networks, measured with intervals and laws of chance."""

from certify.surveys.claims import Claim, claims_table, verdict_of
from certify.surveys.distortion import ErrorDistortionLaw, error_distortion_law
from certify.surveys.latent import LatentRobustness, latent_robustness
from certify.surveys.noise_errors import NoiseErrorRelation, noise_error_relation
from certify.surveys.pruning import pruned
from certify.surveys.sections import CertifiedSection, certified_cross_section
from certify.surveys.spans import SpanAccuracy, span_accuracy
from certify.surveys.subspaces import FrequencyMargins, SubspaceCertificate, frequency_margins, subspace_radius
from certify.surveys.surfaces import LossSurface, loss_surface
from certify.surveys.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "CertifiedSection",
    "Claim",
    "ErrorDistortionLaw",
    "FrequencyMargins",
    "LatentRobustness",
    "LossSurface",
    "NoiseErrorRelation",
    "SpanAccuracy",
    "SubspaceCertificate",
    "TransferMatrix",
    "certified_cross_section",
    "claims_table",
    "error_distortion_law",
    "frequency_margins",
    "latent_robustness",
    "loss_surface",
    "noise_error_relation",
    "pruned",
    "span_accuracy",
    "subspace_radius",
    "transfer_matrix",
    "verdict_of",
]
