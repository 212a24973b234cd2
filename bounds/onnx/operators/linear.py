"""Matrix products and convolutions."""

from collections.abc import Mapping
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, operator
from bounds.onnx.operators.elementwise import ELEMENTWISE, each_entry
from bounds.onnx.operators.windows import each_image, surrounded, windows_of
from bounds.onnx.values import Value, constant, merged, opened_value, whole_tensor

aten = torch.ops.aten
CONVOLUTIONS = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
TRANSPOSED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}


def _turned(value: Value) -> Any:  # noqa: ANN401  # a tensor or a stand-in
    """The transpose of a constant matrix."""
    return aten.transpose.int(value.tensor, 0, 1)


def _matmul(node: OnnxNode, x: Value, y: Value) -> Value:
    if not (x.is_data or y.is_data):
        return constant(aten.matmul.default(x.tensor, y.tensor))
    if x.is_data and not y.is_data and y.ndim == 2:
        made = aten.linear.default(x.tensor, _turned(y))
        return Value(made, (*x.shape[:-1], y.shape[1]))
    if y.is_data and not x.is_data and x.ndim == 2 and y.ndim == 1:
        return Value(aten.linear.default(y.tensor, x.tensor), (x.shape[0],))
    left = x.viewed((1, *x.shape)) if x.ndim == 1 else x
    right = y.viewed((*y.shape, 1)) if y.ndim == 1 else y
    found = _product(left, right)
    shape = list(found.shape)
    if x.ndim == 1:
        del shape[-2]
    if y.ndim == 1:
        del shape[-1]
    return found.viewed(shape)


def _product(x: Value, y: Value) -> Value:
    """A product of matrices, in all leading dimensions at once."""
    ndim = max(x.ndim, y.ndim)
    shapes = [(*[1] * (ndim - value.ndim), *value.shape) for value in (x, y)]
    full = ndim < 3 or any(shape[0] != 1 for shape in shapes)
    tensors = []
    for value, shape in zip((x, y), shapes, strict=True):
        wanted = shape if full else shape[1:]
        if value.is_data:
            same = tuple(value.tensor.shape[1:]) == wanted
            tensors.append(value.tensor if same else aten.reshape.default(value.tensor, [-1, *wanted]))
        else:
            tensors.append(value.tensor)
    return merged(aten.matmul.default(*tensors), full, data=True)


def _gemm(node: OnnxNode, x: Value, y: Value, z: Value | None = None) -> Value:
    """``alpha x y + beta z``, with x and y transposed or not."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    x = _transposed(x) if node.get("transA", 0) else x
    if x.is_data and not y.is_data:
        weight = y.tensor if node.get("transB", 0) else _turned(y)
        weight = weight if alpha == 1 else aten.mul.Tensor(weight, alpha)
        outputs = int(weight.shape[0])
        if z is not None and not z.is_data and beta == 1 and z.shape in ((outputs,), (1, outputs)):
            made = aten.linear.default(x.tensor, weight, z.viewed((outputs,)).tensor)
            return Value(made, (x.shape[0], outputs))
        found = Value(aten.linear.default(x.tensor, weight), (x.shape[0], outputs))
    else:
        found = _matmul(node, x, _transposed(y) if node.get("transB", 0) else y)
        found = found if alpha == 1 else each_entry(found, aten.mul.Tensor(found.tensor, alpha))
    if z is None:
        return found
    z = z if beta == 1 else each_entry(z, aten.mul.Tensor(z.tensor, beta))
    total = ELEMENTWISE["Add"].make(node, found, z)
    assert isinstance(total, Value)
    return total


def _transposed(value: Value) -> Value:
    """The transpose of a matrix."""
    if not value.is_data:
        return constant(_turned(value))
    if 1 in value.shape:
        return value.viewed(value.shape[::-1])
    return opened_value(aten.transpose.int(value.tensor, 1, 2))


def _conv(node: OnnxNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    constants_only(node, weight=weight, bias=bias)
    windows = windows_of(node, x.shape[2:], weight.shape[2:])
    operation = CONVOLUTIONS.get(x.ndim - 2)
    if operation is None:
        raise node.refused(f"is a convolution of {x.ndim - 2} dimensions")
    shift, groups = None if bias is None else bias.tensor, node.get("group", 1)
    padding = windows.before if windows.symmetric else [0] * len(windows.kernel)

    def layer(tensor: Any) -> Any:  # noqa: ANN401  # a tensor or a stand-in
        tensor = tensor if windows.symmetric else surrounded(tensor, windows)
        return operation(tensor, weight.tensor, shift, windows.strides, padding, windows.gaps, groups)

    return each_image(x, layer)


def _conv_transpose(node: OnnxNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    constants_only(node, weight=weight, bias=bias)
    sizes = x.shape[2:]
    operation = TRANSPOSED.get(len(sizes))
    if operation is None:
        raise node.refused(f"is a convolution of {len(sizes)} dimensions")
    extra = node.get("output_padding") or [0] * len(sizes)
    shift, groups = None if bias is None else bias.tensor, node.get("group", 1)
    windows = windows_of(node, sizes, weight.shape[2:])
    before, after = windows.before, windows.after
    steps = list(zip(sizes, windows.strides, windows.spans(), extra, strict=True))
    whole = [stride * (size - 1) + span + added for size, stride, span, added in steps]
    wanted = node.get("output_shape")
    mode = node.get("auto_pad", "NOTSET")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride, *_ in steps]
    if wanted is not None:
        totals = [most - size for most, size in zip(whole, wanted[-len(sizes) :], strict=True)]
        if min(totals) < 0:
            raise node.refused(f"has output_shape {wanted} larger than its windows reach")
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)

    def layer(tensor: Any) -> Any:  # noqa: ANN401  # a tensor or a stand-in
        if before == after:
            return operation(tensor, weight.tensor, shift, windows.strides, before, extra, groups, windows.gaps)
        none = [0] * len(sizes)
        made = operation(tensor, weight.tensor, shift, windows.strides, none, extra, groups, windows.gaps)
        for i, (start, end, size) in enumerate(zip(before, after, whole, strict=True)):
            made = aten.slice.Tensor(made, i + 2, start, size - end)
        return made

    return each_image(x, layer)


def _einsum(node: OnnxNode, *values: Value) -> Value:
    """An Einstein sum, with a letter of its own for the inputs."""
    equation = str(node.get("equation")).replace(" ", "")
    if not any(value.is_data for value in values):
        return constant(aten.einsum.default(equation, [value.tensor for value in values]))
    given, arrow, out = equation.partition("->")
    if not arrow or "..." in equation:
        raise node.refused(f"has equation {equation!r}: write its result behind an arrow, and no ellipsis")
    letter = next(each for each in "NMBZabcdefghijklmnopqrstuvwxyz" if each not in equation)
    terms, tensors = [], []
    for term, value in zip(given.split(","), values, strict=True):
        terms.append(letter + term if value.is_data else term)
        tensors.append(whole_tensor(value) if value.is_data else value.tensor)
    return opened_value(aten.einsum.default(f"{','.join(terms)}->{letter}{out}", tensors))


LINEAR: Mapping[str, Operator] = {
    "Conv": operator(_conv, "auto_pad dilations group kernel_shape pads strides"),
    "ConvTranspose": operator(
        _conv_transpose, "auto_pad dilations group kernel_shape output_padding output_shape pads strides"
    ),
    "Einsum": operator(_einsum, "equation"),
    "Gemm": operator(_gemm, "alpha beta transA transB"),
    "MatMul": operator(_matmul),
}
