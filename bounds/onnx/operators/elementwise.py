"""Operators that work entry by entry, on one value or on several that are broadcast."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator, constants_only, number, operator
from bounds.onnx.values import Value, aligned, closed, constant, merged

aten = torch.ops.aten


def each_entry(value: Value, tensor: Any) -> Value:  # noqa: ANN401  # a tensor or a stand-in
    """A value with as many entries as another, whose tensor was computed entry by entry."""
    return Value(tensor, value.shape) if value.is_data else constant(tensor)


def _unary(operation: Callable[..., Any]) -> Operator:
    return operator(lambda node, x: each_entry(x, operation(x.tensor)))


def _binary(operation: Callable[..., Any]) -> Callable[[OnnxNode, Value, Value], Value]:
    def make(node: OnnxNode, x: Value, y: Value) -> Value:
        tensors, full = aligned([x, y])
        return merged(operation(*tensors), full, x.is_data or y.is_data)

    return make


def _several(operation: Callable[..., Any]) -> Callable[..., Value]:
    """Any number of values, two at a time."""
    pair = _binary(operation)

    def make(node: OnnxNode, *values: Value) -> Value:
        found, *rest = values
        for value in rest:
            found = pair(node, found, value)
        return found

    return make


def _mean(node: OnnxNode, *values: Value) -> Value:
    total = _several(aten.add.Tensor)(node, *values)
    return each_entry(total, aten.div.Tensor(total.tensor, float(len(values))))


def _add(node: OnnxNode, x: Value, y: Value) -> Value:
    """A sum; of a matrix product and a constant, the affine layer that it is."""
    for product, bias in ((x, y), (y, x)):
        fits = bias.shape == product.shape[-1:] or bias.shape == (1, *product.shape[-1:])
        if product.is_data and not bias.is_data and fits and product.ndim > 1:
            factors = product.tensor.factors()
            if factors is not None:
                return Value(aten.linear.default(*factors, bias.viewed(bias.shape[-1:]).tensor), product.shape)
    return _binary(aten.add.Tensor)(node, x, y)


def _div(node: OnnxNode, x: Value, y: Value) -> Value:
    if not (x.is_data or y.is_data or x.numbers().is_floating_point()):
        return constant(aten.div.Tensor_mode(x.numbers(), y.numbers(), rounding_mode="trunc"))
    return _binary(aten.div.Tensor)(node, x, y)


def _power(node: OnnxNode, x: Value, y: Value) -> Value:
    if not y.is_data and y.numbers().numel() == 1 and y.ndim <= x.ndim:
        exponent = float(y.numbers().flatten()[0])
        return each_entry(x, aten.pow.Tensor_Scalar(x.tensor, int(exponent) if exponent.is_integer() else exponent))
    return _binary(aten.pow.Tensor_Tensor)(node, x, y)


def _mod(node: OnnxNode, x: Value, y: Value) -> Value:
    operation = aten.fmod.Tensor if node.get("fmod", 0) else aten.remainder.Tensor
    return _binary(operation)(node, x, y)


def _leaky_relu(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.leaky_relu.default(x.tensor, node.get("alpha", 0.01)))


def _prelu(node: OnnxNode, x: Value, slope: Value) -> Value:
    constants_only(node, slope=slope)
    flat = slope.numbers().numel()
    channels = x.ndim > 1 and slope.shape in {(x.shape[1], *[1] * (x.ndim - 2)), (1, x.shape[1], *[1] * (x.ndim - 2))}
    if x.is_data and (flat == 1 or (channels and x.shape[0] == 1)):
        return each_entry(x, aten.prelu.default(x.tensor, slope.viewed((flat,)).tensor))
    positive = each_entry(x, aten.relu.default(x.tensor))
    negative = each_entry(x, aten.neg.default(aten.relu.default(aten.neg.default(x.tensor))))
    scaled = _binary(aten.mul.Tensor)(node, negative, slope)
    return _binary(aten.add.Tensor)(node, positive, scaled)


def _elu(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.elu.default(x.tensor, node.get("alpha", 1.0)))


def _celu(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.celu.default(x.tensor, node.get("alpha", 1.0)))


def _selu(node: OnnxNode, x: Value) -> Value:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return each_entry(x, aten.elu.default(x.tensor, alpha, gamma))


def _gelu(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.gelu.default(x.tensor, approximate=node.get("approximate", "none")))


def _softplus(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.softplus.default(x.tensor))


def _thresholded_relu(node: OnnxNode, x: Value) -> Value:
    return each_entry(x, aten.threshold.default(x.tensor, node.get("alpha", 1.0), 0.0))


def _hard_sigmoid(node: OnnxNode, x: Value) -> Value:
    scaled = aten.add.Tensor(aten.mul.Tensor(x.tensor, node.get("alpha", 0.2)), node.get("beta", 0.5))
    return each_entry(x, aten.clamp.default(scaled, 0.0, 1.0))


def _shrink(node: OnnxNode, x: Value) -> Value:
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    if bias == 0:
        return each_entry(x, aten.hardshrink.default(x.tensor, limit))
    if bias != limit:
        raise node.refused(f"has bias {bias} and lambd {limit}, which must be equal, or bias 0")
    return each_entry(x, aten.softshrink.default(x.tensor, limit))


def _clip(node: OnnxNode, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    least, most = number(node, low, "min"), number(node, high, "max")
    least = None if least is None or least <= torch.finfo(torch.float32).min else least
    most = None if most is None or most >= torch.finfo(torch.float32).max else most
    if not x.is_data and not x.numbers().is_floating_point():
        ends = [None if end is None else int(end) for end in (least, most)]
        return x if ends == [None, None] else constant(aten.clamp.default(x.tensor, *ends))
    return x if least is None and most is None else each_entry(x, aten.clamp.default(x.tensor, least, most))


def _softsign(node: OnnxNode, x: Value) -> Value:
    below = aten.add.Tensor(aten.abs.default(x.tensor), 1.0)
    return each_entry(x, aten.div.Tensor(x.tensor, below))


def _dropout(node: OnnxNode, x: Value, ratio: Value | None = None, training: Value | None = None) -> Value:
    """The identity, unless it is told to draw numbers."""
    node.only_first_output()
    if training is not None:
        constants_only(node, training_mode=training, ratio=ratio)
        share = number(node, ratio, "ratio", 0.5)
        if bool(training.numbers().any()) and share:
            raise node.refused(
                f"has training_mode true with ratio {share:g}: it draws random numbers, and a bound speaks of a "
                f"deterministic function; export the network in evaluation mode"
            )
    return x


def _cumulative_sum(node: OnnxNode, x: Value, axis: Value) -> Value:
    constants_only(node, axis=axis)
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise node.refused("is exclusive or reversed")
    dim = int(axis.numbers()) % x.ndim
    tensor, offset = x.opened([dim])
    return closed(aten.cumsum.default(tensor, dim + offset), offset, x)


def _larger(x: Any, y: Any) -> Any:  # noqa: ANN401  # tensors or stand-ins
    return aten.maximum.default(x, y)


ELEMENTWISE: Mapping[str, Operator] = {
    "Abs": _unary(aten.abs.default),
    "Acos": _unary(aten.acos.default),
    "Acosh": _unary(aten.acosh.default),
    "Add": operator(_add),
    "Asin": _unary(aten.asin.default),
    "Asinh": _unary(aten.asinh.default),
    "Atan": _unary(aten.atan.default),
    "Atanh": _unary(aten.atanh.default),
    "Ceil": _unary(aten.ceil.default),
    "Celu": operator(_celu, "alpha"),
    "Clip": operator(_clip, "min max"),
    "Cos": _unary(aten.cos.default),
    "Cosh": _unary(aten.cosh.default),
    "CumSum": operator(_cumulative_sum, "exclusive reverse"),
    "Div": operator(_div),
    "Dropout": operator(_dropout, "ratio seed"),
    "Elu": operator(_elu, "alpha"),
    "Erf": _unary(aten.erf.default),
    "Exp": _unary(aten.exp.default),
    "Floor": _unary(aten.floor.default),
    "Gelu": operator(_gelu, "approximate"),
    "HardSigmoid": operator(_hard_sigmoid, "alpha beta"),
    "HardSwish": _unary(aten.hardswish.default),
    "LeakyRelu": operator(_leaky_relu, "alpha"),
    "Log": _unary(aten.log.default),
    "Max": operator(_several(_larger)),
    "Mean": operator(_mean),
    "Min": operator(_several(aten.minimum.default)),
    "Mish": _unary(aten.mish.default),
    "Mod": operator(_mod, "fmod"),
    "Mul": operator(_binary(aten.mul.Tensor)),
    "Neg": _unary(aten.neg.default),
    "PRelu": operator(_prelu),
    "Pow": operator(_power),
    "Reciprocal": _unary(aten.reciprocal.default),
    "Relu": _unary(aten.relu.default),
    "Round": _unary(aten.round.default),
    "Selu": operator(_selu, "alpha gamma"),
    "Shrink": operator(_shrink, "lambd bias"),
    "Sigmoid": _unary(aten.sigmoid.default),
    "Sign": _unary(aten.sign.default),
    "Sin": _unary(aten.sin.default),
    "Sinh": _unary(aten.sinh.default),
    "Softplus": operator(_softplus),
    "Softsign": operator(_softsign),
    "Sqrt": _unary(aten.sqrt.default),
    "Sub": operator(_binary(aten.sub.Tensor)),
    "Sum": operator(_several(aten.add.Tensor)),
    "Tan": _unary(aten.tan.default),
    "Tanh": _unary(aten.tanh.default),
    "ThresholdedRelu": operator(_thresholded_relu, "alpha"),
}
