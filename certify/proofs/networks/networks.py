"""Networks as the checker sees them: linear maps, functions, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from certify.proofs.errors import Unreadable
from certify.proofs.networks.functions import Function, Largest
from certify.proofs.networks.maps import Array, Map, Scale, Selection


@dataclass(frozen=True, eq=False)
class Node:
    """A flat array of values: the input, a sum of linear maps of others and an offset, or a function of another.

    Attributes:
        name: of the operation in the file.
        size: number of values.
        parents: places of other nodes.
        maps: one for each parent of an affine node.
        offset: (size,) of an affine node.
        function: of the only parent, in other nodes.
    """

    name: str
    size: int
    parents: tuple[int, ...] = ()
    maps: tuple[Map, ...] = ()
    offset: Array = field(default_factory=lambda: np.zeros(0))
    function: Function | Largest | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """The nodes of a network, each behind its parents; the first is the input and the last one the output."""

    nodes: tuple[Node, ...]

    @property
    def functions(self) -> list[int]:
        """Places of nodes with a function of one variable, whose neurons can be split."""
        return [place for place, node in enumerate(self.nodes) if isinstance(node.function, Function)]

    def values(self, x: Array) -> Array:
        """Outputs (N, K) of inputs (N, F), without regard to rounding."""
        found = [x]
        for node in self.nodes[1:]:
            given = [found[parent] for parent in node.parents]
            if isinstance(node.function, Function):
                found.append(node.function.values(given[0])[0])
            elif node.function is not None:
                found.append(node.function.values(given[0]))
            else:
                found.append(sum((m.forward(v) for m, v in zip(node.maps, given, strict=True)), node.offset[None]))
        return found[-1]


class Data(NamedTuple):
    """Values that depend on the input: a node, and the shape of its values."""

    node: int
    shape: tuple[int, ...]


class Operation(NamedTuple):
    """One node of the file.

    Attributes:
        proto: of the package ``onnx``.
        inputs: data, constants, and None for what is left out.
        attributes: by name.
        opset: version.
    """

    proto: Any
    inputs: "list[Data | np.ndarray[Any, Any] | None]"
    attributes: dict[str, Any]
    opset: int

    def input(self, place: int) -> Any:  # noqa: ANN401  # data or a constant
        """An input, None if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def constant(self, place: int) -> Any:  # noqa: ANN401  # an array
        """A constant input, None if it is left out.

        Raises:
            Unreadable: it depends on the input of the network.
        """
        found = self.input(place)
        if isinstance(found, Data):
            raise self.refused(f"has an input {place} that depends on the network's input")
        return found

    def data(self, place: int) -> Data:
        """An input that depends on the network's input.

        Raises:
            Unreadable: it does not.
        """
        found = self.input(place)
        if not isinstance(found, Data):
            raise self.refused(f"has an input {place} that does not depend on the network's input")
        return found

    @property
    def name(self) -> str:
        """In the file; the first output where there is none."""
        return self.proto.name or next(filter(None, self.proto.output), "")

    def refused(self, reason: str = "is not one that proofs know") -> Unreadable:
        """The error that names the operation."""
        return Unreadable(f"operator {self.proto.op_type} (node {self.name!r}) {reason}")


class Builder:
    """The nodes that a network gets, one after the other.

    Attributes:
        nodes: so far.
        is_wide: whether some of their numbers may be of double precision.
    """

    def __init__(self, size: int, *, is_wide: bool = False) -> None:
        self.nodes = [Node("input", size)]
        self.is_wide = is_wide

    def affine(
        self,
        name: str,
        parts: Sequence[tuple[Data, Map]],
        shape: tuple[int, ...],
        offset: Any = None,  # noqa: ANN401
    ) -> Data:
        """A node that is a sum of maps of others, and an offset that broadcasts to its shape."""
        size = int(np.prod(shape, dtype=np.int64))
        wide = np.zeros(shape) if offset is None else np.broadcast_to(np.asarray(offset, np.float64), shape)
        parents, maps = tuple(each.node for each, _ in parts), tuple(each for _, each in parts)
        return self._add(Node(name, size, parents, maps, wide.reshape(-1).copy()), shape)

    def mapped(self, name: str, data: Data, map_: Map, shape: tuple[int, ...], offset: Any = None) -> Data:  # noqa: ANN401
        """A node that is one map of another."""
        return self.affine(name, [(data, map_)], shape, offset)

    def selected(self, name: str, data: Data, index: "np.ndarray[Any, Any]") -> Data:
        """A node of the shape of an array of places of another's values."""
        size = self.nodes[data.node].size
        return self.mapped(name, data, Selection(index.reshape(-1).astype(np.int64), size), index.shape)

    def broadcast(self, name: str, data: Data, shape: tuple[int, ...]) -> Data:
        """The data in another shape, by the rules of broadcasting."""
        if data.shape == shape:
            return data
        size = self.nodes[data.node].size
        return self.selected(name, data, np.broadcast_to(np.arange(size).reshape(data.shape), shape))

    def scaled(self, name: str, data: Data, factor: Any, roundings: int = 0) -> Data:  # noqa: ANN401
        """The data times factors, in the shape that both broadcast to."""
        factor = np.asarray(factor, np.float64)
        shape = np.broadcast_shapes(data.shape, factor.shape)
        data = self.broadcast(name, data, shape)
        return self.mapped(name, data, Scale(np.broadcast_to(factor, shape).reshape(-1), roundings), shape)

    def applied(self, name: str, data: Data, function: Function | Largest, shape: tuple[int, ...]) -> Data:
        """A node with a function of another."""
        size = int(np.prod(shape, dtype=np.int64))
        return self._add(Node(name, size, (data.node,), function=function), shape)

    def _add(self, node: Node, shape: tuple[int, ...]) -> Data:
        self.nodes.append(node)
        return Data(len(self.nodes) - 1, tuple(int(size) for size in shape))
