"""Mathematics of one network and one perturbation set: balls, proportions, bounds."""

from bounds import geometry, noise_theorems, separation, transport
from bounds.errors import (
    BoundsError,
    InvalidConfiguration,
    InvalidInput,
    InvalidModel,
    InvalidProperty,
    ManifestMismatch,
    UnsupportedLayer,
)
from bounds.estimates.clever import clever, clever_curve
from bounds.estimates.local_lipschitz import local_lipschitz
from bounds.estimates.result import CleverEstimate
from bounds.estimates.second_order import clever_second_order
from bounds.gradients import StandIn
from bounds.graph.captured import Graph, Port
from bounds.graph.capturing import capture
from bounds.graph.explain import Explanation, explain
from bounds.graph.uncertain import with_weight_box
from bounds.graph.weight_box import WeightBox
from bounds.layers import GroupSort, Logits, Normalize, TwoClasses
from bounds.linear.forms import LinearForms, linear_forms
from bounds.linear.forward import forward_linear
from bounds.linear.intervals import DEFAULT_RULES, ibp
from bounds.linear.margins import margin_bounds
from bounds.linear.methods import alpha_crown, crown, crown_ibp, fast_lin
from bounds.linear.pairs import pairwise_margins
from bounds.linear.specifications import specification_bounds
from bounds.lipschitz.constants import lipschitz_bound, lipschitz_radius, margin_lipschitz
from bounds.noise.boundary import BoundaryPoints, nearest_boundary, random_basis
from bounds.noise.crossings import Crossings, NoiseRadius, noise_radius, random_crossings
from bounds.noise.ratio_law import MulticlassRatioLaw, RatioLaw, affine_ratio_law
from bounds.noise.ratio_result import NoiseRatioTest
from bounds.noise.ratio_test import noise_ratio_test
from bounds.noise.traced_crossings import traced_crossings
from bounds.onnx.reading import from_onnx
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS
from bounds.second_opinion.comparison import compare_engines
from bounds.second_opinion.result import EngineBounds, EngineComparison
from bounds.sets.balls import Box, Interval, LpBall, PerturbationSet, SparseBall
from bounds.sets.constrained import Constrained
from bounds.sets.features import Category, Levels, Numeric
from bounds.sets.hulls import HullOfBoxes
from bounds.sets.linear_minimum import linear_minimum
from bounds.sets.tables import CategoricalGroups, FeatureChanges
from bounds.sets.words import SynonymSet
from bounds.solvers.milp import Minimum, Range, milp_bounds, milp_margins
from bounds.solvers.semidefinite import sdp_margins
from bounds.solvers.triangle import lp_bounds, lp_margins
from bounds.statistics.proportions import clopper_pearson_interval, clopper_pearson_lower, clopper_pearson_upper
from bounds.statistics.sequential import log_evidence_above, log_evidence_below, sequential_lower
from bounds.vnnlib.property import Property
from bounds.vnnlib.reader import read_vnnlib

__all__ = [
    "AFFINE",
    "DEFAULT_RULES",
    "FUNCTIONS",
    "Affine",
    "BoundaryPoints",
    "BoundsError",
    "Box",
    "CategoricalGroups",
    "Category",
    "CleverEstimate",
    "Constrained",
    "Crossings",
    "EngineBounds",
    "EngineComparison",
    "Explanation",
    "FeatureChanges",
    "Graph",
    "GroupSort",
    "HullOfBoxes",
    "Interval",
    "InvalidConfiguration",
    "InvalidInput",
    "InvalidModel",
    "InvalidProperty",
    "Levels",
    "LinearForms",
    "Logits",
    "LpBall",
    "ManifestMismatch",
    "Minimum",
    "MulticlassRatioLaw",
    "NoiseRadius",
    "NoiseRatioTest",
    "Normalize",
    "Numeric",
    "PerturbationSet",
    "Port",
    "Property",
    "Range",
    "RatioLaw",
    "SparseBall",
    "StandIn",
    "SynonymSet",
    "TwoClasses",
    "UnsupportedLayer",
    "WeightBox",
    "affine_ratio_law",
    "alpha_crown",
    "capture",
    "clever",
    "clever_curve",
    "clever_second_order",
    "clopper_pearson_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "compare_engines",
    "crown",
    "crown_ibp",
    "explain",
    "fast_lin",
    "forward_linear",
    "from_onnx",
    "geometry",
    "ibp",
    "linear_forms",
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
    "pairwise_margins",
    "random_basis",
    "random_crossings",
    "read_vnnlib",
    "sdp_margins",
    "separation",
    "sequential_lower",
    "specification_bounds",
    "traced_crossings",
    "transport",
    "with_weight_box",
]
