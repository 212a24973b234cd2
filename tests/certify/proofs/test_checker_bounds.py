"""The checker's bounds: against samples, exact rationals, and the engine that shares no code with them."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from oracles.onnx_models import made, node
from oracles.proof_cases import KINDS, network

import bounds
from bounds.linear.network import Network as Engine
from bounds.linear.refined import RefinedNetwork
from certify.proofs.bounding import Planes, intervals, planes
from certify.proofs.leaves import Goal, SplitLeaves
from certify.proofs.networks.functions import Function, Relu, Sigmoid, Tanh
from certify.proofs.networks.maps import Convolution, Map, Product, Scale, Selection, Transposed
from certify.proofs.networks.networks import Network
from certify.proofs.networks.reading import read_network
from certify.proofs.properties import UnsafeSet

FUNCTIONS = {"relu": Relu(), "leaky": Relu(0.125), "sigmoid": Sigmoid(), "tanh": Tanh()}


def boxes(draw: np.random.Generator, count: int, inputs: int, width: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    low = draw.uniform(-1, 0.5, (count, inputs))
    return low, low + draw.uniform(0, width, (count, inputs))


def output_planes(read: Network, low: np.ndarray, high: np.ndarray) -> Planes:
    last = len(read.nodes) - 1
    rows = np.concatenate([np.eye(read.nodes[-1].size), -np.eye(read.nodes[-1].size)])
    return planes(read, intervals(read, low, high), {last: np.broadcast_to(rows, (len(low), *rows.shape))})


# ------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_leaves_the_bounds(kind: str):
    read, draw = read_network(network(kind, 4, 1).SerializeToString()), np.random.default_rng(1)
    low, high = boxes(draw, 20, 4)
    known, found = intervals(read, low, high), output_planes(read, low, high)
    for _ in range(50):
        x = low + (high - low) * draw.random(low.shape)
        values = read.values(x)
        assert ((known.low[-1] <= values) & (values <= known.high[-1])).all()
        both = np.concatenate([values, -values], 1)
        slack = 1e-13 * (1 + np.abs(both))
        assert (found.least <= both + slack).all()
        assert ((found.slopes @ x[..., None])[..., 0] + found.constant <= both + slack).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_finds_the_same_bounds(kind: str):
    """Both use the same slopes for ReLU; the engine also intersects with intervals, which seldom helps."""
    model, draw = network(kind, 4, 2), np.random.default_rng(2)
    low, high = boxes(draw, 30, 4)
    read, graph = read_network(model.SerializeToString()), bounds.from_onnx(model)
    least, known = output_planes(read, low, high).least, intervals(read, low, high)
    sides = (torch.from_numpy(side).view(-1, *graph.input_shape) for side in (low, high))
    theirs = RefinedNetwork(Engine(graph, bounds.Box(*sides)), tighten=True).output()
    for ours, other in (
        (np.maximum(least[:, :2], known.low[-1]), theirs.lower.numpy()),
        (np.maximum(least[:, 2:], -known.high[-1]), -theirs.upper.numpy()),
    ):
        if kind in ("sigmoid", "tanh"):  # of which both choose other lines
            assert (np.abs(ours - other) <= 0.2 * (1 + (theirs.upper - theirs.lower).numpy())).all()
        else:
            assert (ours <= other + 1e-9).all()
            assert (ours >= other - 1e-9).mean() > 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_is_bounded_alone_as_among_others(kind: str):
    read, draw = read_network(network(kind, 3, 3).SerializeToString()), np.random.default_rng(3)
    low, high = boxes(draw, 30, 3, 0.3)
    together = output_planes(read, low, high).least
    alone = np.concatenate([output_planes(read, low[i : i + 1], high[i : i + 1]).least for i in range(len(low))])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)


def test_no_sample_leaves_the_bounds_of_pooling():
    draw = np.random.default_rng(7)
    nodes = [node("MaxPool", "x", "p", kernel_shape=[3], strides=[2], pads=[1, 1]), node("Flatten", "p", "f")]
    model = made([*nodes, node("MatMul", "f w", "y")], {"x": (1, 2, 7)}, {"w": draw.normal(size=(8, 2))})
    read, (low, high) = read_network(model.SerializeToString()), boxes(draw, 30, 14)
    found = output_planes(read, low, high)
    for _ in range(50):
        x = low + (high - low) * draw.random(low.shape)
        both = np.concatenate([read.values(x), -read.values(x)], 1)
        assert (found.least <= both + 1e-12).all()
        assert ((found.slopes @ x[..., None])[..., 0] + found.constant <= both + 1e-12).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_numbers_of_a_leaf_are_sound(name: str):
    """Splits, slopes, multipliers and weights by chance: no input that meets the splits is below the bound."""
    kind = name if name in KINDS else "relu"
    read, draw = read_network(network(kind, 3, 5).SerializeToString()), np.random.default_rng(8)
    low, high = boxes(draw, 1, 3)
    rows, offsets = draw.normal(size=(2, 2)), draw.normal(size=2)
    goal = Goal(read, [UnsafeSet(low[0], high[0], np.zeros((2, 3)), rows, offsets, {})])
    values, total = hidden_values(read, low + (high - low) * draw.random((4000, 3))), 11
    for _ in range(20):
        chosen, at = draw.random(total) < 0.3, values[0][draw.integers(4000)]
        below = chosen & (draw.random(total) < 0.5)
        lower, upper = np.where(chosen & ~below, at, -np.inf), np.where(below, at, np.inf)
        multiplier = np.where(chosen, np.where(below, 1.0, -1.0) * draw.exponential(size=total), 0.0)
        lost = np.where(chosen, multiplier * at, 0.0)
        slopes = draw.random((2, total))
        leaf = SplitLeaves(*(part[None] for part in (lower, upper, multiplier, lost, draw.random(2), *slopes)))
        (bound,), _ = goal.weighted(leaf)
        met = ((values[0] >= lower) & (values[0] <= upper)).all(1)
        excess = (values[1] @ rows.T - offsets) @ leaf.weights[0]
        assert (excess[met] >= bound - 1e-12).all()


def hidden_values(read: Network, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values in front of all functions of one variable, and the outputs."""
    ends = [read.nodes[place].parents[0] for place in read.functions]
    front = [Network(read.nodes[: end + 1]).values(x) for end in ends]
    return np.concatenate(front, 1), read.values(x)


