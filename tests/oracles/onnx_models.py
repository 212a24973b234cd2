"""Small ONNX models, and onnxruntime as a second implementation of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bounds

onnx = pytest.importorskip("onnx", reason="reads ONNX files")


@dataclass(frozen=True, eq=False)
class Case:
    """One operator between a given input and the output, with constants as its further inputs; None leaves one out."""

    operator: str
    shape: tuple[int | str, ...]
    constants: tuple[Any, ...] = ()
    opset: int = 17
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    low: float = -2.0
    high: float = 2.0
    first: bool = True  # whether the data is the first input

    def __str__(self) -> str:
        shown = "".join(f"-{name}={value}" for name, value in self.attributes.items())
        return f"{self.operator}-{self.opset}-{self.shape}{shown}".replace(" ", "")

    def model(self) -> Any:
        names = [f"c{i}" if value is not None else "" for i, value in enumerate(self.constants)]
        given = ["x", *names] if self.first else [*names, "x"]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = onnx.helper.make_node(self.operator, given, outputs, name="tried", **self.attributes)
        constants = {name: value for name, value in zip(names, self.constants, strict=True) if name}
        return made([node], {"x": self.shape}, constants, outputs=outputs, opset=self.opset)


def made(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> Any:
    """A model of nodes, with stored constants; floating ones in float32."""
    tensors = []
    for name, value in (constants or {}).items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
    kind = onnx.TensorProto.FLOAT
    given = [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    results = [onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs]
    graph = onnx.helper.make_graph(list(nodes), "tried", given, results, initializer=tensors)
    versions = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=versions, ir_version=8)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node, of names with spaces between."""
    return onnx.helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def answers(model: Any, rows: Tensor, graph: bounds.Graph) -> Tensor:
    """Answers of onnxruntime, one input at a time, flat (N, K) like those of the graph."""
    runtime = pytest.importorskip("onnxruntime", reason="the second implementation")
    runtime.set_default_logger_severity(4)
    source = model if isinstance(model, bytes | str) else model.SerializeToString()
    session = runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
    found = []
    for row in rows.flatten(1).numpy():
        given = {port.name: row[port.start : port.end].reshape(port.shape) for port in graph.inputs}
        outputs = session.run([port.name for port in graph.outputs], given)
        for port, output in zip(graph.outputs, outputs, strict=True):
            assert np.shape(output) == port.shape
        found.append(np.concatenate([np.asarray(output, dtype=np.float32).ravel() for output in outputs]))
    return torch.from_numpy(np.stack(found))


def inputs_of(graph: bounds.Graph, count: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Tensor:
    """Random inputs of a graph, in float32."""
    drawn = torch.rand(count, *graph.input_shape, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * drawn


def agrees(model: Any, *, low: float = -2.0, high: float = 2.0, bounded: bool = True, operators: Any = None) -> None:
    """The graph of a model answers like onnxruntime, for several inputs as for one, and its bounds hold."""
    graph = bounds.from_onnx(model) if operators is None else bounds.from_onnx(model, operators=operators)
    x = inputs_of(graph, 3, low, high)
    expected = answers(model, x, graph)
    found = graph.module()(x)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5, equal_nan=True)
    torch.testing.assert_close(graph.module()(x[1:2]), found[1:2], rtol=1e-5, atol=1e-6, equal_nan=True)
    if not bounded:
        return
    ball = bounds.LpBall(x, 0.01, low=low - 0.1, high=high + 0.1)
    noise = torch.rand(3, 3, *graph.input_shape, generator=torch.Generator().manual_seed(1))
    points = ((x + 0.01 * (2 * noise - 1)).clamp(low - 0.1, high + 0.1)).flatten(0, 1)
    values = answers(model, points, graph).unflatten(0, (3, 3))
    for method in (bounds.ibp, bounds.crown):
        interval = method(graph, ball)
        size = 1e-4 * (1 + values.abs())
        assert ((interval.lower <= values + size) & (values - size <= interval.upper)).all()
        one = method(graph, bounds.LpBall(x[1:2], 0.01, low=low - 0.1, high=high + 0.1))
        torch.testing.assert_close(one.lower[0], interval.lower[1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.upper[0], interval.upper[1], rtol=1e-3, atol=1e-4)
