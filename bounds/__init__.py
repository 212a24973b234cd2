"""Mathematics of one network and one perturbation set: balls, proportions, bounds."""

from bounds.balls import Interval, LpBall
from bounds.concretize import Box, SparseBall, linear_minimum
from bounds.errors import (
    BoundsError,
    InvalidConfiguration,
    InvalidInput,
    InvalidModel,
    ManifestMismatch,
    UnsupportedLayer,
)
from bounds.graph import Graph, capture
from bounds.interval import DEFAULT_RULES, ibp
from bounds.layers import Normalize
from bounds.linear import alpha_crown, crown, crown_ibp, fast_lin
from bounds.margins import margin_bounds
from bounds.proportions import clopper_pearson_interval, clopper_pearson_lower, clopper_pearson_upper
from bounds.sequential import log_evidence_above, log_evidence_below, sequential_lower

__all__ = [
    "DEFAULT_RULES",
    "BoundsError",
    "Box",
    "Graph",
    "Interval",
    "InvalidConfiguration",
    "InvalidInput",
    "InvalidModel",
    "LpBall",
    "ManifestMismatch",
    "Normalize",
    "SparseBall",
    "UnsupportedLayer",
    "alpha_crown",
    "capture",
    "clopper_pearson_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "crown",
    "crown_ibp",
    "fast_lin",
    "ibp",
    "linear_minimum",
    "log_evidence_above",
    "log_evidence_below",
    "margin_bounds",
    "sequential_lower",
]