def exact_outputs(layers: list[Any], x: list[Fraction], *, rectified: bool) -> list[Fraction]:
    """The outputs of a network in fractions."""
    for place, (weight, bias) in enumerate(layers):
        x = [
            sum((Fraction(float(w)) * v for w, v in zip(column, x, strict=True)), Fraction(float(b)))
            for column, b in zip(weight.T, bias, strict=True)
        ]
        x = [max(v, Fraction(0)) for v in x] if rectified and place < len(layers) - 1 else x
    return x


@pytest.mark.parametrize("scale", [1.0, 2.0**25])
@pytest.mark.parametrize("rectified", [False, True])
def test_rounding_never_decides(rectified: bool, scale: float):
    """Numbers that cancel: without its errors, a bound would be above the exact value about every other time."""
    failures = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        layers = [(draw.normal(size=pair), draw.normal(size=pair[1])) for pair in ((3, 4), (4, 4), (4, 1))]
        layers[0] = layers[0][0], layers[0][1] * scale
        layers[1] = layers[1][0], layers[1][1] - np.maximum(layers[0][1], 0) @ layers[1][0]
        layers = [tuple(part.astype(np.float32) for part in layer) for layer in layers]
        constants = {f"{n}{i}": part for i, layer in enumerate(layers) for n, part in zip("wb", layer, strict=True)}
        between = "Relu" if rectified else "Identity"
        nodes = [node("Gemm", "x w0 b0", "a"), node(between, "a", "c"), node("Gemm", "c w1 b1", "d")]
        nodes += [node(between, "d", "e"), node("Gemm", "e w2 b2", "y")]
        read = read_network(made(nodes, {"x": (1, 3)}, constants).SerializeToString())
        point = draw.normal(size=(1, 3))
        found = output_planes(read, point, point)
        (value,) = exact_outputs(layers, [Fraction(v) for v in point[0].tolist()], rectified=rectified)
        assert Fraction(float(found.least[0, 0])) <= value <= -Fraction(float(found.least[0, 1]))
        failures += not Fraction(float(read.values(point)[0, 0])) <= value
    assert failures > 2  # the twin: values without errors are above it


def test_affine_networks_are_exact_up_to_rounding():
    """The closed form: a linear function of a box."""
    draw = np.random.default_rng(0)
    weight, bias = draw.normal(size=(5, 3)).astype(np.float32), draw.normal(size=3).astype(np.float32)
    model = made([node("Gemm", "x w b", "y")], {"x": (1, 5)}, {"w": weight, "b": bias})
    low, high = boxes(draw, 4, 5)
    least = output_planes(read_network(model.SerializeToString()), low, high).least[:, :3]
    wide = weight.astype(np.float64)
    expected = low @ np.maximum(wide, 0) + high @ np.minimum(wide, 0) + bias
    assert (least <= expected).all()
    np.testing.assert_allclose(least, expected, rtol=1e-13)


