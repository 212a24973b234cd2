"""A captured network as alternating matrices and functions of single numbers, for the tighter Lipschitz bounds."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.errors import InvalidInput, UnsupportedLayer
from bounds.linear.network import Network
from bounds.lipschitz.operator_norms import Matrix, exact
from bounds.numerics import accumulated_error
from bounds.operations.affine import RESHAPE
from bounds.operations.node import Node, entries
from bounds.relaxations.derivative_range import slope_range
from bounds.relaxations.scalar import ScalarFunction
from bounds.sets.balls import Interval

LARGEST = 2**24  # entries of one matrix
# Of these every entry of the matrix is a weight or 0, and the value at 0 is the bias.
WEIGHTED = ("aten.linear.default", "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")


@dataclass(frozen=True, eq=False)
class LayerChain:
    """``weights[-1] f[-1]( ... f[0](weights[0] x))``, without the constants.

    Attributes:
        weights: one more than functions.
        functions: each applied entry by entry.
        inputs: names of the nodes that the functions take.
        offsets: constants (size,) added behind each weight; None where these, or the weight, are not known exactly.
    """

    weights: list[Matrix]
    functions: list[ScalarFunction]
    inputs: list[str]
    offsets: list[Tensor | None]

    def slopes(self, network: Network, row: int | None) -> list[Interval]:
        """Ranges of the slopes of all functions, (size,) each: everywhere, or within the intervals of one input."""
        found = []
        for function, name, weight in zip(self.functions, self.inputs, self.weights, strict=False):
            if row is None:
                shape = network.nodes[name].value[:1].shape
                ends = (weight.value.new_full(shape, end) for end in (-math.inf, math.inf))
            else:
                interval = network.intervals[name]
                ends = (end[row : row + 1] for end in (interval.lower, interval.upper))
            slopes = slope_range(function, Interval(*ends))
            found.append(Interval(slopes.lower.flatten(), slopes.upper.flatten()))
        return found

    def of_rows(self, rows: Tensor) -> "LayerChain":
        """The chain of linear functions (R, K) of the outputs."""
        last = exact(rows.to(self.weights[-1].value)) @ self.weights[-1]
        return LayerChain([*self.weights[:-1], last], self.functions, self.inputs, self.offsets)


class Image(NamedTuple):
    """A node as an affine image of the input or of a function: its base, the matrix (None for itself), the offset."""

    base: str
    matrix: Matrix | None = None
    offset: Tensor | None = None  # None where it, or the matrix, is not known exactly


@torch.no_grad()
def chain_of(network: Network) -> LayerChain:
    """The chain of a network that was bound to one input.

    Raises:
        UnsupportedLayer: the network branches around a function, or has functions of several numbers.
        InvalidInput: a matrix of more than 2^24 entries.
    """
    images: dict[str, Image] = {}
    functions, inputs, ends = [], [], []
    last = next(name for name in network.order if network.nodes[name].operation == "input")
    for name in network.order:
        node = network.nodes[name]
        if node.operation == "input":
            images[name] = Image(name)
        elif name in network.functions:
            function, image = network.functions[name], images[node.parents[0]]
            if not isinstance(function, ScalarFunction) or image.base != last:
                raise _branching(node)
            functions.append(function)
            inputs.append(node.parents[0])
            ends.append(_ended(network, node.parents[0], image))
            images[name], last = Image(name), name
        else:
            images[name] = _image(network, name, [images[parent] for parent in node.parents])
    if images["output"].base != last:
        raise _branching(network.nodes["output"])
    ends.append(_ended(network, "output", images["output"]))
    return LayerChain([matrix for matrix, _ in ends], functions, inputs, [offset for _, offset in ends])


def _ended(network: Network, name: str, image: Image) -> tuple[Matrix, Tensor | None]:
    """The matrix and offset of an image, spelt out where it is the base itself."""
    if image.matrix is not None:
        return image.matrix, image.offset
    like = network.nodes[name].value
    identity = torch.eye(entries(like), dtype=like.dtype, device=like.device)
    return exact(identity), identity.new_zeros(len(identity))


def node_matrix(network: Network, name: str, place: int) -> Matrix:
    """The matrix of an affine node for one of its parents, of a network that was bound to one input."""
    node, rule = network.nodes[name], network.rules[name]
    parents = [torch.zeros_like(network.nodes[parent].value) for parent in node.parents]
    count = entries(node.value)

    def alone(x: Tensor) -> Tensor:
        return node.function(*parents[:place], x, *parents[place + 1 :])

    value, transpose, *_ = torch.func.vjp(alone, parents[place])
    units = torch.eye(count, dtype=value.dtype, device=value.device).view(count, *value.shape)
    matrix = torch.func.vmap(lambda unit: transpose(unit)[0])(units).reshape(count, -1)
    if rule.exact or (node.operation in WEIGHTED and not network.constant_units(name)):
        return exact(matrix)
    gamma = 2 * accumulated_error(rule.terms(node, tuple(parents)), matrix.dtype)  # sums of numbers of one sign
    return Matrix(matrix, gamma * matrix.abs())


def _image(network: Network, name: str, parents: list[Image]) -> Image:
    node = network.nodes[name]
    base, first, _ = parents[0]
    if any(other.base != base for other in parents):
        raise _branching(node)
    if network.rules[name] is RESHAPE:
        return parents[0]
    total: Matrix | None = None
    for place, (parent, image) in enumerate(zip(node.parents, parents, strict=True)):
        rows, columns = entries(node.value), entries(network.nodes[parent].value)
        if rows * columns > LARGEST:
            raise InvalidInput(
                f"{node.operation} is a matrix of {rows} rows and {columns} columns, beyond 2^24 entries: use "
                f"method='product'"
            )
        matrix = node_matrix(network, name, place)
        total = _sum(total, matrix if image.matrix is None else matrix @ image.matrix)
    known = len(parents) == 1 and first is None and node.operation in WEIGHTED
    start = node.function(*(torch.zeros_like(network.nodes[parent].value) for parent in node.parents)).flatten()
    return Image(base, total, start if known else None)


def _sum(one: Matrix | None, other: Matrix) -> Matrix:
    if one is None:
        return other
    value = one.value + other.value
    return Matrix(value, one.error + other.error + 2.0**-51 * value.abs())


def _branching(node: Node) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"{node.operation} at {node.origin} does not follow the last function alone: this method takes networks "
        f"without branches; use method='product'"
    )
