"""Every operator of ONNX, with attributes as files have them, against onnxruntime."""

from typing import Any

import numpy as np
import pytest
from oracles.onnx_models import Case, agrees

import bounds
from bounds.errors import BoundsError
from bounds.onnx.operators.table import OPERATORS


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def case(operator: str, shape: tuple, *constants: Any, opset: int = 17, **attributes: Any) -> Case:
    own = {name: attributes.pop(name) for name in ("outputs", "low", "high", "first") if name in attributes}
    return Case(operator, shape, constants, opset, attributes, **own)


ROWS, IMAGE = (1, 6), (1, 2, 5, 7)
SMOOTH = ["Abs", "Atan", "Cos", "Erf", "Exp", "HardSwish", "Neg", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Tanh"]
SMOOTH += [
    "Asinh",
    "Sinh",
    "Cosh",
    "Elu",
    "Celu",
    "LeakyRelu",
    "HardSigmoid",
    "Identity",
    "ThresholdedRelu",
    "Softsign",
]
STEPS = ["Ceil", "Floor", "Round", "Sign"]
POSITIVE = ["Log", "Sqrt", "Reciprocal", "Acosh"]
WITHIN = ["Acos", "Asin", "Atanh", "Tan"]
UNARY = [
    *(case(name, ROWS) for name in SMOOTH + STEPS),
    *(case(name, ROWS, low=1.2, high=3.0) for name in POSITIVE),
    *(case(name, ROWS, low=-0.7, high=0.7) for name in WITHIN),
    case("Elu", ("N", 6), alpha=0.5),
    case("Celu", ("N", 6), alpha=0.7),
    case("Selu", (6,), alpha=1.5, gamma=1.1),
    case("LeakyRelu", (2, 3), alpha=0.2),
    case("HardSigmoid", ROWS, alpha=0.3, beta=0.4),
    case("ThresholdedRelu", ROWS, alpha=0.3),
    case("Gelu", ROWS, opset=20),
    case("Gelu", ROWS, opset=20, approximate="tanh"),
    case("Mish", ROWS, opset=18),
    case("Shrink", ROWS, lambd=0.6),
    case("Shrink", ROWS, lambd=0.6, bias=0.6),
    case("Clip", ROWS, opset=7, min=-0.5, max=1.0),
    case("Clip", ROWS, opset=7),
    case("Clip", ROWS, np.float32(-0.5), np.float32(0.5)),
    case("Clip", ROWS, None, np.float32(0.5)),
    case("Dropout", ROWS, opset=7, ratio=0.4),
    case("Dropout", ROWS, opset=10),
    case("Dropout", ROWS, np.float32(0.4), np.array(False)),
    case("Dropout", ROWS, np.float32(0.0), np.array(True)),
    case("PRelu", IMAGE, np.abs(drawn(2, 1, 1)) / 3),
    case("PRelu", ROWS, np.abs(drawn(1, 6)) / 3),
    case("PRelu", (2, 3), np.abs(drawn(1)) / 3),
    case("PRelu", ROWS, np.array([[-0.3, 0.2, 0.4, 1.5, 0.0, 1.0]])),
    case("CumSum", ROWS, np.array(1)),
    case("CumSum", (3, 4), np.array(0)),
]
PAIRS = [
    *(case(name, ROWS, drawn(1, 6) + 3) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *(case(name, (5, 1), drawn(3) + 3, first=False) for name in ("Add", "Sub", "Mul", "Max")),
    case("Div", ROWS, drawn(1, 6), first=False, low=1.0, high=2.0),
    case("Add", IMAGE, drawn(2, 1, 1)),
    case("Mul", ("N", 2, 5, 7), drawn(7)),
    case("Sub", (1,), drawn(4)),
    case("Add", (), drawn(4)),
    case("Pow", ROWS, np.float32(2)),
    case("Pow", ROWS, np.float32(3)),
    case("Pow", ROWS, np.float32(0.5), low=1.0, high=2.0),
    case("Pow", ROWS, np.array([[2.0, 3, 2, 1, 2, 3]])),
    case("Pow", ROWS, np.float32(1.5), first=False),
    case("Mod", ROWS, np.float32(0.7), fmod=1),
]
LAYERS = [
    case("MatMul", ROWS, drawn(6, 4)),
    case("MatMul", ("N", 6), drawn(6, 4)),
    case("MatMul", (6,), drawn(6, 4)),
    case("MatMul", (3, 6), drawn(6, 4)),
    case("MatMul", (1, 3, 6), drawn(6, 4)),
    case("MatMul", (2, 3, 6), drawn(2, 6, 4)),
    case("MatMul", ROWS, drawn(6)),
    case("MatMul", (6,), drawn(6)),
    case("MatMul", (6,), drawn(4, 6), first=False),
    case("MatMul", (6, 2), drawn(4, 6), first=False),
    case("MatMul", (1, 6, 2), drawn(4, 6), first=False),
    case("MatMul", (6, 2), drawn(3, 4, 6), first=False),
    case("Gemm", ROWS, drawn(6, 4), drawn(4)),
    case("Gemm", ROWS, drawn(6, 4)),
    case("Gemm", ROWS, drawn(4, 6), drawn(1, 4), transB=1),
    case("Gemm", ROWS, drawn(4, 6), drawn(1, 4), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", ROWS, drawn(4, 6), drawn(1), transB=1, alpha=0.5),
    case("Gemm", (6, 3), drawn(6, 4), drawn(3, 1), transA=1),
    case("Gemm", (3, 6), drawn(6, 4), drawn(3, 4), beta=0.5),
    case("Gemm", (6, 1), drawn(6, 4), transA=1),
    case("Conv", IMAGE, drawn(3, 2, 3, 3), drawn(3)),
    case("Conv", ("N", 2, 5, 7), drawn(3, 2, 3, 2), pads=[1, 0, 1, 0], strides=[2, 1], dilations=[1, 2]),
    case("Conv", IMAGE, drawn(3, 2, 3, 3), pads=[0, 1, 2, 1]),
    case("Conv", IMAGE, drawn(4, 1, 3, 3), drawn(4), group=2, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, drawn(3, 2, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", IMAGE, drawn(3, 2, 2, 2), auto_pad="VALID"),
    case("Conv", (2, 2, 5, 7), drawn(3, 2, 3, 3), drawn(3)),
    case("Conv", (1, 2, 8), drawn(3, 2, 3), drawn(3), pads=[1, 1]),
    case("Conv", (1, 2, 3, 4, 3), drawn(3, 2, 2, 2, 2), drawn(3)),
    case("ConvTranspose", IMAGE, drawn(2, 3, 3, 3), drawn(3)),
    case("ConvTranspose", IMAGE, drawn(2, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", IMAGE, drawn(2, 3, 3, 3), pads=[0, 1, 2, 1], strides=[2, 2]),
    case("ConvTranspose", IMAGE, drawn(2, 2, 3, 2), group=2, dilations=[2, 1]),
    case("ConvTranspose", IMAGE, drawn(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, drawn(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", IMAGE, drawn(2, 3, 3, 3), strides=[2, 2], output_shape=[10, 14]),
    case("Einsum", (2, 3), drawn(3, 4), opset=12, equation="ij,jk->i"),
    case("Einsum", (1, 3, 6), drawn(6, 4), equation="bti,io->bto"),
    case("Einsum", (3, 6), drawn(6, 4), equation="ti,io->ot"),
]
POOLS = [
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[3, 3], pads=[0, 0, 1, 1], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], pads=[2, 0, 1, 1], opset=11),
    case("MaxPool", (2, 2, 5, 7), kernel_shape=[2, 2]),
    case("MaxPool", (1, 2, 8), kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("MaxPool", (1, 1, 3, 4, 3), kernel_shape=[2, 2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[0, 0, 2, 1], strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[0, 0, 2, 1], strides=[2, 2], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1, opset=19),
    *(
        case(
            "AveragePool",
            IMAGE,
            kernel_shape=[3, 2],
            strides=[2, 3],
            pads=pads,
            count_include_pad=1,
            ceil_mode=1,
            opset=19,
        )
        for pads in ([0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1])
    ),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
]
NORMS = [
    case("BatchNormalization", IMAGE, drawn(2), drawn(2), drawn(2), np.abs(drawn(2)) + 0.5),
    case("BatchNormalization", ROWS, *(np.abs(drawn(6)) + 0.5 for _ in range(4)), epsilon=0.1, opset=9),
    case("BatchNormalization", (2, 3), *(np.abs(drawn(3)) + 0.5 for _ in range(4)), opset=15),
    case("InstanceNormalization", IMAGE, drawn(2), drawn(2)),
    case("LayerNormalization", (1, 3, 4), drawn(4), drawn(4)),
    case("LayerNormalization", (3, 4), drawn(3, 4), drawn(3, 4), axis=0),
    case("LayerNormalization", (1, 3, 4), drawn(4), axis=1, epsilon=0.1),
    case("GroupNormalization", (1, 4, 3, 3), drawn(4), drawn(4), opset=21, num_groups=2),
    case("RMSNormalization", (1, 3, 4), drawn(4), opset=23),
    case("Softmax", ROWS),
    case("Softmax", (1, 3, 4), axis=1),
    case("Softmax", (1, 3, 4), opset=11, axis=1),
    case("Softmax", (2, 3), opset=11),
    case("Softmax", (2, 3), axis=0),
    case("LogSoftmax", (1, 3, 4), opset=11, axis=2),
    case("LogSoftmax", ROWS),
    case("LpNormalization", ROWS, axis=1, low=0.5, high=1.0),
]
REDUCTIONS = ["ReduceL1", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceLogSumExp"]
REDUCED = [
    *(case(name, (1, 3, 4), opset=11, axes=[2]) for name in REDUCTIONS),
    *(case(name, (2, 3, 4), opset=11, axes=[0, -1], keepdims=0) for name in REDUCTIONS),
    *(case(name, (1, 3, 4), np.array([1]), opset=18) for name in REDUCTIONS),
    case("ReduceL2", (1, 3, 4), opset=11, axes=[1], low=0.5, high=1.0),
    case("ReduceLogSum", (1, 3, 4), opset=11, axes=[1], low=0.5, high=1.0),
    case("ReduceProd", (1, 3, 2), opset=11, axes=[2], low=0.5, high=1.0),
    case("ReduceSum", (1, 3, 4), opset=11, axes=[1, 2], keepdims=0),
    case("ReduceSum", (1, 3, 4), np.array([1])),
    case("ReduceSum", (3, 4)),
    *(case(name, (1, 3, 4), opset=18, noop_with_empty_axes=1) for name in REDUCTIONS),
    case("ReduceSum", (3, 4), noop_with_empty_axes=1),
    case("ReduceSum", ("N", 4), np.array([-1]), keepdims=0),
]
MOVED = [
    case("Reshape", ("N", 2, 6), np.array([-1, 12])),
    case("Reshape", (1, 2, 6), np.array([1, 12])),
    case("Reshape", (1, 2, 6), np.array([0, 3, -1])),
    case("Reshape", (2, 6), np.array([1, 12])),
    case("Reshape", (1, 2, 6), np.array([2, 6])),
    case("Reshape", (12,), np.array([1, 1, 3, 4])),
    case("Flatten", IMAGE),
    case("Flatten", (2, 3, 4), axis=2),
    case("Flatten", (1, 3, 4), axis=0),
    case("Flatten", (1, 3, 4), axis=-1, opset=11),
    case("Transpose", (1, 3, 4)),
    case("Transpose", (1, 5, 7, 2), perm=[0, 3, 1, 2]),
    case("Transpose", (3, 4), perm=[1, 0]),
    case("Transpose", (1, 3, 4), perm=[1, 0, 2]),
    case("Squeeze", (1, 2, 1, 3), opset=11),
    case("Squeeze", (1, 2, 1, 3), opset=11, axes=[2]),
    case("Squeeze", (1, 2, 1, 3), np.array([0, -2])),
    case("Unsqueeze", (2, 3), opset=11, axes=[0, 3]),
    case("Unsqueeze", ("N", 3), np.array([1])),
    case("Unsqueeze", (2, 3), np.array([-1])),
    case("Concat", (1, 3), drawn(1, 2), axis=1),
    case("Concat", (2, 3), drawn(1, 3), axis=0),
    case("Concat", (1, 3), drawn(2, 3), axis=0, first=False),
    case("Concat", (1, 2, 3), drawn(1, 1, 3), axis=-2, first=False),
    case("Split", (1, 6), opset=11, axis=1, split=[2, 4], outputs=2),
    case("Split", (1, 6), np.array([2, 4]), axis=1, outputs=2),
    case("Split", (6,), opset=11, outputs=3),
    case("Split", (7, 2), opset=18, outputs=3, num_outputs=3),
    case("Slice", (1, 6), opset=9, starts=[1], ends=[-1], axes=[1]),
    case("Slice", (5, 6), opset=9, starts=[1, 2], ends=[9, 4]),
    case("Slice", (1, 6), np.array([1]), np.array([6]), np.array([1]), np.array([2])),
    case("Slice", (5, 6), np.array([-1, 5]), np.array([-9, 1]), np.array([0, 1]), np.array([-1, -2])),
    case("Slice", (1, 6), np.array([0]), np.array([2**62]), np.array([1])),
    case("Slice", (1, 6), np.array([-9]), np.array([-8]), np.array([1]), np.array([-1])),
    case("Gather", (1, 6), np.array([2, 0, -1]), axis=1),
    case("Gather", (1, 3, 4), np.array(1), axis=1),
    case("Gather", (3, 4), np.array([[0, 2], [1, 1]])),
    case("Gather", (1, 4), np.array(0), axis=0),
    case("GatherElements", (2, 3), np.array([[0, 2], [1, 1]]), axis=1),
    case("Pad", IMAGE, opset=10, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5),
    case("Pad", IMAGE, np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.float32(0.5)),
    case("Pad", (2, 3), np.array([1, 0, 0, 2])),
    case("Pad", (1, 2, 5), np.array([0, 0, 2, 0, 0, 1]), mode="reflect"),
    case("Pad", (1, 2, 5), np.array([0, 0, 2, 0, 0, 1]), mode="edge"),
    case("Pad", (3,), np.array([1, 1])),
    case("Pad", (1, 3), np.array([0, 4, 0, 5]), mode="wrap", opset=19),
    case("Pad", (1, 2, 5), np.array([2, 1]), None, np.array([2]), opset=18),
    case("Expand", (1, 3), np.array([4, 3])),
    case("Expand", (1, 1, 3), np.array([1, 4, 3])),
    case("Expand", (3,), np.array([2, 3])),
    case("Tile", (1, 3), np.array([1, 2])),
    case("Tile", (1, 3), np.array([2, 2])),
    case("DepthToSpace", (1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (1, 2, 4, 6), blocksize=2),
    case("Trilu", (3, 3), upper=0),
    case("Trilu", (1, 3, 3), np.array(1)),
]
NEAREST = ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]
SIZES = [
    *(
        case(
            "Resize",
            (1, 2, 3, 4),
            None,
            np.array([1, 1, 2, 1.5]),
            opset=13,
            mode=mode,
            coordinate_transformation_mode=how,
        )
        for mode in ("nearest", "linear", "cubic")
        for how in NEAREST
    ),
    *(
        case("Resize", (1, 2, 5, 7), None, None, np.array([1, 2, 3, 10]), opset=13, nearest_mode=how)
        for how in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    case("Resize", (1, 2, 6, 7), None, np.array([1, 1, 0.5, 2.5]), opset=13, nearest_mode="round_prefer_ceil"),
    case("Resize", (1, 2, 3, 4), np.array([1, 1, 2, 2.0]), opset=10),
    case("Resize", (1, 2, 3, 4), np.array([1, 1, 2, 2.0]), opset=10, mode="linear"),
    case("Resize", (1, 2, 3, 4), None, None, np.array([6, 8]), opset=18, axes=[2, 3]),
    case("Upsample", (1, 2, 3, 4), np.array([1, 1, 2, 2.0]), opset=9),
    case("Upsample", (1, 2, 3, 4), opset=7, scales=[1.0, 1.0, 2.0, 3.0]),
]
CASES = [*UNARY, *PAIRS, *LAYERS, *POOLS, *NORMS, *REDUCED, *MOVED, *SIZES]
# Without bounds: cubes of numbers around 0, and roots of sums that may be 0.
UNBOUNDED = {"RMSNormalization", "ReduceLogSum", "Mod"}


COMMON = {"Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Flatten", "Gather", "Gemm", "MatMul"}
COMMON |= {"MaxPool", "Pad", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose"}


def rows() -> list:
    """All cases; by default the first one of each common operator."""
    first = {one.operator: one for one in reversed(CASES) if one.operator in COMMON}
    return [pytest.param(one, id=str(one), marks=[] if one in first.values() else [pytest.mark.slow]) for one in CASES]


@pytest.mark.parametrize("one", rows())
def test_an_operator_answers_like_onnxruntime(one: Case):
    agrees(one.model(), low=one.low, high=one.high, bounded=one.operator not in UNBOUNDED)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (case("BatchNormalization", (1, 3, 2), *[drawn(3)] * 4, opset=9, outputs=5), "as in training mode"),
        (case("MaxPool", (1, 1, 6), kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER"), "in different ways"),
        (case("AveragePool", (1, 1, 8), kernel_shape=[1], strides=[3], auto_pad="SAME_LOWER"), "in different ways"),
        (case("Slice", (1, 6), np.array([5]), np.array([2**63 - 1]), np.array([1]), np.array([-1])), "different ways"),
        (case("Resize", (1, 1, 2, 5), np.array([1, 1, 1, 0.7]), opset=10), "as runtimes round"),
        (case("Slice", (1, 6), np.array([0]), np.array([0]), np.array([1])), "has no entries"),
        (case("Tile", (1, 6), np.array([0, 1])), "has no entries"),
    ],
    ids=str,
)
def test_what_runtimes_read_in_another_way_is_refused_in_one_line(one: Case, message: str):
    model = one.model()
    del model.graph.output[1:]  # what nothing uses still says how the node computes
    with pytest.raises(BoundsError, match=message) as refused:
        bounds.from_onnx(model)
    assert "\n" not in str(refused.value)


def test_every_operator_is_tried():
    elsewhere = {
        "And",
        "Cast",
        "Constant",
        "ConstantOfShape",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
    }
    elsewhere |= {"Not", "OneHot", "Or", "Range", "Shape", "Size", "Where"}  # in test_constants.py
    assert {one.operator for one in CASES} | elsewhere == set(OPERATORS)
