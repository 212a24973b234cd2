"""Mathematics of one network and one perturbation set: balls, proportions, bounds."""

from bounds import geometry, noise_theorems, transport
from bounds.balls import Interval, LpBall
from bounds.boundary import BoundaryPoints, nearest_boundary, random_basis
from bounds.clever import clever, clever_curve
from bounds.clever_estimate import CleverEstimate
from bounds.concretize import Box, SparseBall, linear_minimum
from bounds.convex import lp_bounds, lp_margins
from bounds.errors import (
    BoundsError,
    InvalidConfiguration,
    InvalidInput,
    InvalidModel,
    ManifestMismatch,
    UnsupportedLayer,
)
from bounds.explanation import Explanation, explain
from bounds.forward import forward_linear
from bounds.gradients import StandIn
from bounds.graph import Graph, capture
from bounds.group_sort import GroupSort
from bounds.interval import DEFAULT_RULES, ibp
from bounds.layers import Normalize
from bounds.linear import alpha_crown, crown, crown_ibp, fast_lin
from bounds.lipschitz import lipschitz_bound, lipschitz_radius, margin_lipschitz
from bounds.local_lipschitz import local_lipschitz
from bounds.margins import margin_bounds
from bounds.milp import Minimum, Range, milp_bounds, milp_margins
from bounds.noise import Crossings, NoiseRadius, noise_radius, random_crossings
from bounds.noise_law import MulticlassRatioLaw, RatioLaw, affine_ratio_law
from bounds.noise_ratio import NoiseRatioTest, noise_ratio_test
from bounds.proportions import clopper_pearson_interval, clopper_pearson_lower, clopper_pearson_upper
from bounds.rays import traced_crossings
from bounds.second_order import clever_second_order
from bounds.semidefinite import sdp_margins
from bounds.sequential import log_evidence_above, log_evidence_below, sequential_lower
from bounds.specifications import specification_bounds

__all__ = [
    "DEFAULT_RULES",
    "BoundaryPoints",
    "BoundsError",
    "Box",
    "CleverEstimate",
    "Crossings",
    "Explanation",
    "Graph",
    "GroupSort",
    "Interval",
    "InvalidConfiguration",
    "InvalidInput",
    "InvalidModel",
    "LpBall",
    "ManifestMismatch",
    "Minimum",
    "MulticlassRatioLaw",
    "NoiseRadius",
    "NoiseRatioTest",
    "Normalize",
    "Range",
    "RatioLaw",
    "SparseBall",
    "StandIn",
    "UnsupportedLayer",
    "affine_ratio_law",
    "alpha_crown",
    "capture",
    "clever",
    "clever_curve",
    "clever_second_order",
    "clopper_pearson_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "crown",
    "crown_ibp",
    "explain",
    "fast_lin",
    "forward_linear",
    "geometry",
    "ibp",
    "linear_minimum",
    "lipschitz_bound",
    "lipschitz_radius",
    "local_lipschitz",
    "log_evidence_above",
    "log_evidence_below",
    "lp_bounds",
    "lp_margins",
    "margin_bounds",
    "margin_lipschitz",
    "milp_bounds",
    "milp_margins",
    "nearest_boundary",
    "noise_radius",
    "noise_ratio_test",
    "noise_theorems",
    "random_basis",
    "random_crossings",
    "sdp_margins",
    "sequential_lower",
    "specification_bounds",
    "traced_crossings",
    "transport",
]
