"""Stand-ins for tensors that write down what is done to them, as a graph of ATen operations.

``torch.export`` finds the same graph by running a model under several layers of interception, which takes seconds the
first time. A file says which operations it is made of, so that calling them on stand-ins is enough.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bounds.decompositions.table import REWRITES
from bounds.errors import InvalidModel

aten = torch.ops.aten
# Stands for the number of inputs wherever a shape is asked for: a prime that no size of a network has as a factor.
ROWS = 1_000_003
EXAMPLES = 3  # inputs on which operations are tried for their shapes; tensors without numbers take a second to import
Operation = torch._ops.OpOverload

# What code on tensors says, by method or function, as the operation that it is.
NAMED: dict[str, Operation] = {
    "abs": aten.abs.default,
    "add": aten.add.Tensor,
    "amax": aten.amax.default,
    "argmax": aten.argmax.default,
    "atan": aten.atan.default,
    "clone": aten.clone.default,
    "clamp": aten.clamp.default,
    "diagonal": aten.diagonal.default,
    "div": aten.div.Tensor,
    "exp": aten.exp.default,
    "expand": aten.expand.default,
    "flatten": aten.flatten.using_ints,
    "floor": aten.floor.default,
    "index_select": aten.index_select.default,
    "log": aten.log.default,
    "matmul": aten.matmul.default,
    "mean": aten.mean.dim,
    "movedim": aten.movedim.int,
    "mul": aten.mul.Tensor,
    "neg": aten.neg.default,
    "permute": aten.permute.default,
    "relu": aten.relu.default,
    "reshape": aten.reshape.default,
    "round": aten.round.default,
    "softplus": aten.softplus.default,
    "sqrt": aten.sqrt.default,
    "stack": aten.stack.default,
    "sub": aten.sub.Tensor,
    "sum": aten.sum.dim_IntList,
    "transpose": aten.transpose.int,
    "unbind": aten.unbind.int,
    "unflatten": aten.unflatten.int,
    "unsqueeze": aten.unsqueeze.default,
    "view": aten.view.default,
    "where": aten.where.self,
    "zeros_like": aten.zeros_like.default,
}


class Recorded:
    """A tensor that depends on the input, a weight, or what is computed from weights alone.

    Attributes:
        node: of the graph that is written.
        value: numbers of a constant; for data of :data:`EXAMPLES` inputs of 0.
        is_data: whether it depends on the input.
    """

    def __init__(self, recorder: "Recorder", node: fx.Node, value: Tensor, is_data: bool) -> None:
        self.recorder, self.node, self.value, self.is_data = recorder, node, value, is_data

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401  # one stand-in, or several
        """Write down a call of torch."""
        recorder = next(leaf.recorder for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Recorded))
        if isinstance(func, Operation):
            return recorder.call(func, *args, **(kwargs or {}))
        name = func.__name__.strip("_")
        if name == "broadcast_tensors":
            return recorder.call(aten.broadcast_tensors.default, list(args))
        if name == "relu":  # whose second argument is not one of the operation
            return recorder.call(aten.relu.default, args[0])
        if name == "where" and not isinstance(args[2], Recorded | Tensor):
            return recorder.call(aten.where.ScalarOther, *args)
        return recorder.call(_named(name), *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self.recorder.call, _named(name), self)

    @property
    def shape(self) -> torch.Size:
        """With :data:`ROWS` in front, of data."""
        return torch.Size((ROWS, *self.value.shape[1:])) if self.is_data else self.value.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.value.ndim

    @property
    def dtype(self) -> torch.dtype:
        """As the file has it."""
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        """The device on which constants are made."""
        return torch.device("cpu")

    def factors(self) -> "tuple[Recorded, Recorded] | None":
        """The data and the weight that it is the product of, without anything added."""
        if self.node.target is not aten.linear.default or len(self.node.args) != 2:
            return None
        data, weight = self.node.all_input_nodes
        return self.recorder.known[data], self.recorder.known[weight]

    def is_floating_point(self) -> bool:
        """Whether entries are real numbers."""
        return self.value.is_floating_point()

    def __neg__(self) -> "Recorded":
        return self.recorder.one(aten.neg.default, self)

    def __add__(self, other: Any) -> "Recorded":  # noqa: ANN401  # a stand-in, a tensor or a number
        return self.recorder.one(aten.add.Tensor, self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Recorded":  # noqa: ANN401
        return self.recorder.one(aten.sub.Tensor, self, other)

    def __rsub__(self, other: float) -> "Recorded":
        return self.recorder.one(aten.rsub.Scalar, self, other)

    def __mul__(self, other: Any) -> "Recorded":  # noqa: ANN401
        return self.recorder.one(aten.mul.Tensor, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Recorded":  # noqa: ANN401
        return self.recorder.one(aten.div.Tensor, self, other)

    def __pow__(self, exponent: float) -> "Recorded":
        return self.recorder.one(aten.pow.Tensor_Scalar, self, exponent)

    def __gt__(self, other: float) -> "Recorded":
        return self.recorder.one(aten.gt.Scalar, self, other)

    def __lt__(self, other: float) -> "Recorded":
        return self.recorder.one(aten.lt.Scalar, self, other)

    def __matmul__(self, other: Any) -> "Recorded":  # noqa: ANN401
        return self.recorder.one(aten.matmul.default, self, other)


class Recorder:
    """A graph in the making.

    Attributes:
        graph: placeholders of weights and other constants first, then the input and all operations.
        stored: weights and other constants, by the names of their placeholders.
        origin: the line that operations are said to come from.
        known: the stand-in of each node.
    """

    def __init__(self, rewrites: bool) -> None:
        self.graph = fx.Graph()
        self.stored: dict[str, Tensor] = {}
        self.origin = ""
        self.rewrites = rewrites
        self.known: dict[fx.Node, Recorded] = {}
        self._input: fx.Node | None = None
        self._rows: fx.Node | None = None
        self._lifted: dict[int, fx.Node] = {}

    def weight(self, name: str, value: Tensor) -> Recorded:
        """A stand-in for a tensor that is stored, under a name of its own."""
        before = self._input if self._input is not None else self.graph._root
        with self.graph.inserting_before(before):
            node = self.graph.placeholder(name)
        self.stored[node.name] = value
        return self._filed(node, value, is_data=False)

    def input(self, shape: tuple[int, ...], dtype: torch.dtype) -> Recorded:
        """A stand-in for the input (N, *shape)."""
        node = self.graph.placeholder("x")
        self._input = node
        return self._filed(node, torch.zeros(EXAMPLES, *shape, dtype=dtype), is_data=True)

    def end(self, output: Recorded) -> None:
        """File the result, and forget what it does not need."""
        self.graph.output(output.node)
        self.graph.eliminate_dead_code()
        for node in list(self.graph.nodes):
            if node.name in self.stored and not node.users:
                self.graph.erase_node(node)
                del self.stored[node.name]

    def one(self, operation: Operation, *args: Any) -> Recorded:  # noqa: ANN401  # of the operation
        """An operation with one result."""
        made: Recorded = self.call(operation, *args)
        return made

    def call(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # one stand-in, or several
        """Write down an operation; where it is to be written as simpler ones, these."""
        if self.rewrites and operation in REWRITES and _any_data(args):
            found = REWRITES[operation](*args, **kwargs)
            if found is not NotImplemented:
                return found
        leaves, spec = pytree.tree_flatten((args, kwargs))
        of_data = _any_data(leaves)
        given, named = pytree.tree_unflatten([_tried(leaf) for leaf in leaves], spec)
        value = operation(*given, **named)
        nodes, options = pytree.tree_unflatten([self._argument(leaf) for leaf in leaves], spec)
        node = self.graph.call_function(operation, nodes, options)
        if isinstance(value, Tensor):
            return self._filed(node, value, of_data)
        picked = [self.graph.call_function(operator.getitem, (node, i)) for i in range(len(value))]
        return [self._filed(part, one, of_data) for part, one in zip(picked, value, strict=True)]

    def _argument(self, leaf: Any) -> Any:  # noqa: ANN401  # of an operation
        """The argument as the graph has it."""
        if isinstance(leaf, Recorded):
            return leaf.node
        if isinstance(leaf, Tensor):
            if id(leaf) not in self._lifted:
                self._lifted[id(leaf)] = self.weight(f"constant_{len(self.stored)}", leaf).node
            return self._lifted[id(leaf)]
        return self._count() if _is_count(leaf) else leaf

    def _count(self) -> fx.Node:
        """The number of inputs."""
        if self._rows is None:
            assert self._input is not None
            with self.graph.inserting_after(self._input):
                self._rows = self.graph.call_function(aten.sym_size.int, (self._input, 0))
        return self._rows

    def _filed(self, node: fx.Node, value: Tensor, is_data: bool) -> Recorded:
        """The stand-in of a node; of data, the first dimension must be that of inputs."""
        node.meta["val"] = torch.empty(value.shape, dtype=value.dtype, device="meta")
        node.meta["stack_trace"] = self.origin
        if is_data:
            node.meta["batch"] = 0
            if value.ndim == 0 or len(value) != EXAMPLES:
                raise InvalidModel(f"{node.target} merges inputs with each other at {self.origin}")
        self.known[node] = Recorded(self, node, value, is_data)
        return self.known[node]


def _any_data(args: Any) -> bool:  # noqa: ANN401  # of an operation
    return any(isinstance(leaf, Recorded) and leaf.is_data for leaf in pytree.tree_leaves(args))


def _is_count(leaf: object) -> bool:
    """Whether an argument is the number of inputs.

    Raises:
        InvalidModel: a multiple of it, so that inputs are merged with something else.
    """
    if not isinstance(leaf, int) or isinstance(leaf, bool) or leaf == 0 or leaf % ROWS:
        return False
    if leaf != ROWS:
        raise InvalidModel("an operation merges the dimension of inputs with another one")
    return True


def _tried(leaf: Any) -> Any:  # noqa: ANN401  # of an operation
    """The argument with numbers for stand-ins."""
    if isinstance(leaf, Recorded):
        return leaf.value
    return EXAMPLES if _is_count(leaf) else leaf


def _named(name: str) -> Operation:
    if name not in NAMED:
        raise NotImplementedError(f"a stand-in for a tensor knows no {name}: add it to bounds.onnx.recording.NAMED")
    return NAMED[name]
