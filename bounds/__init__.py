"""Mathematics of one network and one perturbation set: balls, proportions, bounds."""

from bounds.balls import Interval, LpBall
from bounds.errors import (
    BoundsError,
    InvalidConfiguration,
    InvalidInput,
    InvalidModel,
    ManifestMismatch,
    UnsupportedLayer,
)
from bounds.interval import DEFAULT_RULES, ibp, margin_bounds
from bounds.layers import Normalize
from bounds.proportions import clopper_pearson_interval, clopper_pearson_lower, clopper_pearson_upper
from bounds.sequential import log_evidence_above, log_evidence_below, sequential_lower

__all__ = [
    "DEFAULT_RULES",
    "BoundsError",
    "Interval",
    "InvalidConfiguration",
    "InvalidInput",
    "InvalidModel",
    "LpBall",
    "ManifestMismatch",
    "Normalize",
    "UnsupportedLayer",
    "clopper_pearson_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "ibp",
    "log_evidence_above",
    "log_evidence_below",
    "margin_bounds",
    "sequential_lower",
]
