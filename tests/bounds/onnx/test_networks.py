"""Whole networks as exporters write them: values, rows, bounds, and their use as a module."""

import io
import math
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.onnx_models import agrees, inputs_of, made, node
from torch import Tensor, nn

import bounds
import certify
from bounds import InvalidInput


def drawn(*shape: int) -> np.ndarray:
    values = np.random.default_rng(shape).normal(size=shape)
    return (values / math.sqrt(math.prod(shape[1:]) or 1)).astype(np.float32)


def acas() -> Any:
    """Five inputs, six layers of 50, inputs (1, 1, 1, 5); Sub and Flatten in front, MatMul and Add apart."""
    nodes, constants = (
        [node("Sub", "x mean", "centred"), node("Flatten", "centred", "h0", axis=1)],
        {"mean": drawn(1, 1, 1, 5)},
    )
    sizes = [5, *[50] * 6, 5]
    for i, (old, new) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        constants |= {f"w{i}": drawn(old, new) * 2, f"b{i}": drawn(new)}
        nodes += [node("MatMul", f"h{i} w{i}", f"p{i}"), node("Add", f"p{i} b{i}", "y" if last else f"a{i}")]
        nodes += [] if last else [node("Relu", f"a{i}", f"h{i + 1}")]
    return made(nodes, {"x": (1, 1, 1, 5)}, constants, opset=8)


def channels_last() -> Any:
    """TensorFlow's order of dimensions: Transpose around Conv, Reshape to [-1, n]."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t k", "c", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Transpose", "c", "back", perm=[0, 2, 3, 1]),
        node("Add", "back shift", "s"),
        node("Relu", "s", "r"),
        node("Reshape", "r size", "flat"),
        node("MatMul", "flat w", "m"),
        node("Add", "m b", "y"),
    ]
    constants = {
        "k": drawn(3, 2, 3, 3),
        "shift": drawn(3),
        "size": np.array([-1, 36]),
        "w": drawn(36, 4),
        "b": drawn(4),
    }
    return made(nodes, {"x": ("unk__6", 6, 8, 2)}, constants, opset=9)


def generator_network() -> Any:
    """A conditional generator: the input is taken apart, images grow by ConvTranspose and BatchNormalization."""
    nodes = [
        node("Slice", "x z0 z4 one", "noise"),
        node("Gather", "x four", "condition", axis=1),
        node("MatMul", "noise w", "h"),
        node("Unsqueeze", "condition one", "c2"),
        node("Mul", "h c2", "scaled"),
        node("Reshape", "scaled size", "image"),
        node("ConvTranspose", "image k", "up", strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[4, 4]),
        node("BatchNormalization", "up scale shift mean variance", "n"),
        node("LeakyRelu", "n", "r", alpha=0.2),
        node("Resize", "r none factors", "large", mode="nearest"),
        node("Conv", "large k2", "small", kernel_shape=[3, 3], strides=[2, 2]),
        node("Tanh", "small", "t"),
        node("ReduceMean", "t", "pooled", axes=[2, 3], keepdims=0),
        node("Sigmoid", "pooled", "y"),
    ]
    constants = {"z0": np.array([0]), "z4": np.array([4]), "one": np.array([1]), "four": np.array(4), "w": drawn(4, 18)}
    constants |= {"size": np.array([-1, 2, 3, 3]), "k": drawn(2, 3, 4, 4), "k2": drawn(2, 3, 3, 3), "none": np.zeros(0)}
    constants |= {"scale": np.ones(3), "shift": drawn(3), "mean": drawn(3), "variance": np.ones(3) * 0.7}
    return made(nodes, {"x": (1, 5)}, constants | {"factors": np.array([1, 1, 2, 2.0])}, opset=13)


def batch_first_fixed() -> Any:
    """An MNIST network with the batch fixed to 1 in its reshapes, scaled pixels, sigmoids."""
    nodes = [
        node("Div", "x most", "d"),
        node("Reshape", "d size", "flat"),
        node("Gemm", "flat w0 b0", "p", transB=1),
        node("Sigmoid", "p", "h"),
        node("Gemm", "h w1 b1", "y", transB=1),
    ]
    constants = {"most": np.array(2.0), "size": np.array([1, 16]), "w0": drawn(6, 16), "b0": drawn(6)}
    return made(nodes, {"x": (1, 1, 4, 4)}, constants | {"w1": drawn(3, 6), "b1": drawn(3)})


NETWORKS: dict[str, Callable[[], Any]] = {
    "acas": acas,
    "channels last": channels_last,
    "generator": generator_network,
    "fixed batch": batch_first_fixed,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_like_onnxruntime(name: str):
    agrees(NETWORKS[name](), low=-1.0, high=1.0)


class Residual(nn.Module):
    """Two convolutions with batch normalisation, and a way around them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.around, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.stem(x).relu())
        h = (self.body(h) + self.around(h)).relu()
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


