"""Values of an ONNX network with the number of inputs in front.

A file describes the network for one input, at batch size 1 where it leaves that size open. Here it is applied to N
inputs at once: a value that depends on the input has N in place of a leading dimension of size 1, or in front of all
others where there is none. So no operation can make the answer for an input depend on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from bounds.onnx.recording import ROWS, Recorded

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Value:
    """A value of an ONNX network.

    Attributes:
        tensor: of a constant as the file has it; else (N, *shape), without a leading dimension of size 1 where the
            shape has two or more. A stand-in, or an ordinary tensor where no weight takes part.
        shape: in the file, at batch size 1.
        whole: whether its entries are integers in the file, kept as real numbers here.
    """

    tensor: Any
    shape: tuple[int, ...]
    whole: bool = False

    @property
    def is_data(self) -> bool:
        """Whether it depends on the input."""
        return isinstance(self.tensor, Recorded) and self.tensor.is_data

    @property
    def ndim(self) -> int:
        """Number of dimensions in the file."""
        return len(self.shape)

    @property
    def is_condition(self) -> bool:
        """Whether its entries are true or false."""
        return self.dtype == torch.bool

    @property
    def dtype(self) -> torch.dtype:
        """The type of its entries."""
        found: torch.dtype = self.tensor.dtype
        return found

    def numbers(self) -> Tensor:
        """Entries of a constant."""
        return self.tensor.value if isinstance(self.tensor, Recorded) else cast(Tensor, self.tensor)

    def opened(self, axes: Sequence[int] = ()) -> tuple[Any, int]:
        """The tensor, and how much further back in it the dimensions of the file are.

        With the leading dimension of size 1 where that is one of the axes.
        """
        if not self.is_data:
            return self.tensor, 0
        if self.ndim > 1 and self.shape[0] == 1:
            return (aten.unsqueeze.default(self.tensor, 1), 1) if 0 in axes else (self.tensor, 0)
        return self.tensor, 1

    def viewed(self, shape: Sequence[int]) -> "Value":
        """A value of another shape with these entries."""
        shape = tuple(shape)
        if not self.is_data:
            return constant(self.tensor if shape == self.shape else aten.reshape.default(self.tensor, list(shape)))
        here, there = compact(self.shape), compact(shape)
        tensor = self.tensor if here == there else aten.reshape.default(self.tensor, [-1, *there])
        return replace(self, tensor=tensor, shape=shape)


def compact(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape behind N: without a leading dimension of size 1, whose place N takes."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] == 1 else tuple(shape)


def constant(tensor: Any) -> Value:  # noqa: ANN401  # a tensor or a stand-in
    """A value that does not depend on the input."""
    return Value(tensor, tuple(tensor.shape))


def closed(tensor: Any, offset: int, like: Value) -> Value:  # noqa: ANN401  # a tensor or a stand-in
    """The value of a tensor whose dimensions are as those of ``like`` after :meth:`Value.opened`."""
    if not like.is_data:
        return constant(tensor)
    if offset == 0:
        return Value(tensor, (1, *tensor.shape[1:]))
    return opened_value(tensor)


def opened_value(tensor: Any) -> Value:  # noqa: ANN401  # a stand-in
    """The value of data (N, *shape) with all dimensions of the file."""
    shape = tuple(tensor.shape[1:])
    here = compact(shape)
    return Value(tensor if here == shape else aten.reshape.default(tensor, [-1, *here]), shape)


def whole_tensor(value: Value, ndim: int = 0) -> Any:  # noqa: ANN401  # a stand-in
    """Data (N, *shape) with all dimensions of the file, and further ones of size 1 in front."""
    shape = (*[1] * (ndim - value.ndim), *value.shape)
    if tuple(value.tensor.shape[1:]) == shape:
        return value.tensor
    return aten.reshape.default(value.tensor, [-1, *shape])


def repeated(tensor: Any, like: Any) -> Any:  # noqa: ANN401  # a tensor or a stand-in, and a stand-in
    """A constant once for each of the inputs that ``like`` depends on."""
    return like.recorder.call(aten.expand.default, tensor, [ROWS, *tensor.shape])


def aligned(values: Sequence[Value]) -> tuple[list[Any], bool]:
    """Tensors that broadcast against each other as the file says, and whether they have all its dimensions."""
    data = [value for value in values if value.is_data]
    if not data:
        return [value.tensor for value in values], False
    ndim = max(value.ndim for value in values)
    full = ndim < 2 or any(value.ndim == ndim and value.shape[0] != 1 for value in values)
    tensors = []
    for value in values:
        shape = (*[1] * (ndim - value.ndim), *value.shape)
        wanted = shape if full else shape[1:]
        if value.is_data and tuple(value.tensor.shape[1:]) != wanted:
            tensors.append(aten.reshape.default(value.tensor, [-1, *wanted]))
        else:
            tensors.append(value.tensor)
    return tensors, full


def merged(tensor: Any, full: bool, data: bool) -> Value:  # noqa: ANN401  # a tensor or a stand-in
    """The value of a result of aligned tensors."""
    if not data:
        return constant(tensor)
    return opened_value(tensor) if full else Value(tensor, (1, *tensor.shape[1:]))
