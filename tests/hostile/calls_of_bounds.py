"""One small call of every public function of the lower floor, by name."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds import geometry, noise_theorems, separation, transport


class Case(NamedTuple):
    """A network with inputs (N, 1, 4, 8) of eight bits, and labels; and its captured graph, or what it is made from."""

    model: nn.Module
    x: Tensor
    y: Tensor
    source: nn.Module | bounds.Graph

    @property
    def ball(self) -> bounds.LpBall:
        return bounds.LpBall(self.x, 0.03)

    @property
    def exact_ball(self) -> bounds.LpBall:
        return bounds.LpBall(self.x.double(), 0.03)

    def level(self, points: Tensor) -> Tensor:
        """A curved function of inputs."""
        logits = self.model(points)
        return (logits[:, 0] - logits[:, 1]) * (2 + logits[:, 2])


class FirstTwo(nn.Module):
    """Two classes, for which there is one boundary to search."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


Call = Callable[[Case], object]
INPUT = (1, 4, 8)
SPREAD = torch.linspace(0.5, 1.5, 16)  # any 16 numbers
COUNTS = torch.tensor([3, 30])
FOUR, CLASSES = torch.rand(4, 16, generator=generator(5), dtype=torch.float64), torch.tensor([0, 1, 0, 1])
IDENTITY = torch.eye(16)
NORMALIZE = bounds.Normalize([0.3], [0.2])
BITS = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
UNSAFE = [(torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([0.5]))]


def robust(x: Tensor) -> bounds.Property:
    return bounds.Property.of_robustness(x, 2, epsilon=0.1, num_classes=3)


ROBUST = robust(torch.full((1, 3), 0.5))


