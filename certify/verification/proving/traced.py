"""Networks of PyTorch as the checker of proofs sees them: ``torch.export`` follows them, node by node.

Everything is in float64, which holds all weights of narrower types as they are. What only moves numbers is run on
their places. Nothing of ``bounds`` is asked.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certify.proofs.errors import Unreadable
from certify.proofs.networks.functions import Relu, Sigmoid, Tanh
from certify.proofs.networks.maps import Product
from certify.proofs.networks.moving import collected
from certify.proofs.networks.networks import Builder, Data, Network, Operation
from certify.proofs.networks.operators import OPERATORS, Rule
from certify.verification.proving.programs import ProgramReader

POINTS, NEAR = 8, 1e-8  # inputs on which the network is compared with what was read, relative to the largest logit
OPSET = 21
Setting = int | Sequence[int]  # of each dimension, or one for all
Value = Data | Tensor | float
SAME = {"clone", "contiguous", "detach", "alias", "lift_fresh_copy", "dropout", "feature_dropout", "to", "_to_copy"}
MOVING = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze"),
    *("expand", "slice", "select", "narrow", "chunk", "split", "split_with_sizes", "unbind", "flip", "roll", "repeat"),
    *("movedim", "swapaxes", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "index_select", "numpy_T"),
}


def traced(model: nn.Module, x: Tensor) -> Network:
    """The network behind a model, for single inputs such as x, (1, *D).

    Raises:
        Unreadable: a layer that proofs do not know, or a model that cannot be exported; the message names it.
    """
    try:
        tracer = _Tracer(model, x)
        network = tracer.read()
    except (ValueError, IndexError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"a layer is used in a way that proofs do not know ({type(error).__name__})") from error
    _require_same(network, tracer.model, tracer.example)
    return network


def _require_same(network: Network, exact: nn.Module, example: Tensor) -> None:
    """Refuse a network that was read wrongly: its outputs are those of the model, at some points."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(POINTS, *example.shape[1:], generator=generator, dtype=torch.float64)
    points = torch.cat([example, example + drawn])
    with torch.no_grad():
        wanted = torch.cat([exact(point[None]) for point in points]).flatten(1).numpy()
    found = network.values(points.flatten(1).numpy())
    if found.shape != wanted.shape or not np.abs(found - wanted).max() <= NEAR * np.abs(wanted).max():
        raise Unreadable("the network that was read gives other answers than the model")


