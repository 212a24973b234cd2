"""Results of methods. The type says what the numbers promise.

A :class:`Certificate` is proved, or proved with probability at least ``1 - alpha``. A :class:`Witness` is an
input that breaks the model and therefore an upper bound. An :class:`Estimate` promises nothing. They never share a
column.
"""

from certify.results.base import Drawn, Record
from certify.results.certificates import (
    Certificate,
    CompleteCertificate,
    RadiusDecision,
    SmoothedPrediction,
    SmoothingCertificate,
    VerdictCertificate,
)
from certify.results.estimates import DrawnAccuracy, Estimate, NoiseTolerance
from certify.results.witnesses import AttackedAccuracy, Witness, share_interval

__all__ = [
    "AttackedAccuracy",
    "Certificate",
    "CompleteCertificate",
    "Drawn",
    "DrawnAccuracy",
    "Estimate",
    "NoiseTolerance",
    "RadiusDecision",
    "Record",
    "SmoothedPrediction",
    "SmoothingCertificate",
    "VerdictCertificate",
    "Witness",
    "share_interval",
]
