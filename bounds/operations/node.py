"""One operation of a captured network."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from bounds.operations.constants import Constant

Function = Callable[..., Tensor]
LARGEST_KEPT = 2**18  # entries of a weight of which scaled copies and absolute values are kept for later bounds


@dataclass(frozen=True, eq=False)
class Node:
    """One operation on data, with everything else already filled in.

    Attributes:
        name: unique in its graph.
        operation: name of the ATen operation, such as ``"aten.conv2d.default"``; ``"input"`` for the input.
        parents: names of the nodes it takes data from, in the order in which ``function`` takes them.
        function: the operation as a function of its data alone, row by row.
        arguments: the arguments of the operation by position, None in the places of data.
        options: its arguments by name.
        value: an example of its values, of their shape and dtype; entries mean nothing.
        batch: the dimension of its value that counts inputs; None where rows are merged with others.
        origin: where in the source code it stands.
        single: in a network captured for one input at a time, the operation for one; else None.
        truth: whether its values are the numbers 0 and 1 of a condition.
        constants: the tensors among its arguments that are no data, with the rounding of their computation.
        cache: what has been derived from the node's constants, by name.
    """

    name: str
    operation: str
    parents: tuple[str, ...]
    function: Function
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    value: Tensor
    batch: int | None
    origin: str
    single: "Node | None" = None
    truth: bool = False
    constants: "tuple[Constant, ...]" = ()
    cache: dict[str, Any] = field(default_factory=dict)

    def cached(self, name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever is made
        """Something derived from the constants of the node, made once; anew where they want gradients."""
        if torch.is_grad_enabled():
            leaves = pytree.tree_leaves((self.arguments, self.options))
            if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
                return make()
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]


def part_of(
    node: Node, suffix: str, operation: str, parents: tuple[Node, ...], function: Function, arguments: tuple[Any, ...]
) -> Node:
    """A part of an operation; the last one, without a suffix, has its name."""
    name = f"{node.name}/{suffix}" if suffix else node.name
    value = function(*(parent.value for parent in parents))
    names = tuple(parent.name for parent in parents)
    truth = node.truth and not suffix
    constants = node.constants if any(isinstance(argument, Tensor) for argument in arguments) else ()
    return Node(
        name,
        operation,
        names,
        function,
        arguments,
        {},
        value,
        node.batch,
        node.origin,
        truth=truth,
        constants=constants,
    )


def entries(value: Tensor) -> int:
    """Entries of one row."""
    return math.prod(value.shape[1:])