class Transformer(nn.Module):
    """Patches, a class token, positions, one block of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 8)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8) / 4)
        self.norm, self.other = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), h], 1) + self.place
        size = (h.shape[0], h.shape[1], 3, 2, 4)
        query, key, value = self.qkv(self.norm(h)).reshape(size).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        h = h + self.out((shares @ value).transpose(1, 2).reshape(h.shape))
        return self.head((h + self.down(F.gelu(self.up(self.other(h)))))[:, 0])


def exported(model: nn.Module, x: Tensor, dynamic: bool) -> bytes:
    """The file that torch writes for a model; where this torch has no exporter without further packages, skipped."""
    file = io.BytesIO()
    axes = {"x": {0: "batch"}} if dynamic else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes)
    except Exception as error:  # another exporter, which wants another package
        pytest.skip(f"torch.onnx.export: {error}")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("make", [Residual, Transformer])
def test_a_file_that_torch_wrote_is_the_network_that_it_was(make: Callable[[], nn.Module], dynamic: bool):
    model = make().eval()
    x = torch.rand(2, 3, 8, 8)
    file = exported(model, x[:1], dynamic)
    agrees(file, low=0.0, high=1.0)
    graph = bounds.from_onnx(file)
    torch.testing.assert_close(graph.module()(x), model(x).detach())
    ball = bounds.LpBall(x, 1e-3)
    for method in (bounds.ibp, bounds.crown):
        ours, captured = method(graph, ball), method(model, ball)
        torch.testing.assert_close(ours.lower, captured.lower, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(ours.upper, captured.upper, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_input_never_depends_on_the_others(name: str):
    """The others become NaN, which no arithmetic hides."""
    graph = bounds.from_onnx(NETWORKS[name]())
    x = inputs_of(graph, 4)
    alone = x.clone()
    alone[1:] = torch.nan
    torch.testing.assert_close(graph.module()(alone)[0], graph.module()(x)[0], rtol=0, atol=0)


@pytest.mark.slow
def test_every_kind_of_bound_takes_the_graph():
    graph = bounds.from_onnx(acas())
    x = inputs_of(graph, 2, seed=3).double()
    ball, labels = bounds.LpBall(x, 0.01, low=None, high=None), torch.tensor([0, 2])
    intervals = [method(graph, ball) for method in (bounds.ibp, bounds.crown_ibp, bounds.fast_lin, bounds.crown)]
    intervals += [bounds.alpha_crown(graph, ball, steps=3), bounds.forward_linear(graph, ball)]
    value = graph.module().double()(x)
    assert all(((each.lower <= value) & (value <= each.upper)).all() for each in intervals)
    assert bounds.margin_bounds(graph, ball, labels).shape == (2, 5)
    unsafe = [(torch.eye(5)[:1].double(), torch.tensor([-1e3]).double())]
    assert (bounds.specification_bounds(graph, ball, unsafe, method="crown") > 0).all()
    assert "aten.linear.default" in str(bounds.explain(graph, x))
    assert "operator Add, node 'y'" in str(bounds.explain(graph, x))


@pytest.mark.slow
def test_nothing_is_exported_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.export, "export", None)
    graph = bounds.from_onnx(batch_first_fixed())
    x = inputs_of(graph, 2, 0.0, 1.0)
    ball = bounds.LpBall(x, 0.05)
    by_graph, by_module = bounds.crown(graph, ball), bounds.crown(graph.module(), ball)
    assert torch.equal(by_graph.lower, by_module.lower)
    labels = graph.module()(x).argmax(1)
    certificate = certify.certified_radius(graph.module(), x, labels, norm=math.inf)
    witness = certify.attacks.minimal_perturbation(graph.module(), x, labels, norm=math.inf)
    assert (certificate.radius > 0).all()
    assert (certificate.radius <= witness.distance).all()


@pytest.mark.slow
def test_an_export_of_the_module_has_the_same_bounds():
    """A second way to the graph: ``torch.export`` of the module, with a layer in front."""
    graph = bounds.from_onnx(batch_first_fixed())
    x = inputs_of(graph, 3, 0.0, 1.0)
    ball = bounds.LpBall(x, 0.05)
    behind = bounds.crown(nn.Sequential(nn.Identity(), graph.module()), ball)
    torch.testing.assert_close(behind.lower, bounds.crown(graph, ball).lower)


def test_gradients_reach_inputs_and_weights():
    network = bounds.from_onnx(batch_first_fixed()).module()
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    network.requires_grad_(True)
    network(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in network.parameters())


def test_weights_are_shared_with_the_graph_and_not_with_a_copy():
    graph = bounds.from_onnx(batch_first_fixed())
    x = torch.rand(2, 1, 4, 4)
    ball, network = bounds.LpBall(x, 0.05), graph.module()
    before, copy = bounds.crown(graph, ball), deepcopy(network).double()
    with torch.no_grad():
        network.onnx_b1.add_(1.0)
    torch.testing.assert_close(bounds.crown(graph, ball).lower, before.lower + 1)
    torch.testing.assert_close(bounds.crown(copy, ball).lower, before.lower)
    assert copy(x.double()).dtype == torch.float64


def test_inputs_of_another_shape_are_refused():
    """Rows would be taken for others if the file flattens by [-1, n]."""
    network = bounds.from_onnx(channels_last()).module()
    with pytest.raises(InvalidInput, match=r"x must have shape \(N, 6, 8, 2\), got \(2, 3, 8, 2\)"):
        network(torch.rand(2, 3, 8, 2))


@pytest.mark.slow
def test_reading_takes_a_small_part_of_the_time_of_an_export():
    """Both warm: the first export of a process takes seconds more."""
    model = acas()
    captured = nn.Sequential(nn.Flatten(), *(layer for _ in range(6) for layer in (nn.Linear(5, 5), nn.ReLU())))
    x = torch.rand(1, 1, 1, 5)

    def seconds(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    ours = min(seconds(lambda: bounds.from_onnx(model)) for _ in range(3))
    theirs = min(seconds(lambda: bounds.capture(captured, x)) for _ in range(3))
    assert ours < theirs / 2


def test_a_default_device_changes_nothing():
    model, x = generator_network(), torch.rand(2, 5)
    with torch.device("meta"):
        graph = bounds.from_onnx(model)
    ball = bounds.LpBall(x, 0.01)
    assert torch.equal(bounds.ibp(graph, ball).lower, bounds.ibp(bounds.from_onnx(model), ball).lower)