# ------------------------------------------------------------------------------------------------------------ functions


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 30.0, 1e4])
def test_lines_with_any_slope_hold(name: str, size: float):
    """Sampled in extended precision, at places that include both ends and the neighbourhood of turning points."""
    function, draw = FUNCTIONS[name], np.random.default_rng(4)
    low = draw.normal(size=(1, 300)) * size
    high = low + np.abs(draw.normal(size=(1, 300))) * size
    slopes = [function.default_slopes(low, high)] + [tuple(draw.uniform(-0.2, 1.2, (2, 1, 300))) for _ in range(4)]
    for pair in slopes:
        lines = function.lines(low, high, pair)
        for x in points(function, low, high, pair):
            value, at = exact(name, x), x.astype(np.longdouble)
            slack = 1e-18 * (np.abs(value) + np.abs(lines.upper_slope * at))
            assert (lines.lower_slope * at + lines.lower <= value + slack).all()
            assert (value <= lines.upper_slope * at + lines.upper + slack).all()


def points(function: Function, low: np.ndarray, high: np.ndarray, slopes: Any) -> list[np.ndarray]:
    inside = [low + (high - low) * share for share in np.linspace(0, 1, 41)]
    turning = [place for slope in slopes for place, _ in function.turning_points(low, high, slope)]
    return [np.clip(x, low, high) for x in inside + [t * (1 + e) for t in turning for e in (0, 1e-9, -1e-9, 1e-7)]]


def exact(name: str, x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.longdouble)
    if name == "sigmoid":
        return np.exp(np.minimum(wide, 0)) / (1 + np.exp(-np.abs(wide)))
    if name == "tanh":
        return np.tanh(wide)
    return np.where(wide > 0, wide, FUNCTIONS[name].negative_slope * wide)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_default_lines_touch_the_function(name: str):
    """Tightness: the larger of both gaps is at most the area between end points that any secant leaves."""
    function, draw = FUNCTIONS[name], np.random.default_rng(5)
    low, high = boxes(draw, 1, 200, 6.0)
    low = low * 3
    lines = function.lines(low, high, function.default_slopes(low, high))
    values = [exact(name, x) for x in points(function, low, high, ())]
    above = [
        lines.upper_slope * x + lines.upper - v for x, v in zip(points(function, low, high, ()), values, strict=True)
    ]
    below = [
        v - lines.lower_slope * x - lines.lower for x, v in zip(points(function, low, high, ()), values, strict=True)
    ]
    for gap in (above, below):
        assert (np.min(gap, 0) <= 0.02 * (1 + high - low)).all()


# ----------------------------------------------------------------------------------------------------------------- maps


def maps() -> dict[str, Map]:
    draw = np.random.default_rng(6)
    weight = draw.normal(size=(2, 3, 2, 3, 2))  # two groups of 3 outputs from 2 channels, 3 x 2 kernels
    convolution = Convolution(weight, (4, 7, 5), (2, 1), ((1, 0), (2, 1)), (1, 2))
    return {
        "selection": Selection(np.array([3, -1, 0, 3, 3, 2]), 4),
        "scale": Scale(draw.normal(size=5)),
        "right product": Product(draw.normal(size=(4, 3)), (2, 4)),
        "left product": Product(draw.normal(size=(3, 2)), (5, 2, 4), on_left=True),
        "batched product": Product(draw.normal(size=(5, 4, 3)), (5, 2, 4)),
        "convolution": convolution,
        "transposed": Transposed(convolution),
        "line": Convolution(draw.normal(size=(1, 3, 2, 4)), (2, 9), (3,), ((1, 2),), (1,)),
    }


@pytest.mark.parametrize("name", maps())
def test_backward_is_the_transpose_and_magnitudes_are_those_of_weights(name: str):
    map_ = maps()[name]
    size = {"selection": 4, "scale": 5, "right product": 8, "left product": 40, "batched product": 40}
    size |= {"convolution": 140, "line": 18}
    inputs = size.get(name) or maps()["convolution"].forward(np.zeros((1, 140))).shape[1]
    matrix = map_.forward(np.eye(inputs))
    np.testing.assert_allclose(map_.backward(np.eye(matrix.shape[1])), matrix.T, atol=1e-15)
    np.testing.assert_allclose(map_.magnitude().forward(np.eye(inputs)), np.abs(matrix), atol=1e-15)
    counts = (matrix != 0).sum(0).max(), (matrix != 0).sum(1).max()
    assert map_.terms.forward >= counts[0] or name == "selection"
    assert map_.terms.backward >= counts[1]
