"""Operators of ONNX as linear maps and functions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from certify.proofs.networks.functions import Largest, Relu, Sigmoid, Tanh
from certify.proofs.networks.maps import Convolution, Index, Map, Product, Scale, Selection, Transposed, identity
from certify.proofs.networks.networks import Builder, Data, Operation

SINGLE, DOUBLE = 1, 11  # types of numbers in ONNX
Rule = Callable[[Operation, Builder], "Data | list[Data]"]


def _added(operation: Operation, builder: Builder) -> Data:
    """A sum or difference, of data and constants."""
    shapes = [each.shape for each in operation.inputs if each is not None]
    shape, name = np.broadcast_shapes(*shapes), operation.name
    offset, parts = np.zeros(shape), list[tuple[Data, Map]]()
    for place, value in enumerate(operation.inputs):
        sign = -1.0 if operation.proto.op_type == "Sub" and place == 1 else 1.0
        if isinstance(value, Data):
            wide = builder.broadcast(name, value, shape)
            size = builder.nodes[wide.node].size
            parts.append((wide, identity(size) if sign > 0 else Scale(np.full(size, sign))))
        elif value is not None:
            if offset.any():
                raise operation.refused("adds several constants")
            offset = offset + sign * np.asarray(value, np.float64)
    return builder.affine(name, parts, shape, offset)


def _multiplied(operation: Operation, builder: Builder) -> Data:
    """A product with a constant, or a quotient by one."""
    first, second = operation.inputs[:2]
    if isinstance(first, Data) and isinstance(second, Data):
        raise operation.refused("combines two numbers that depend on the input, which proofs do not know")
    if operation.proto.op_type == "Div":
        divisor = np.asarray(operation.constant(1), np.float64)
        if not divisor.all():
            raise operation.refused("divides by 0")
        return builder.scaled(operation.name, operation.data(0), 1 / divisor, 2)
    data, factor = (first, second) if isinstance(first, Data) else (second, first)
    assert isinstance(data, Data)  # one of the two, or the node would be constant
    return builder.scaled(operation.name, data, factor)


def _negated(operation: Operation, builder: Builder) -> Data:
    return builder.scaled(operation.name, operation.data(0), -1.0)


def _same(operation: Operation, builder: Builder) -> list[Data]:
    """Data as they are; dropout only where it does nothing."""
    mode = operation.constant(2) if operation.proto.op_type == "Dropout" else None
    if mode is not None and bool(np.asarray(mode)):
        raise operation.refused("is in training mode")
    return [operation.data(0)]


def _cast(operation: Operation, builder: Builder) -> Data:
    target = operation.attributes.get("to")
    if target not in (SINGLE, DOUBLE) or (target == SINGLE and builder.is_wide):
        raise operation.refused("changes numbers to a type that rounds them")
    builder.is_wide |= target == DOUBLE
    return operation.data(0)


def _general(operation: Operation, builder: Builder) -> Data:
    """``alpha A B + beta C`` with a matrix B and constants C."""
    data, name, attributes = operation.data(0), operation.name, operation.attributes
    matrix = np.asarray(operation.constant(1), np.float64)
    matrix = matrix.T if attributes.get("transB", 0) else matrix
    if attributes.get("transA", 0):
        data = builder.selected(name, data, np.arange(int(np.prod(data.shape))).reshape(data.shape).T)
    shape = (data.shape[0], matrix.shape[1])
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    bias = operation.constant(2)
    offset = None if bias is None else beta * np.asarray(bias, np.float64)
    if alpha == 1:
        return builder.mapped(name, data, Product(matrix, data.shape), shape, offset)
    found = builder.scaled(name, builder.mapped(name, data, Product(matrix, data.shape), shape), alpha)
    return builder.mapped(name, found, identity(builder.nodes[found.node].size), shape, offset)


def _matrix_product(operation: Operation, builder: Builder) -> Data:
    first, second = operation.inputs[:2]
    if isinstance(first, Data) and isinstance(second, Data):
        raise operation.refused("combines two numbers that depend on the input, which proofs do not know")
    on_left = isinstance(second, Data)
    data = operation.data(1 if on_left else 0)
    matrix = np.asarray(operation.constant(0 if on_left else 1), np.float64)
    shape = np.matmul(
        *(np.broadcast_to(0.0, each.shape) for each in ((matrix, data) if on_left else (data, matrix)))
    ).shape
    own = data.shape
    if len(own) == 1:
        own = (own[0], 1) if on_left else (1, own[0])
    if matrix.ndim == 1:
        matrix = matrix[None] if on_left else matrix[:, None]
    if matrix.ndim > len(own):
        raise operation.refused("makes its input wider by broadcasting, which proofs do not know")
    if any(1 != a != b for a, b in zip(matrix.shape[-3::-1], own[-3::-1], strict=False)):
        raise operation.refused("makes its input wider by broadcasting, which proofs do not know")
    return builder.mapped(operation.name, data, Product(matrix, own, on_left), shape)


def _pads(operation: Operation, shape: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Strides, pads before and behind, and dilations of each dimension."""
    attributes, dims = operation.attributes, len(kernel)
    strides = tuple(attributes.get("strides", [1] * dims))
    dilations = tuple(attributes.get("dilations", [1] * dims))
    pads = attributes.get("pads", [0] * 2 * dims)
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        reach = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(shape, strides, reach, strict=True)]
        less = [each // 2 if automatic == "SAME_UPPER" else each - each // 2 for each in total]
        pads = [*less, *(each - own for each, own in zip(total, less, strict=True))]
    elif automatic == "VALID":
        pads = [0] * 2 * dims
    if min(pads, default=0) < 0:
        raise operation.refused("has negative pads")
    return strides, tuple(zip(pads[:dims], pads[dims:], strict=True)), dilations


def _convolution(operation: Operation, builder: Builder) -> Data:
    data, groups = operation.data(0), operation.attributes.get("group", 1)
    weight = np.asarray(operation.constant(1), np.float64)
    strides, pads, dilations = _pads(operation, data.shape[2:], weight.shape[2:])
    if data.shape[0] != 1 or data.shape[1] != groups * weight.shape[1]:
        raise operation.refused(f"takes an input of shape {data.shape}")
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    map_ = Convolution(grouped, data.shape[1:], strides, pads, dilations)
    shape = (1, len(weight), *map_.spatial_out)
    if min(map_.spatial_out, default=1) < 1:
        raise operation.refused(f"has windows that are larger than its input of shape {data.shape}")
    return builder.mapped(operation.name, data, map_, shape, _bias(operation, len(shape)))


def _transposed_convolution(operation: Operation, builder: Builder) -> Data:
    data, groups, attributes = operation.data(0), operation.attributes.get("group", 1), operation.attributes
    weight = np.asarray(operation.constant(1), np.float64)  # (C, O / G, *K)
    kernel = weight.shape[2:]
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in attributes or data.shape[0] != 1:
        raise operation.refused("says its output's shape in a way that proofs do not know")
    strides, pads, dilations = _pads(operation, data.shape[2:], kernel)
    more = attributes.get("output_padding", [0] * len(kernel))
    sizes = zip(data.shape[2:], strides, kernel, dilations, pads, more, strict=True)
    spatial = tuple((n - 1) * s + (k - 1) * d + 1 - sum(pad) + extra for n, s, k, d, pad, extra in sizes)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    shape = (groups * weight.shape[1], *spatial)
    map_ = Convolution(grouped, shape, strides, pads, dilations)
    if map_.spatial_out != data.shape[2:]:
        raise operation.refused("has output padding that proofs do not know")
    return builder.mapped(operation.name, data, Transposed(map_), (1, *shape), _bias(operation, len(shape) + 1))


def _bias(operation: Operation, dims: int) -> Any:  # noqa: ANN401  # an array
    bias = operation.constant(2)
    return None if bias is None else np.asarray(bias, np.float64).reshape(1, -1, *[1] * (dims - 2))


def _windows(operation: Operation, shape: tuple[int, ...]) -> tuple[Index, tuple[int, ...]]:
    """Places (G, T) of the inputs of each value of pooling, -1 in padding and -2 beyond it, and the shape of values."""
    kernel = tuple(operation.attributes["kernel_shape"])
    strides, pads, dilations = _pads(operation, shape[2:], kernel)
    if operation.attributes.get("auto_pad", b"").startswith(b"SAME"):
        between = ((-(-n // s) - 1) * s + k < n for n, k, s in zip(shape[2:], kernel, strides, strict=True))
        if any(gap != 1 for gap in dilations) or any(between):
            raise operation.refused("has auto_pad with dilations or inputs between windows, which runtimes differ on")
    rounding_up = operation.attributes.get("ceil_mode", 0)
    axes = []
    for size, k, stride, (before, behind), dilation in zip(shape[2:], kernel, strides, pads, dilations, strict=True):
        free = size + before + behind - dilation * (k - 1) - 1
        if free < 0:
            raise operation.refused(f"has windows that are larger than its input of shape {shape}")
        count = -(-free // stride) + 1 if rounding_up else free // stride + 1
        if rounding_up and (count - 1) * stride >= size + before:
            count -= 1
        place = np.arange(count)[:, None] * stride + np.arange(k) * dilation - before
        inside = (place >= 0) & (place < size)
        axes.append(np.where(inside, place, np.where(place < size + behind, -1, -2)))
    channels = shape[0] * shape[1]
    index = np.arange(channels)[:, None]
    for size, axis in zip(shape[2:], axes, strict=True):
        outside = np.minimum(np.minimum(index[:, None, :, None], axis[None, :, None, :]), 0)
        joined = index[:, None, :, None] * size + axis[None, :, None, :]
        index = np.where(outside < 0, outside, joined).reshape(-1, index.shape[1] * axis.shape[1])
    return index, (*shape[:2], *(len(axis) for axis in axes))


def _average(operation: Operation, builder: Builder) -> Data:
    data = operation.data(0)
    if operation.attributes.get("ceil_mode", 0) and operation.attributes.get("count_include_pad", 0):
        raise operation.refused("counts padding and rounds its shape up")
    windows, shape = _windows(operation, data.shape)
    counted = windows >= (-1 if operation.attributes.get("count_include_pad", 0) else 0)
    return _summed(operation, builder, data, np.maximum(windows, -1), shape, 1 / counted.sum(1))


def _summed(operation: Operation, builder: Builder, data: Data, windows: Index, shape: Any, factor: Any) -> Data:  # noqa: ANN401
    """Sums over windows times factors."""
    every = builder.selected(operation.name, data, windows)
    groups = np.repeat(np.arange(len(windows)), windows.shape[1])
    total = builder.mapped(operation.name, every, Transposed(Selection(groups, len(windows))), tuple(shape))
    return builder.scaled(operation.name, total, np.asarray(factor).reshape(shape), 2)


def _global_average(operation: Operation, builder: Builder) -> Data:
    data = operation.data(0)
    channels = data.shape[0] * data.shape[1]
    windows = np.arange(int(np.prod(data.shape))).reshape(channels, -1)
    shape = (*data.shape[:2], *[1] * (len(data.shape) - 2))
    return _summed(operation, builder, data, windows, shape, np.full(channels, 1 / windows.shape[1]))


def _maximum(operation: Operation, builder: Builder) -> Data:
    data = operation.data(0)
    if len(operation.proto.output) > 1 and operation.proto.output[1]:
        raise operation.refused("has a second output")
    windows, shape = _windows(operation, data.shape)
    function = Largest(np.maximum(windows, -1), builder.nodes[data.node].size)
    return builder.applied(operation.name, data, function, shape)


def _normalised(operation: Operation, builder: Builder) -> Data:
    """``(x - mean) scale / sqrt(var + epsilon) + bias``, step by step, so that every offset is exact."""
    if operation.attributes.get("training_mode", 0):
        raise operation.refused("is in training mode")
    if any(operation.proto.output[1:]):  # before opset 14 these say that it is in training mode
        raise operation.refused("has outputs of statistics, as in training mode")
    if not operation.attributes.get("spatial", 1):
        raise operation.refused("normalises every entry by itself, which proofs do not know")
    data = operation.data(0)
    wide = (1, -1, *[1] * (len(data.shape) - 2))
    scale, bias, mean, variance = (np.asarray(operation.constant(i), np.float64).reshape(wide) for i in range(1, 5))
    centred = builder.mapped(operation.name, data, identity(builder.nodes[data.node].size), data.shape, -mean)
    epsilon = float(operation.attributes.get("epsilon", np.float32(1e-5)))
    found = builder.scaled(operation.name, centred, scale / np.sqrt(variance + epsilon), 4)
    return builder.mapped(operation.name, found, identity(builder.nodes[found.node].size), data.shape, bias)


def _reduced(operation: Operation, builder: Builder) -> Data:
    """A sum or mean over axes."""
    data = operation.data(0)
    axes = operation.attributes.get("axes")
    if axes is None and (given := operation.constant(1)) is not None:
        axes = np.asarray(given).reshape(-1).tolist()
    if not axes and operation.attributes.get("noop_with_empty_axes", 0):
        return data
    dims = len(data.shape)
    over = sorted({int(axis) % dims for axis in axes}) if axes else list(range(dims))
    kept = [axis for axis in range(dims) if axis not in over]
    index = np.arange(int(np.prod(data.shape))).reshape(data.shape).transpose(*kept, *over)
    count = int(np.prod([data.shape[axis] for axis in over]))
    shape = tuple(1 if axis in over else data.shape[axis] for axis in range(dims))
    if not operation.attributes.get("keepdims", 1):
        shape = tuple(data.shape[axis] for axis in kept)
    factor = np.full(shape, 1 / count if operation.proto.op_type == "ReduceMean" else 1.0)
    return _summed(operation, builder, data, index.reshape(-1, count), shape, factor)


def _activation(operation: Operation, builder: Builder) -> Data:
    data, kind = operation.data(0), operation.proto.op_type
    if kind == "LeakyRelu":
        slope = float(operation.attributes.get("alpha", np.float32(0.01)))
        if not 0 <= slope <= 1:
            raise operation.refused(f"has the slope {slope}, outside of [0, 1]")
        return builder.applied(operation.name, data, Relu(slope), data.shape)
    function = {"Relu": Relu, "Sigmoid": Sigmoid, "Tanh": Tanh}[kind]()
    return builder.applied(operation.name, data, function, data.shape)


OPERATORS: dict[str, Rule] = {
    "Add": _added,
    "AveragePool": _average,
    "BatchNormalization": _normalised,
    "Cast": _cast,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Div": _multiplied,
    "Dropout": _same,
    "Gemm": _general,
    "GlobalAveragePool": _global_average,
    "Identity": _same,
    "LeakyRelu": _activation,
    "MatMul": _matrix_product,
    "MaxPool": _maximum,
    "Mul": _multiplied,
    "Neg": _negated,
    "ReduceMean": _reduced,
    "ReduceSum": _reduced,
    "Relu": _activation,
    "Sigmoid": _activation,
    "Sub": _added,
    "Sum": _added,
    "Tanh": _activation,
}
