"""Chains of constants, conditions, and changes of type, as exporters write them."""

from typing import Any

import numpy as np
import pytest
import torch
from oracles.onnx_models import agrees, inputs_of, made, node, onnx

import bounds
from bounds import UnsupportedLayer

FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def test_a_shape_that_is_computed_is_a_constant():
    """Shape, Gather, Unsqueeze, Concat, Reshape: flattening as an older exporter writes it."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axes", "ns"),
        node("Concat", "ns rest", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    for shape in (("N", 2, 3, 4), (1, 2, 3, 4)):
        agrees(made(nodes, {"x": shape}, constants))


def test_a_class_token_is_put_in_front_of_every_input():
    nodes = [
        node("Shape", "x", "s", start=0, end=1),
        node("Concat", "s ones", "target", axis=0),
        node("ConstantOfShape", "three", "filled", value=onnx.helper.make_tensor("v", INT64, [1], [1])),
        node("Mul", "filled minus", "minus_ones"),
        node("Equal", "target minus_ones", "same"),
        node("Where", "same filled target", "size"),
        node("Expand", "token size", "tokens"),
        node("Concat", "tokens x", "y", axis=1),
    ]
    constants = {
        "ones": np.array([-1, -1]),
        "three": np.array([3]),
        "minus": np.array(-1),
        "token": np.arange(4.0).reshape(1, 1, 4),
    }
    agrees(made(nodes, {"x": ("N", 3, 4)}, constants))


def test_positions_from_a_range_and_a_table():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s one", "n"),
        node("Range", "zero n step", "places"),
        node("Gather", "table places", "positions"),
        node("Add", "x positions", "z"),
        node("Size", "x", "count"),
        node("Cast", "count", "real", to=FLOAT),
        node("Div", "z real", "w"),
        node("OneHot", "places depth values", "hot"),
        node("MatMul", "hot w", "y"),
    ]
    constants = {"one": np.array(1), "zero": np.array(0), "step": np.array(1), "depth": np.array(5)}
    constants |= {"table": np.arange(24.0).reshape(6, 4), "values": np.array([0.0, 2.0])}
    agrees(made(nodes, {"x": (1, 5, 4)}, constants))


@pytest.mark.parametrize("operator", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"])
def test_a_choice_by_a_condition_on_the_input(operator: str):
    nodes = [node(operator, "x limit", "c"), node("Where", "c x other", "y")]
    agrees(made(nodes, {"x": (1, 6)}, {"limit": np.array(0.3), "other": np.array([2.0])}))


def test_conditions_are_combined_and_counted():
    nodes = [
        node("Greater", "x low", "a"),
        node("Less", "x high", "b"),
        node("And", "a b", "both"),
        node("Or", "a b", "either"),
        node("Not", "both", "outside"),
        node("Cast", "outside", "number", to=FLOAT),
        node("Cast", "either", "other", to=FLOAT),
        node("Add", "number other", "y"),
    ]
    agrees(made(nodes, {"x": (2, 3)}, {"low": np.array(-0.5), "high": np.array(0.7)}))


@pytest.mark.parametrize("target", [INT64, BOOL, onnx.TensorProto.INT32])
def test_rounding_to_integers_and_back(target: int):
    nodes = [node("Cast", "x", "i", to=target), node("Cast", "i", "y", to=FLOAT)]
    agrees(made(nodes, {"x": (1, 6)}))


def test_a_quotient_of_integers_from_the_input_is_refused():
    """It rounds towards 0, which a quotient of real numbers does not."""
    nodes = [node("Cast", "x", "i", to=INT64), node("Div", "i two", "h"), node("Cast", "h", "y", to=FLOAT)]
    with pytest.raises(UnsupportedLayer, match=r"operator Div .* takes integers that are computed from the input"):
        bounds.from_onnx(made(nodes, {"x": (1, 6)}, {"two": np.array(2)}))


@pytest.mark.parametrize("attribute", [{"value_float": 2.5}, {"value_floats": [1.0, 2.0]}])
def test_constants_may_stand_in_nodes(attribute: dict[str, Any]):
    agrees(made([node("Constant", "", "c", **attribute), node("Mul", "x c", "y")], {"x": (3, 2)}))


def test_several_inputs_and_outputs_are_flat_and_in_the_order_of_the_file():
    nodes = [node("MatMul", "b weight", "h"), node("Add", "a h", "first"), node("Relu", "b", "second")]
    model = made(nodes, {"a": (1, 3), "b": (2, 4)}, {"weight": np.ones((4, 3))}, outputs=("first", "second"))
    agrees(model)
    graph = bounds.from_onnx(model)
    assert graph.input_shape == (11,)
    told = [(port.name, port.shape, port.start, port.end) for port in (*graph.inputs, *graph.outputs)]
    assert told == [
        ("a", (1, 3), 0, 3),
        ("b", (2, 4), 3, 11),
        ("first", (2, 3), 0, 6),
        ("second", (2, 4), 6, 14),
    ]


def test_an_output_that_no_input_moves_is_repeated():
    nodes = [node("Constant", "", "first", value_floats=[1.0, 2.0]), node("Relu", "x", "second")]
    agrees(made(nodes, {"x": (1, 3)}, outputs=("first", "second")))
    agrees(made(nodes[:1], {"x": (1, 3)}, outputs=("first",)))


@pytest.mark.parametrize(
    ("shape", "expected"), [(("N", 5), (5,)), ((1, 5), (5,)), ((5,), (5,)), ((2, 5), (2, 5)), ((1,), (1,))]
)
def test_the_batch_dimension_is_the_first_that_is_open_or_one(shape: tuple, expected: tuple):
    graph = bounds.from_onnx(made([node("Relu", "x", "y")], {"x": shape}))
    assert graph.input_shape == expected
    assert graph.module()(inputs_of(graph, 4)).shape == (4, int(np.prod(expected)))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_weights_keep_the_type_of_the_file(dtype: str):
    kind = {"float64": onnx.TensorProto.DOUBLE, "float16": onnx.TensorProto.FLOAT16}[dtype]
    weight = onnx.numpy_helper.from_array(np.eye(3, 2).astype(dtype), "w")
    given = onnx.helper.make_tensor_value_info("x", kind, (1, 3))
    result = onnx.helper.make_tensor_value_info("y", kind, None)
    graph = onnx.helper.make_graph([node("MatMul", "x w", "y")], "g", [given], [result], [weight])
    found = bounds.from_onnx(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    assert found.module().onnx_w.dtype == getattr(torch, dtype)
    ball = bounds.LpBall(torch.rand(2, 3, dtype=torch.float64), 0.1)
    assert bounds.crown(found, ball).lower.shape == (2, 2)
