"""Linear maps between flat arrays, which take inputs forward and coefficients backward.

Each map knows how many products it sums up for one number, which bounds its rounding errors, and its twin with the
magnitudes of all weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


class Terms(NamedTuple):
    """Roundings that one number of a result may take, forward and backward."""

    forward: int
    backward: int


class Map(ABC):
    """A linear map from (N, F) to (N, G)."""

    @property
    @abstractmethod
    def terms(self) -> Terms:
        """Roundings of one number, products and sums together."""

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Values (N, G) of inputs (N, F)."""

    @abstractmethod
    def backward(self, rows: Array) -> Array:
        """Coefficients (N, F) of the inputs, from those (N, G) of the values."""

    @abstractmethod
    def magnitude(self) -> "Map":
        """The map with the magnitudes of all weights."""


@dataclass(frozen=True, eq=False)
class Selection(Map):
    """Each value is one of the inputs, or 0.

    Attributes:
        index: (G,), place of the input; -1 for 0.
        size: F.
    """

    index: Index
    size: int

    @cached_property
    def _is_identity(self) -> bool:
        return len(self.index) == self.size and bool((self.index == np.arange(self.size)).all())

    @cached_property
    def _layers(self) -> list[tuple[Index, Index]]:
        """Values and the inputs that they are, in groups in which no input occurs twice."""
        values = np.flatnonzero(self.index >= 0)
        order = values[np.argsort(self.index[values], kind="stable")]
        inputs = self.index[order]
        begins = np.flatnonzero(np.diff(inputs, prepend=-1))
        rank = np.arange(len(inputs)) - np.repeat(begins, np.diff(begins, append=len(inputs)))
        return [(order[rank == each], inputs[rank == each]) for each in range(int(rank.max(initial=-1)) + 1)]

    @property
    def terms(self) -> Terms:
        """Sums of inputs that are taken several times."""
        return Terms(0, len(self._layers))

    def forward(self, x: Array) -> Array:
        """The inputs that are selected."""
        if self._is_identity:
            return x
        return np.where(self.index >= 0, x[:, self.index], 0.0)

    def backward(self, rows: Array) -> Array:
        """The coefficients of all values that are the same input, added up."""
        if self._is_identity:
            return rows
        found = np.zeros((len(rows), self.size))
        for values, inputs in self._layers:
            found[:, inputs] += rows[:, values]
        return found

    def magnitude(self) -> Map:
        """Itself: no weight is negative."""
        return self


@dataclass(frozen=True, eq=False)
class Transposed(Map):
    """The transpose of another map."""

    of: Map

    @property
    def terms(self) -> Terms:
        """Forward and backward exchanged."""
        return Terms(self.of.terms.backward, self.of.terms.forward)

    def forward(self, x: Array) -> Array:
        """Backward through the other."""
        return self.of.backward(x)

    def backward(self, rows: Array) -> Array:
        """Forward through the other."""
        return self.of.forward(rows)

    def magnitude(self) -> Map:
        """The transpose of the other's."""
        return Transposed(self.of.magnitude())


@dataclass(frozen=True, eq=False)
class Scale(Map):
    """Each input times a factor.

    Attributes:
        factor: (F,).
        roundings: that the factors have behind them, in units of the roundoff of float64.
    """

    factor: Array
    roundings: int = 0

    @property
    def terms(self) -> Terms:
        """One product, and what is behind the factor."""
        return Terms(1 + self.roundings, 1 + self.roundings)

    def forward(self, x: Array) -> Array:
        """The products."""
        return x * self.factor

    def backward(self, rows: Array) -> Array:
        """The products."""
        return rows * self.factor

    def magnitude(self) -> Map:
        """With positive factors."""
        return replace(self, factor=np.abs(self.factor))