class _Tracer(ProgramReader):
    """Reads operations of a program as linear maps and functions."""

    value, refusal = Data, Unreadable

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__(model, x)
        self.builder = Builder(self.example.numel())

    def read(self) -> Network:
        name, logits = self.output()
        self._operate("Identity", name, [logits])
        return Network(tuple(self.builder.nodes))

    def input(self) -> Data:
        return Data(0, tuple(self.example.shape))

    def call(self, node: torch.fx.Node, name: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if "getitem" in str(node.target):
            return arguments[0][arguments[1]]
        if name in SAME:
            return arguments[0]
        if name in MOVING:
            return self._moved(node, arguments, settings)
        if name in ("cat", "concat"):
            return self._joined(node.name, *arguments, **settings)
        if name not in TRANSLATIONS:
            raise Unreadable(f"{name} is a layer that proofs do not know")
        return TRANSLATIONS[name](self, node.name, *arguments, **settings)

    def _moved(self, node: torch.fx.Node, arguments: Sequence[Any], settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Run an operation that moves numbers on their places."""
        data = arguments[0]
        size = self.builder.nodes[data.node].size
        found = node.target(torch.arange(size).view(data.shape), *arguments[1:], **settings)  # type: ignore[operator]
        several = found if isinstance(found, list | tuple) else [found]
        moved = [self.builder.selected(node.name, data, each.contiguous().numpy()) for each in several]
        return moved if isinstance(found, list | tuple) else moved[0]

    def _joined(self, name: str, parts: Sequence[Any], dim: int = 0) -> Data:
        """A concatenation of data and constants."""
        sources, places, total = [], [], 0
        for part in parts:
            size = int(np.prod(part.shape, dtype=np.int64))
            places.append(np.arange(total, total + size).reshape(tuple(part.shape)))
            sources.append((part if isinstance(part, Data) else _array(part), total, size))
            total += size
        return collected(self._operation("Concat", name, [], {}), self.builder, sources, np.concatenate(places, dim), 0)

    def _operate(self, kind: str, name: str, inputs: Sequence[Any], **attributes: Any) -> Data:  # noqa: ANN401
        """A node by the rule of an operator of the checker."""
        operation = self._operation(kind, name, inputs, attributes)
        found = RULES[kind](operation, self.builder)
        return found[0] if isinstance(found, list) else found

    def _operation(self, kind: str, name: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> Operation:
        plain = [each if isinstance(each, Data) or each is None else _array(each) for each in inputs]
        return Operation(SimpleNamespace(op_type=kind, name=name, output=[name]), plain, attributes, OPSET)

    def linear(self, name: str, data: Data, weight: Tensor, bias: Tensor | None = None) -> Data:
        matrix = _array(weight).T
        shape = (*data.shape[:-1], matrix.shape[1])
        return self.builder.mapped(
            name, data, Product(matrix, data.shape), shape, None if bias is None else _array(bias)
        )

    def convolution(
        self, name: str, data: Data, weight: Tensor, bias: Tensor | None = None, *rest: Setting | str
    ) -> Data:
        stride, padding, dilation, groups = _filled(rest, (1, 0, 1, 1))
        dims = weight.ndim - 2
        dilations = _each(dilation, dims)
        if padding == "same":
            reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
            pads = [each // 2 for each in reach] + [each - each // 2 for each in reach]
        else:
            pads = [0] * 2 * dims if padding == "valid" else 2 * _each(padding, dims)
        settings = {"strides": _each(stride, dims), "pads": pads, "dilations": dilations, "group": groups}
        return self._operate("Conv", name, [data, weight, bias], **settings)

    def transposed_convolution(
        self, name: str, data: Data, weight: Tensor, bias: Tensor | None = None, *rest: Setting
    ) -> Data:
        stride, padding, output_padding, groups, dilation = _filled(rest, (1, 0, 0, 1, 1))
        dims = weight.ndim - 2
        settings = {"strides": _each(stride, dims), "pads": 2 * _each(padding, dims), "group": groups}
        settings |= {"dilations": _each(dilation, dims), "output_padding": _each(output_padding, dims)}
        return self._operate("ConvTranspose", name, [data, weight, bias], **settings)

    def batch_norm(self, name: str, data: Data, *given: Any) -> Data:  # noqa: ANN401  # tensors and numbers
        weight, bias, mean, var, training, _, eps, *_ = given
        if training:
            raise Unreadable("batch normalisation that looks at the batch is no function of one input")
        scale = torch.ones_like(mean) if weight is None else weight
        shift = torch.zeros_like(mean) if bias is None else bias
        return self._operate("BatchNormalization", name, [data, scale, shift, mean, var], epsilon=eps)

    def largest(self, name: str, data: Data, kernel: Setting, *rest: Setting) -> Data:
        stride, padding, dilation, ceil_mode = _filled(rest, ((), 0, 1, False))
        return self._operate("MaxPool", name, [data], **_windows(data, kernel, stride, padding, dilation, ceil_mode))

    def average(self, name: str, data: Data, kernel: Setting, *rest: Setting | None) -> Data:
        stride, padding, ceil_mode, counting, divisor = _filled(rest, ((), 0, False, True, None))
        if divisor is not None:
            raise Unreadable("an average with a divisor of its own is a layer that proofs do not know")
        settings = _windows(data, kernel, stride, padding, 1, ceil_mode)
        counts = counting and any(settings["pads"])
        return self._operate("AveragePool", name, [data], count_include_pad=int(counts), **settings)

    def adaptive_average(self, name: str, data: Data, size: Setting) -> Data:
        spatial = data.shape[2:]
        wanted = [own if each is None else each for own, each in zip(spatial, _each(size, len(spatial)), strict=True)]
        if any(own % each for own, each in zip(spatial, wanted, strict=True)):
            raise Unreadable("an adaptive average of windows of different sizes is a layer that proofs do not know")
        kernel = [own // each for own, each in zip(spatial, wanted, strict=True)]
        return self.average(name, data, kernel)

    def mean(self, name: str, data: Data, dim: Setting | None = None, keepdim: bool = False, **_: object) -> Data:
        return self._reduced("ReduceMean", name, data, dim, keepdim)

    def sum(self, name: str, data: Data, dim: Setting | None = None, keepdim: bool = False, **_: object) -> Data:
        return self._reduced("ReduceSum", name, data, dim, keepdim)

    def _reduced(self, kind: str, name: str, data: Data, dim: Setting | None, keepdim: bool) -> Data:
        axes = [dim] if isinstance(dim, int) else dim or []
        if not axes or any(axis % len(data.shape) == 0 for axis in axes):
            raise Unreadable("a sum over the batch is a layer that proofs do not know")
        return self._operate(kind, name, [data], axes=axes, keepdims=int(keepdim))

    def add(self, name: str, first: Value, second: Value, *, alpha: float = 1, kind: str = "Add") -> Data:
        if alpha != 1:
            second = self.multiply(name, second, alpha) if isinstance(second, Data) else second * alpha
        return self._operate(kind, name, [first, second])

    def subtract(self, name: str, first: Value, second: Value, *, alpha: float = 1) -> Data:
        return self.add(name, first, second, alpha=alpha, kind="Sub")

    def multiply(self, name: str, first: Value, second: Value) -> Data:
        return self._operate("Mul", name, [first, second])

    def divide(self, name: str, first: Value, second: Value) -> Data:
        return self._operate("Div", name, [first, second])

    def matrix_product(self, name: str, first: Value, second: Value) -> Data:
        return self._operate("MatMul", name, [first, second])

    def with_offset(
        self, name: str, offset: Value, first: Value, second: Value, *, beta: float = 1, alpha: float = 1
    ) -> Data:
        if (beta, alpha) != (1, 1) or isinstance(offset, Data):
            raise Unreadable("addmm with factors is a layer that proofs do not know")
        return self._operate("Add", name, [self.matrix_product(name, first, second), offset])

    def clamp(self, name: str, data: Data, low: Value | None = None, high: Value | None = None) -> Data:
        """``low + relu(x - low) - relu(x - high)``; one side may be missing."""
        if isinstance(low, Data) or isinstance(high, Data):
            raise Unreadable("clamp by another value is a layer that proofs do not know")
        above = data if low is None else self.add(name, self.relu(name, self.subtract(name, data, low)), low)
        if high is None:
            return above
        over = self.relu(name, self.subtract(name, above, high))
        return self.subtract(name, above, over)

    def relu(self, name: str, data: Data) -> Data:
        return self.builder.applied(name, data, Relu(), data.shape)

    def leaky_relu(self, name: str, data: Data, slope: float = 0.01) -> Data:
        if not 0 <= slope <= 1:
            raise Unreadable(f"leaky ReLU with the slope {slope} is a layer that proofs do not know")
        return self.builder.applied(name, data, Relu(float(slope)), data.shape)

    def sigmoid(self, name: str, data: Data) -> Data:
        return self.builder.applied(name, data, Sigmoid(), data.shape)

    def tanh(self, name: str, data: Data) -> Data:
        return self.builder.applied(name, data, Tanh(), data.shape)


def _windows(data: Data, *settings: Any) -> dict[str, Any]:  # noqa: ANN401  # numbers, or some for each dimension
    """Attributes of pooling: kernel, stride, padding, dilation, and whether sizes are rounded up."""
    kernel, stride, padding, dilation, ceil_mode = settings
    dims = len(data.shape) - 2
    sizes = _each(kernel, dims)
    steps = sizes if isinstance(stride, list | tuple) and not stride else _each(stride, dims)
    attributes: dict[str, Any] = {"kernel_shape": sizes, "strides": steps, "pads": 2 * _each(padding, dims)}
    return attributes | {"dilations": _each(dilation, dims), "ceil_mode": int(ceil_mode)}


def _filled(given: Sequence[Any], defaults: Sequence[Any]) -> list[Any]:
    """Arguments of an operation, the last ones by their defaults."""
    return [*given, *defaults[len(given) :]]


def _each(value: Any, dims: int) -> list[Any]:  # noqa: ANN401  # a number, or some
    """A setting for each dimension."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * dims if len(values) == 1 else values


def _array(value: Any) -> Any:  # noqa: ANN401  # numbers
    return value.detach().double().numpy() if isinstance(value, Tensor) else np.asarray(value, np.float64)


RULES: dict[str, Rule] = OPERATORS
TRANSLATIONS: dict[str, Callable[..., Data]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _Tracer.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _Tracer.transposed_convolution),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _Tracer.largest),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _Tracer.average),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _Tracer.adaptive_average),
    **dict.fromkeys(("matmul", "mm", "bmm"), _Tracer.matrix_product),
    **dict.fromkeys(("clamp", "hardtanh", "clip"), _Tracer.clamp),
    "linear": _Tracer.linear,
    "batch_norm": _Tracer.batch_norm,
    "mean": _Tracer.mean,
    "sum": _Tracer.sum,
    "add": _Tracer.add,
    "sub": _Tracer.subtract,
    "rsub": lambda tracer, name, first, second, alpha=1: tracer.subtract(name, second, first, alpha=alpha),
    "mul": _Tracer.multiply,
    "div": _Tracer.divide,
    "neg": lambda tracer, name, data: tracer.multiply(name, data, -1.0),
    "addmm": _Tracer.with_offset,
    "relu": _Tracer.relu,
    "relu6": lambda tracer, name, data: tracer.clamp(name, data, 0.0, 6.0),
    "clamp_min": lambda tracer, name, data, low: tracer.clamp(name, data, low),
    "clamp_max": lambda tracer, name, data, high: tracer.clamp(name, data, None, high),
    "leaky_relu": _Tracer.leaky_relu,
    "sigmoid": _Tracer.sigmoid,
    "tanh": _Tracer.tanh,
}