def network() -> nn.Sequential:
    """Two layers of 6 and 3 numbers, with weights that leave a clear margin."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3))
    draw = generator(3)
    for weight in model.parameters():
        weight.data.normal_(0, 0.7, generator=draw)
    return model.eval()


def case() -> Case:
    model, x = network(), torch.randint(0, 256, (2, *INPUT), generator=generator(1)) / 255
    with torch.no_grad():
        return Case(model, x, model(x).argmax(1), bounds.capture(model, x))


def bound_once(graph: bounds.Graph, c: Case) -> object:
    """Attributes of a graph, and bounds of it."""
    value = graph.bind(c.x)["output"].value
    return value.dtype, len(value), bounds.ibp(graph, c.exact_ball)


@cache
def engines_compared(c: Case) -> object:
    """Bounds that every machine has, and what points reach."""
    found = bounds.compare_engines(c.model, c.ball, methods=("ibp",), samples=5, steps=2, generator=generator())
    own = found.of("own", "ibp")
    return own.lower, own.upper, found.least, found.largest


def onnx_file() -> bytes:
    """A layer of three inputs and two outputs, and a rectifier."""
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3), [1.0, -2.0, 0.5, 0.0, 1.0, 3.0])
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size)) for name, size in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [weight])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return model


def _crossings(c: Case) -> dict[str, object]:
    return {"directions": 3, "limit": 5.0, "generator": generator()}


CLEVER = {"num_batches": 4, "batch_size": 3, "resamples": 3}

GRAPHS: dict[str, Call] = {  # bounds of a captured network
    "bounds.Graph.bind": lambda c: bound_once(bounds.capture(c.source, c.x), c),
    "bounds.alpha_crown": lambda c: bounds.alpha_crown(c.source, c.ball, 3),
    "bounds.crown": lambda c: bounds.crown(c.source, c.ball),
    "bounds.crown.l2": lambda c: bounds.crown(c.source, bounds.LpBall(c.x, 0.1, norm=2)),
    "bounds.crown.deployed": lambda c: bounds.crown(c.source, c.ball, sound="deployed"),
    "bounds.crown_ibp": lambda c: bounds.crown_ibp(c.source, c.ball),
    "bounds.fast_lin": lambda c: bounds.fast_lin(c.source, c.ball),
    "bounds.forward_linear": lambda c: bounds.forward_linear(c.source, c.ball),
    "bounds.ibp.graph": lambda c: bounds.ibp(c.source, c.ball),
    "bounds.lipschitz_bound": lambda c: bounds.lipschitz_bound(c.source, 2, "recurjac", c.ball),
    "bounds.lp_bounds": lambda c: bounds.lp_bounds(c.source, c.exact_ball, tighten=False),
    "bounds.lp_margins": lambda c: bounds.lp_margins(c.source, c.exact_ball, c.y, tighten=False),
    "bounds.margin_bounds": lambda c: bounds.margin_bounds(c.source, c.ball, c.y, "alpha_crown", steps=3),
    "bounds.margin_lipschitz": lambda c: bounds.margin_lipschitz(c.source, 2, c.y, "product", x=c.x),
    "bounds.milp_bounds": lambda c: bounds.milp_bounds(c.source, c.exact_ball, tighten=False),
    "bounds.milp_margins": lambda c: bounds.milp_margins(c.source, c.exact_ball, c.y, tighten=False),
    "bounds.sdp_margins": lambda c: bounds.sdp_margins(c.source, c.exact_ball, c.y, tighten=False),
}

MODELS: dict[str, Call] = {
    "bounds.affine_ratio_law": lambda c: bounds.affine_ratio_law(IDENTITY[:3, :3], SPREAD[:3] - 0.5, SPREAD[:3]),
    "bounds.capture": lambda c: bound_once(bounds.capture(c.model, c.x), c),
    "bounds.clever": lambda c: bounds.clever(c.model, c.x, norm=2, radius=0.5, **CLEVER, generator=generator()),
    "bounds.clever_curve": lambda c: bounds.clever_curve(
        c.model, c.x, norm=1, radii=[0.1, 0.5], **CLEVER, generator=generator()
    ),
    "bounds.clever_second_order": lambda c: bounds.clever_second_order(
        nn.Sequential(c.model, nn.Tanh()), c.x, radius=0.5, iterations=2, **CLEVER, generator=generator()
    ),
    "bounds.compare_engines": engines_compared,
    "bounds.explain": lambda c: bounds.explain(c.model, c.x).supported,
    "bounds.ibp": lambda c: bounds.ibp(c.model, c.ball),
    "bounds.ibp.l2": lambda c: bounds.ibp(c.model, bounds.LpBall(c.x.double(), 0.1, norm=2)),
    "bounds.local_lipschitz": lambda c: bounds.local_lipschitz(
        c.model, c.x, norm=2, radius=0.2, steps=3, restarts=2, generator=generator()
    ),
    "bounds.nearest_boundary": lambda c: bounds.nearest_boundary(c.model, c.x, steps=3),
    "bounds.noise_radius": lambda c: bounds.noise_radius(
        c.model, c.x, norm=2, epsilon=0.2, limit=5.0, draws=60, grid=8, bisections=3, generator=generator()
    ),
    "bounds.noise_ratio_test": lambda c: bounds.noise_ratio_test(
        nn.Sequential(c.model, FirstTwo()), c.x[:1], directions=4, dimensions=[1], generator=generator()
    ),
    "bounds.linear_forms": lambda c: bounds.linear_forms(
        c.source, c.ball, torch.eye(3, device="cpu").expand(len(c.ball.center), 3, 3), "crown_ibp"
    ),
    "bounds.pairwise_margins": lambda c: bounds.pairwise_margins(c.source, c.ball, "crown_ibp"),
    "bounds.random_crossings": lambda c: bounds.random_crossings(c.model, c.x, **_crossings(c), grid=9, bisections=3),
    "bounds.specification_bounds": lambda c: bounds.specification_bounds(c.source, c.ball, UNSAFE, steps=3),
    "bounds.traced_crossings": lambda c: bounds.traced_crossings(c.model, c.x, **_crossings(c)),
    "bounds.geometry.boundary_curvature": lambda c: geometry.boundary_curvature(
        c.level, c.x, probes=2, generator=generator()
    ),
    "bounds.geometry.cross_section": lambda c: geometry.cross_section(
        c.model, c.x[0], c.x[1], c.x[0] - c.x[1], extent=1.0, grid=5
    ),
    "bounds.geometry.gradient_change": lambda c: geometry.gradient_change(c.level, c.x, step=0.3),
    "bounds.geometry.hessian_eigenvalues": lambda c: geometry.hessian_eigenvalues(c.level, c.x[:1], count=2)[0],
    "bounds.geometry.normal_curvature": lambda c: geometry.normal_curvature(c.level, c.x, c.x.flip(0)),
}

# Functions of numbers and tensors alone.
PURE: dict[str, Call] = {
    "bounds.Box": lambda c: bounds.crown(c.source, bounds.Box(c.x - 0.01, c.x + 0.01)),
    "bounds.GroupSort": lambda c: bounds.GroupSort(2)(c.x.flatten(1)),
    "bounds.Interval": lambda c: bounds.Interval(c.x, c.x + 1).halves(0.0),
    "bounds.Logits": lambda c: bounds.Logits(nn.Flatten())(c.x),
    "bounds.LpBall": lambda c: (c.ball.hull(), c.ball.radii, c.ball.row(0)),
    "bounds.MulticlassRatioLaw.sample": lambda c: bounds.MulticlassRatioLaw(
        IDENTITY[:2].double(), SPREAD[:2].double(), 16
    ).sample(5, generator()),
    "bounds.Normalize": lambda c: NORMALIZE(c.x),
    "bounds.Property": lambda c: (ROBUST.boxes, ROBUST.is_unsafe(c.x[:1, :, :1, :3], SPREAD[None, :3])),
    "bounds.Property.of_robustness": lambda c: robust(c.x[:1]).boxes,
    "bounds.RatioLaw": lambda c: (bounds.RatioLaw(16).quantile(0.3), bounds.RatioLaw(16).cdf(SPREAD)),
    "bounds.RatioLaw.sample": lambda c: bounds.RatioLaw(16).sample(5, generator()),
    "bounds.HullOfBoxes": lambda c: bounds.crown(
        c.source, bounds.HullOfBoxes(torch.stack([c.x, c.x + 0.01], 1), torch.stack([c.x + 0.01, c.x + 0.02], 1))
    ),
    "bounds.CategoricalGroups": lambda c: bounds.CategoricalGroups(BITS, [[0, 1], [2, 3]], 1).hull(),
    "bounds.Constrained": lambda c: bounds.linear_minimum(
        c.x[:, None] - 0.5, bounds.Constrained(bounds.LpBall(c.x, 0.3), torch.ones_like(c.x[:1]), SPREAD[:1] + 1e3)
    ),
    "bounds.FeatureChanges": lambda c: bounds.linear_minimum(
        BITS[:, None] - 0.5,
        bounds.FeatureChanges(
            BITS, [bounds.Category([0, 1]), bounds.Levels(2, range(3)), bounds.Numeric(3, 0.0, 1.0)], 2
        ),
    ),
    "bounds.SynonymSet": lambda c: bounds.SynonymSet(BITS[None], BITS[None, :, None] + 1, 1).hull(),
    "bounds.SynonymSet.of_tokens": lambda c: bounds.SynonymSet.of_tokens(
        BITS, torch.tensor([[0, 1]], device="cpu"), {0: [1]}, 1
    ).hull(),
    "bounds.SparseBall": lambda c: bounds.SparseBall(c.x, 2).hull(),
    "bounds.StandIn": lambda c: bounds.StandIn(nn.ReLU())(c.x),
    "bounds.clopper_pearson_interval": lambda c: bounds.clopper_pearson_interval(COUNTS, 50),
    "bounds.clopper_pearson_lower": lambda c: bounds.clopper_pearson_lower(COUNTS, 50),
    "bounds.clopper_pearson_upper": lambda c: bounds.clopper_pearson_upper(COUNTS, 50),
    "bounds.linear_minimum": lambda c: bounds.linear_minimum(c.x[:, None] - 0.5, bounds.LpBall(c.x, 0.3, norm=2)),
    "bounds.lipschitz_radius": lambda c: bounds.lipschitz_radius(SPREAD[None], SPREAD[None] + 1),
    "bounds.log_evidence_above": lambda c: bounds.log_evidence_above(COUNTS, 50, 0.5),
    "bounds.log_evidence_below": lambda c: bounds.log_evidence_below(COUNTS, 50, 0.5),
    "bounds.random_basis": lambda c: bounds.random_basis(c.x, 2, 3, generator()),
    "bounds.from_onnx": lambda c: bounds.ibp(bounds.from_onnx(onnx_file()), bounds.LpBall(c.x.flatten(1)[:, :3], 0.1)),
    "bounds.read_vnnlib": lambda c: bounds.read_vnnlib(ROBUST.to_vnnlib()).boxes,
    "bounds.sequential_lower": lambda c: bounds.sequential_lower(COUNTS, 50),
    "bounds.geometry.alignment": lambda c: geometry.alignment(FOUR, FOUR.flip(0)),
    "bounds.geometry.energy_share": lambda c: geometry.energy_share(FOUR, FOUR[:2].flip(1)),
    "bounds.geometry.leading_directions": lambda c: geometry.leading_directions(FOUR, 3).square().sum(0),
    "bounds.geometry.normal_rank": lambda c: geometry.normal_rank(FOUR, draws=19, generator=generator()),
    "bounds.geometry.cosine_transform": lambda c: geometry.cosine_transform(4, c.x),
    "bounds.geometry.curvature_bounds": lambda c: geometry.curvature_bounds(1.0, c.x[0], 0.3, c.x[1]),
    "bounds.geometry.frequency_basis": lambda c: geometry.frequency_basis(INPUT, size=2, offset=1, like=c.x),
    "bounds.geometry.margin_quantiles": lambda c: geometry.margin_quantiles(
        SPREAD, features=16, dimension=2, probability=0.3
    ),
    "bounds.geometry.normal_spectrum": lambda c: geometry.normal_spectrum(c.x),
    "bounds.geometry.paired_ratio": lambda c: geometry.paired_ratio(SPREAD, SPREAD.flip(0)),
    "bounds.noise_theorems.curved_ratio_bound": lambda c: noise_theorems.curved_ratio_bound(
        10**6, 10**4, delta=0.01, curvature=1e-4, distance=1.0
    ),
    "bounds.noise_theorems.distinguishability_bound": lambda c: noise_theorems.distinguishability_bound(FOUR, CLASSES),
    "bounds.noise_theorems.flat_ratio_bound": lambda c: noise_theorems.flat_ratio_bound(1000, 10, delta=0.01),
    "bounds.noise_theorems.gaussian_flip_probability": lambda c: noise_theorems.gaussian_flip_probability(
        SPREAD[:1], sigma=0.5
    ),
    "bounds.noise_theorems.gaussian_noise_factors": lambda c: noise_theorems.gaussian_noise_factors(0.1),
    "bounds.noise_theorems.gaussian_noise_radius": lambda c: noise_theorems.gaussian_noise_radius(
        SPREAD, 1.0, covariance=IDENTITY, epsilon=0.1
    ),
    "bounds.noise_theorems.largest_curvature": lambda c: noise_theorems.largest_curvature(
        1000, 10, delta=0.01, distance=1.0
    ),
    "bounds.noise_theorems.lp_entry_deviation": lambda c: noise_theorems.lp_entry_deviation(16, 3.0),
    "bounds.noise_theorems.lp_noise_factor": lambda c: noise_theorems.lp_noise_factor(SPREAD, 3.0),
    "bounds.noise_theorems.lp_noise_radius": lambda c: noise_theorems.lp_noise_radius(16, 1.0, norm=2, epsilon=0.1),
    "bounds.noise_theorems.mean_distance_bound": lambda c: noise_theorems.mean_distance_bound(
        SPREAD, SPREAD.sign(), tau=2.0
    ),
    "bounds.noise_theorems.noise_error_distance": lambda c: noise_theorems.noise_error_distance(0.1, 0.5),
    "bounds.noise_theorems.random_weight_factor": lambda c: noise_theorems.random_weight_factor(math.inf),
    "bounds.noise_theorems.subspace_factors": lambda c: noise_theorems.subspace_factors(10, 0.01),
    "bounds.separation.separation": lambda c: separation.separation(FOUR, CLASSES, norm=3),
    "bounds.separation.invariance_check": lambda c: separation.invariance_check(FOUR[:, 0] + 1, FOUR, CLASSES, norm=2),
    "bounds.transport.accuracy_robustness_front": lambda c: transport.accuracy_robustness_front(SPREAD, SPREAD.flip(0)),
    "bounds.transport.adversarial_error_bound": lambda c: transport.adversarial_error_bound(
        FOUR, CLASSES, epsilon=0.8, norm=2
    ),
    "bounds.transport.gaussian_adversarial_error": lambda c: transport.gaussian_adversarial_error(
        FOUR[0], FOUR[1], IDENTITY, epsilon=0.01, norm=1
    ),
    "bounds.transport.least_adversarial_error": lambda c: transport.least_adversarial_error(
        FOUR, CLASSES.cumsum(0), epsilon=0.8, norm=2
    ),
    "bounds.transport.margin_features": lambda c: transport.margin_features(SPREAD),
}

CALLS: dict[str, Call] = {**GRAPHS, **MODELS, **PURE}

# Names that stand for records, errors and tables: they compute nothing.
RECORDS = {
    *("DEFAULT_RULES", "BoundaryPoints", "BoundsError", "CleverEstimate", "Crossings", "Explanation"),
    *("InvalidConfiguration", "InvalidInput", "InvalidModel", "InvalidProperty", "ManifestMismatch", "Minimum"),
    *("EngineBounds", "EngineComparison", "LinearForms", "NoiseRadius", "Port"),
    *("AFFINE", "Affine", "Category", "FUNCTIONS", "Levels", "Numeric", "TwoClasses"),
    *("NoiseRatioTest", "PerturbationSet", "Range", "UnsupportedLayer"),
    *("BoundaryCurvature", "CrossSection", "CurvatureBounds", "PairedRatio", "RatioBound"),
    *(
        "Alignment",
        "EnergyShare",
        "NormalRank",
        "GaussianError",
        "InvarianceCheck",
        "LeastError",
        "Radii",
        "Separation",
    ),
}