@dataclass(frozen=True, eq=False)
class Product(Map):
    """A product of the inputs with a matrix, on either side.

    Attributes:
        matrix: with dimensions in front that do not go beyond those of the inputs.
        shape: of one input, with at least two dimensions.
        on_left: whether the matrix stands on the left.
    """

    matrix: Array
    shape: tuple[int, ...]
    on_left: bool = False

    @property
    def _shape_out(self) -> tuple[int, ...]:
        rows, columns = self.matrix.shape[-2:]
        return (*self.shape[:-2], rows, self.shape[-1]) if self.on_left else (*self.shape[:-1], columns)

    @property
    def terms(self) -> Terms:
        """One row or column of the matrix."""
        rows, columns = self.matrix.shape[-2:]
        return Terms(columns, rows) if self.on_left else Terms(rows, columns)

    def forward(self, x: Array) -> Array:
        """The matrix product."""
        return self._times(x.reshape(-1, *self.shape), self.matrix)

    def backward(self, rows: Array) -> Array:
        """The product with the transposed matrix."""
        return self._times(rows.reshape(-1, *self._shape_out), self.matrix.swapaxes(-1, -2))

    def _times(self, x: Array, matrix: Array) -> Array:
        if not self.on_left and matrix.ndim == 2:
            return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(len(x), -1)
        return (matrix @ x if self.on_left else x @ matrix).reshape(len(x), -1)

    def magnitude(self) -> Map:
        """With the magnitudes of the matrix."""
        return replace(self, matrix=np.abs(self.matrix))


@dataclass(frozen=True, eq=False)
class Convolution(Map):
    """A convolution in any number of dimensions.

    Attributes:
        weight: (G, O, C, *K), with G groups.
        shape: (G C, *S) of one input.
        strides: of each dimension.
        pads: zeros before and behind each dimension.
        dilations: of each dimension.
    """

    weight: Array
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    @property
    def spatial_out(self) -> tuple[int, ...]:
        """The spatial shape of a value."""
        parts = zip(self.shape[1:], self.pads, self.weight.shape[3:], self.dilations, self.strides, strict=True)
        return tuple(
            (size + sum(pad) - dilation * (k - 1) - 1) // stride + 1 for size, pad, k, dilation, stride in parts
        )

    @property
    def terms(self) -> Terms:
        """One kernel over all channels of a group."""
        kernel = int(np.prod(self.weight.shape[3:], dtype=np.int64))
        return Terms(self.weight.shape[2] * kernel, self.weight.shape[1] * kernel)

    def _taps(self) -> "list[tuple[Array, tuple[slice, ...]]]":
        """The weights (G, O, C) at each place of the kernel, and what they meet of the padded input."""
        found = []
        for number, place in enumerate(product(*(range(k) for k in self.weight.shape[3:]))):
            met = tuple(
                slice(at * dilation, at * dilation + stride * (count - 1) + 1, stride)
                for at, dilation, stride, count in zip(
                    place, self.dilations, self.strides, self.spatial_out, strict=True
                )
            )
            found.append(
                (self.weight.reshape(*self.weight.shape[:3], -1)[..., number], (slice(None), slice(None), *met))
            )
        return found

    @property
    def _padded(self) -> tuple[int, ...]:
        return tuple(size + sum(pad) for size, pad in zip(self.shape[1:], self.pads, strict=True))

    @property
    def _inner(self) -> tuple[slice, ...]:
        parts = zip(self.shape[1:], self.pads, strict=True)
        return (slice(None), slice(None), *(slice(pad[0], pad[0] + size) for size, pad in parts))

    def forward(self, x: Array) -> Array:
        """The convolution."""
        count, (groups, out, channels) = len(x), self.weight.shape[:3]
        padded = np.zeros((count, self.shape[0], *self._padded))
        padded[self._inner] = x.reshape(count, *self.shape)
        found = np.zeros((count, groups, out, int(np.prod(self.spatial_out, dtype=np.int64))))
        for weight, met in self._taps():
            found += weight @ padded[met].reshape(count, groups, channels, -1)
        return found.reshape(count, -1)

    def backward(self, rows: Array) -> Array:
        """The transposed convolution."""
        count, (groups, out, _) = len(rows), self.weight.shape[:3]
        rows = rows.reshape(count, groups, out, -1)
        padded = np.zeros((count, self.shape[0], *self._padded))
        for weight, met in self._taps():
            padded[met] += (weight.swapaxes(1, 2) @ rows).reshape(count, self.shape[0], *self.spatial_out)
        return padded[self._inner].reshape(count, -1)

    def magnitude(self) -> Map:
        """With the magnitudes of the weights."""
        return replace(self, weight=np.abs(self.weight))


def identity(size: int) -> Selection:
    """The map that changes nothing."""
    return Selection(np.arange(size), size)


def places(size: int, start: int, total: int) -> Map:
    """The map that puts inputs at places from ``start`` onward of ``total`` values."""
    return Transposed(Selection(np.arange(start, start + size), total))
