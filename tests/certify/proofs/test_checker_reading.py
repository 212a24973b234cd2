"""What the checker reads: networks against onnxruntime, properties against the other reader."""

from typing import Any

import numpy as np
import pytest
from oracles.onnx_models import Case, made, node
from oracles.vnnlib_formulas import in_version_2, stated

import bounds
from certify.proofs.bounding import intervals
from certify.proofs.errors import ProofError, Unreadable
from certify.proofs.networks.reading import read_network
from certify.proofs.properties import Property, read_property
from certify.verification.proving.recording import ProofRecord, _is_same

DRAW = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def slicing(start: int, end: int) -> dict[str, np.ndarray]:
    """Constants of a slice that goes back along the second dimension."""
    return dict(zip("seat", map(whole, (start, end, 1, -1)), strict=True))


CASES = [
    Case("Gemm", (1, 4), (drawn(3, 4), drawn(3)), attributes={"transB": 1, "alpha": 0.3, "beta": 1.7}),
    Case("Gemm", (4, 1), (drawn(4, 3), drawn(1, 3)), attributes={"transA": 1}),
    Case("MatMul", (1, 2, 4), (drawn(4, 3),)),
    Case("MatMul", (1, 2, 4, 3), (drawn(2, 3, 5),)),
    Case("MatMul", (1, 4, 3), (drawn(2, 4),), first=False),
    Case("MatMul", (4,), (drawn(4, 3),)),
    Case("MatMul", (1, 4), (drawn(4),)),
    Case("Add", (1, 3), (drawn(2, 1),)),
    Case("Sub", (1, 3), (drawn(3),)),
    Case("Sub", (1, 3), (drawn(3),), first=False),
    Case("Mul", (1, 3, 1), (drawn(3, 2),)),
    Case("Div", (1, 3), (drawn(3) + 3,)),
    Case("Neg", (1, 3)),
    Case("Conv", (1, 2, 7, 6), (drawn(4, 2, 3, 2), drawn(4)), attributes={"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    Case("Conv", (1, 4, 7, 7), (drawn(6, 2, 2, 2),), attributes={"group": 2, "dilations": [2, 3]}),
    Case("Conv", (1, 2, 9), (drawn(3, 2, 3),), attributes={"auto_pad": "SAME_UPPER", "strides": [2]}),
    Case("Conv", (1, 2, 8), (drawn(3, 2, 4),), attributes={"auto_pad": "SAME_LOWER"}),
    Case("ConvTranspose", (1, 4, 4, 3), (drawn(4, 2, 3, 3), drawn(4)), attributes={"strides": [2, 1], "group": 2}),
    Case(
        "ConvTranspose",
        (1, 2, 4),
        (drawn(2, 3, 3),),
        attributes={"strides": [2], "output_padding": [1], "pads": [1, 1]},
    ),
    Case("AveragePool", (1, 2, 5, 6), attributes={"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
    Case("AveragePool", (1, 2, 6), attributes={"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1}),
    Case("AveragePool", (1, 2, 6), attributes={"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    Case("GlobalAveragePool", (1, 2, 3, 4)),
    Case("MaxPool", (1, 2, 5, 6), attributes={"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 0]}),
    Case("MaxPool", (1, 2, 7), attributes={"kernel_shape": [3], "dilations": [2], "strides": [2]}),
    Case("MaxPool", (1, 1, 6, 6), attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("BatchNormalization", (1, 3, 2, 2), (drawn(3), drawn(3), drawn(3), np.abs(drawn(3)) + 0.1)),
    Case("ReduceMean", (1, 2, 3, 4), opset=13, attributes={"axes": [1, -1], "keepdims": 0}),
    Case("ReduceMean", (1, 2, 3), (whole(2),), opset=18),
    Case("ReduceSum", (1, 2, 3), (whole(1),), opset=13),
    Case("Flatten", (1, 2, 3), attributes={"axis": 2}),
    Case("Reshape", (1, 2, 6), (whole(1, 3, -1),)),
    Case("Transpose", (1, 2, 3), attributes={"perm": [2, 0, 1]}),
    Case("Squeeze", (1, 1, 3), (whole(1),)),
    Case("Unsqueeze", (1, 3), opset=11, attributes={"axes": [0, 2]}),
    Case("Slice", (1, 5, 6), (whole(1, 5), whole(4, 0), whole(1, 2), whole(1, -2))),
    Case("Gather", (1, 4, 3), (whole(3, 0, 3),), attributes={"axis": 1}),
    Case("Split", (1, 5), (whole(2, 3),), attributes={"axis": 1}, outputs=2),
    Case("Concat", (1, 2), (drawn(1, 3), drawn(1, 1)), attributes={"axis": 1}),
    Case("Expand", (1, 1, 3), (whole(1, 2, 3),)),
    Case("Tile", (1, 3), (whole(1, 2),)),
    Case("Pad", (1, 3), (whole(0, 1, 0, 2), np.float32(0.5))),
    Case("Pad", (1, 2, 3), opset=10, attributes={"pads": [0, 0, 1, 0, 0, 2], "value": -0.25}),
    Case("Pad", (1, 2, 4), (whole(0, 0, 1, 0, 0, 2),), attributes={"mode": "reflect"}),
    Case("Identity", (1, 3)),
    Case("Dropout", (1, 3), (np.float32(0.5),), opset=13),
    Case("Cast", (1, 3), attributes={"to": 1}),
    Case("Relu", (1, 3)),
    Case("LeakyRelu", (1, 3), attributes={"alpha": 0.2}),
    Case("Sigmoid", (1, 3)),
    Case("Tanh", (1, 3)),
    Case("DepthToSpace", (1, 4, 2, 2), attributes={"blocksize": 2}),
]


def agrees(model: Any) -> None:
    """Values as onnxruntime has them, and intervals that hold these."""
    runtime = pytest.importorskip("onnxruntime", reason="the second implementation")
    content = model.SerializeToString()
    session, read = runtime.InferenceSession(content, providers=["CPUExecutionProvider"]), read_network(content)
    draw = np.random.default_rng(1)
    x = draw.uniform(-2, 2, (5, read.nodes[0].size)).astype(np.float32)
    found = read.values(x.astype(np.float64))
    radius = 0.1
    known = intervals(read, x - np.float64(radius), x + np.float64(radius))
    for row in range(len(x)):
        for point, exact in ((x[row], True), (x[row] + radius * draw.uniform(-1, 1, len(x[row])), False)):
            given, start = {}, 0
            for each in session.get_inputs():
                size = int(np.prod(each.shape))
                given[each.name] = point[start : start + size].reshape(each.shape).astype(np.float32)
                start += size
            answer = np.concatenate([np.ravel(each) for each in session.run(None, given)])
            if exact:
                np.testing.assert_allclose(found[row], answer, rtol=2e-5, atol=2e-5)
            assert (known.low[-1][row] - 1e-4 <= answer).all()
            assert (answer <= known.high[-1][row] + 1e-4).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_are_those_of_onnxruntime(case: Case):
    agrees(case.model())


def test_several_inputs_outputs_and_constants_of_shapes():
    nodes = [node("Shape", "a", "s"), node("Reshape", "b s", "r"), node("Add", "a r", "y0"), node("Mul", "c d", "e")]
    nodes += [node("Sub", "y0 a", "h"), node("MatMul", "h e", "y1")]
    constants = {"c": drawn(4, 2), "d": drawn(2)}
    agrees(made(nodes, {"a": (1, 4), "b": (4,)}, constants, outputs=["y0", "y1"]))


REFUSED = {
    "Softmax": ([node("Softmax", "x", "y")], {}, "operator Softmax (node 'y') is not one that proofs know"),
    "product": ([node("Mul", "x x", "y")], {}, "combines two numbers"),
    "quotient": ([node("Div", "c x", "y")], {"c": drawn(3)}, "depends on the network's input"),
    "training": ([node("Dropout", "x r t", "y")], {"r": np.float32(0.5), "t": np.array(True)}, "training mode"),
    "rounding": ([node("Cast", "x", "y", to=10)], {}, "rounds them"),
    "weights": ([node("MatMul", "x c", "y")], {"c": drawn(2, 3, 3)}, "wider by broadcasting"),
    "shape": ([node("MatMul", "x c", "y")], {"c": drawn(4, 4)}, "does not fit its inputs"),
    "steep": ([node("LeakyRelu", "x", "y", alpha=-1.0)], {}, "outside of [0, 1]"),
    "zero": ([node("Div", "x c", "y")], {"c": np.zeros(3)}, "divides by 0"),
    "from double": ([node("Cast", "x", "h", to=11), node("Cast", "h", "y", to=1)], {}, "rounds them"),
    "back to the end": ([node("Slice", "x s e a t", "y")], slicing(2, 2**63 - 1), "read in different ways"),
    "back from outside": ([node("Slice", "x s e a t", "y")], slicing(-5, -9), "read in different ways"),
}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("BatchNormalization", (1, 3, 2), (drawn(3),) * 4, opset=9, outputs=5), "in training mode"),
        (Case("MaxPool", (1, 1, 2), opset=7, attributes={"kernel_shape": [3]}), "larger than its input"),
        (Case("Conv", (1, 1, 5), (drawn(1, 1, 3),), attributes={"dilations": [3]}), "larger than its input"),
        (
            Case("AveragePool", (1, 1, 8), attributes={"kernel_shape": [1], "strides": [3], "auto_pad": "SAME_LOWER"}),
            "between windows",
        ),
        (
            Case("MaxPool", (1, 1, 6), attributes={"kernel_shape": [3], "dilations": [2], "auto_pad": "SAME_UPPER"}),
            "dilations",
        ),
        (Case("Add", (1, 3, 3), (drawn(3),), opset=6, attributes={"axis": 1, "broadcast": 1}), "uses opset 6"),
    ],
    ids=str,
)
def test_what_runtimes_read_in_another_way_is_refused(case: Case, message: str):
    model = case.model()
    del model.graph.output[1:]  # what nothing uses still says how the node computes
    with pytest.raises(Unreadable, match=message):
        read_network(model.SerializeToString())


def test_networks_on_integers_are_refused_as_they_divide_in_another_way():
    nodes = [node("Div", "x c", "d"), node("Cast", "d", "y", to=1)]
    model = made(nodes, {"x": (1, 3)}, {"c": np.array(2)})
    model.graph.input[0].type.tensor_type.elem_type = 7
    with pytest.raises(Unreadable, match="takes 'int64', which are no real numbers"):
        read_network(model.SerializeToString())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named_in_one_line(name: str):
    nodes, constants, message = REFUSED[name]
    with pytest.raises(Unreadable) as refused:
        read_network(made(nodes, {"x": (1, 3)}, constants).SerializeToString())
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "(declare-const X_a Real)",
        "(declare-network f (declare-input X Real[a]))",
        "(declare-network f (declare-input X Real[-3]))",
        "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= Y_0 " + "9" * 5000 + "))",
    ],
    ids=["name", "size", "negative", "digits"],
)
def test_properties_with_words_in_place_of_numbers_are_refused(text: str):
    with pytest.raises(Unreadable, match="the property is damaged"):
        read_property(text.encode())


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x1f\x8bnothing"])
def test_damaged_files_are_refused(content: bytes):
    for read in (read_network, read_property):
        with pytest.raises(ProofError):
            read(content)


# ----------------------------------------------------------------------------------------------------------- properties

TEXTS = {
    "or": "(or (<= Y_0 Y_1) (<= Y_0 Y_2) (and (>= Y_0 0.5) (< Y_1 0.25)))",
    "three ors": "(and (or (<= Y_2 Y_0) (<= Y_2 Y_1)) (or (<= Y_1 Y_0) (<= Y_1 Y_2)) (or (> Y_0 0) (< Y_2 0)))",
    "inputs in or": "(or (and (<= X_0 0.5) (>= X_1 0) (<= Y_0 0)) (and (>= X_0 -0.5) (>= Y_0 0)))",
    "mixed": "(<= (- Y_0 X_0) (* 2 X_1))",
    "not": "(not (or (<= Y_0 0) (and (< Y_1 0.5) (>= Y_2 0))))",
    "implies": "(=> (<= X_0 0) (<= Y_0 0) (<= Y_1 0))",
    "chain": "(not (<= -0.5 Y_0 Y_1 0.5))",
    "equal": "(or (= Y_0 Y_1) (!= Y_0 0.5))",
    "strict": "(and (< Y_0 Y_1) (> X_0 0))",
    "terms": "(<= (+ (* 2 Y_0 0.5) (- Y_1) (- 3 Y_2 0.5 (* -1 X_0)) (/ X_1 4)) (- (* (+ 1 1) Y_1) 1e-1 -.5E0 +1.))",
    "always": "(or (<= 0 1) (<= Y_0 0))",
    "never": "(or (< Y_0 Y_0) false)",
    "contradiction": "(and (<= Y_0 Y_1) (> Y_0 Y_1))",
    "outside": "(>= X_0 2)",
    "decimals": "(and (<= X_0 0.1) (<= (* 3 Y_0) 0.1))",
}


def unsafe(found: Property, x: np.ndarray, y: np.ndarray) -> list[bool]:
    from fractions import Fraction

    rows = np.concatenate([x, y], 1)
    return [any(each.holds([Fraction(v) for v in row]) for each in found.sets) for row in rows.tolist()]


@pytest.mark.parametrize("name", TEXTS)
def test_both_readers_read_the_same(name: str):
    import torch

    text = stated(2, 3, TEXTS[name])
    draw = np.random.default_rng(3)
    x, y = draw.integers(-5, 6, (300, 2)) / 4, draw.integers(-5, 6, (300, 3)) / 4
    for each in (text, in_version_2(text, 2, 3)):
        ours, theirs = read_property(each.encode()), bounds.read_vnnlib(each)
        assert unsafe(ours, x, y) == theirs.is_unsafe(torch.from_numpy(x), torch.from_numpy(y)).tolist()
        sets = list(ours.sets)
        for box in theirs.boxes:  # and each case has its unsafe set, with the same outward sides
            low, high = box.outer_lower.numpy(), box.outer_upper.numpy()
            for case in box.cases:
                same = [s for s in sets if (s.low == low).all() and (s.high == high).all() and _is_same(s, case)]
                assert len(same) >= 1
        assert (len(sets) > 0) == (len(theirs.boxes) > 0)


@pytest.mark.parametrize(
    "text",
    [
        "(declare-const X_0 Real)",
        "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= Y_0 0))",
        "(declare-const X_1 Real) (declare-const Y_0 Real)",
        stated(1, 1, "(<= (* Y_0 Y_0) 1)"),
        stated(1, 1, "(<= Y_0 (/ 1 0))"),
        stated(1, 1, "(<= Y_7 1)"),
        stated(1, 1, "(like Y_0 1)"),
        stated(1, 1, "(<= Y_0 1)") + ")",
        "(" + stated(1, 1, "(<= Y_0 1)"),
        stated(1, 1) + "(minimise Y_0)",
    ],
)
def test_what_is_no_property_is_refused(text: str):
    with pytest.raises(Unreadable) as refused:
        read_property(text.encode())
    assert "\n" not in str(refused.value)


def test_sides_and_offsets_are_rounded_outward():
    text = "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= 0.1 X_0 0.7)) (assert (<= (* 10 Y_0) 7))"
    (found,) = read_property(text.encode()).sets
    from fractions import Fraction

    assert Fraction(float(found.low[0])) < Fraction(1, 10) < Fraction(float(np.nextafter(found.low[0], 1)))
    assert Fraction(float(found.high[0])) >= Fraction(7, 10) > Fraction(float(np.nextafter(found.high[0], 0)))
    assert Fraction(float(found.offsets[0])) >= Fraction(7, 10)
    assert found.on_outputs.tolist() == [[1.0]]


def test_a_property_of_another_network_is_refused(tmp_path: Any):
    (tmp_path / "net.onnx").write_bytes(made([node("Relu", "x", "y")], {"x": (1, 3)}).SerializeToString())
    (tmp_path / "a.vnnlib").write_text(stated(2, 3, "(<= Y_0 0)"))
    with pytest.raises(Unreadable, match="has 2 inputs and 3 outputs"):
        ProofRecord(tmp_path / "net.onnx", tmp_path / "a.vnnlib", "rounding")
