"""Memory that rows take, counted operation by operation: in passes of a model, and in what a method holds besides."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bounds.errors import BoundsError
from certify.methods import Method, Problem
from certify.models import frozen

STEPS = 4  # of a search whose memory is counted; it does not grow with them
DRAWS = 100


class HeldBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made in the body of a ``with`` and that are still there.

    Counts are the same on every machine, where those of an operating system depend on what it gave before.

    Attributes:
        peak: largest number of bytes at one moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401  # whatever the operation takes and returns
        result = function(*args, **(kwargs or {}))
        given = {_storage(leaf)[1] for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            storage, address, size = _storage(leaf) if isinstance(leaf, Tensor) else (None, 0, 0)
            if size and address not in given and address not in self._known:
                self._known.add(address)
                self._now += size
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._freed, address, size)
        return result

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size


def _storage(tensor: Tensor) -> tuple[object, int, int]:
    """Storage of a tensor, its address and its bytes."""
    try:
        storage = tensor.untyped_storage()
        return storage, storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):  # a tensor without a storage of its own
        return None, 0, 0


@contextmanager
def held_bytes() -> Iterator[HeldBytes]:
    """Count the bytes of tensors in the body."""
    with HeldBytes() as held:
        yield held


class Line(NamedTuple):
    """Bytes as a linear function of a number of rows."""

    fixed: float
    each: float

    @classmethod
    def through(cls, measure: Callable[[int], int]) -> "Line":
        """A line through what one row and two rows take."""
        one, two = measure(1), measure(2)
        each = max(two - one, 0)
        return cls(max(one - each, 0), each)

    def of(self, rows: float) -> float:
        """Bytes of so many rows."""
        return self.fixed + rows * self.each


class PassMemory(NamedTuple):
    """Bytes that passes of a model take: alone, and with the gradient of an input."""

    forward: Line
    gradient: Line

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> "PassMemory":
        """Counted on one and two copies of an input (1, *D)."""

        def forward(rows: int) -> int:
            with torch.no_grad(), held_bytes() as held:
                model(x.expand(rows, *x.shape[1:]).clone())
            return held.peak

        def gradient(rows: int) -> int:
            with torch.enable_grad(), held_bytes() as held:
                given = x.expand(rows, *x.shape[1:]).clone().requires_grad_()
                output = model(given)
                if output.requires_grad:
                    torch.autograd.grad(output.sum(), given)
            return held.peak

        with frozen(model):
            return cls(Line.through(forward), Line.through(gradient))


class StandIn(nn.Module):
    """A model of next to no memory in place of another: its logits are some entries of the input.

    Attributes:
        largest: rows of the largest pass without gradients.
        largest_with_gradients: likewise with them.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.largest = self.largest_with_gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        if x.requires_grad:
            self.largest_with_gradients = max(self.largest_with_gradients, len(x))
        else:
            self.largest = max(self.largest, len(x))
        flat = x.flatten(1)
        places = torch.arange(self.num_classes, device=x.device) % flat.shape[1]
        return flat[:, places] * (1 + torch.arange(self.num_classes, device=x.device, dtype=x.dtype))


class MethodMemory(NamedTuple):
    """Bytes that a method takes besides the passes of the model, and the rows of its passes.

    Attributes:
        fixed: bytes of one input alone in a batch of one, without what follows.
        of_batch: bytes of each further row of a batch.
        of_unit: bytes of each further input of a unit.
        forward: rows of a pass without gradients for each row of a batch.
        gradient: rows of a pass with gradients, likewise.
        least: rows of a pass however small the batch is.
    """

    fixed: float
    of_batch: float
    of_unit: float
    forward: float
    gradient: float
    least: int

    @classmethod
    def of(cls, method: Method, problem: Problem, norm: float) -> "MethodMemory | None":
        """Counted on a stand-in for the model; None where the method cannot treat that."""
        short = shortened(method)
        calls: dict[tuple[int, int], tuple[int, StandIn]] = {}
        x = problem.x[0:1]
        try:
            for inputs, batch in ((1, 1), (4, 1), (4, 4)):
                model = StandIn(problem.num_classes).eval()
                given = x.expand(inputs, *x.shape[1:]).clone()
                with torch.no_grad():
                    labels = model(given).argmax(1)
                model.largest = 0
                small = replace(problem, model=model, x=given, y=labels, batch_size=batch, batch_sizes={},
                                stated_on_grid=problem.on_grid)  # fmt: skip
                with held_bytes() as held:
                    short.run(small, slice(0, inputs), norm)
                calls[inputs, batch] = held.peak, model
        except (BoundsError, RuntimeError):
            return None
        (alone, _), (unit, one), (both, four) = calls[1, 1], calls[4, 1], calls[4, 4]
        return cls(
            fixed=float(alone),
            of_batch=max(both - unit, 0) / 3,
            of_unit=max(unit - alone, 0) / 3,
            forward=max(four.largest - one.largest, 0) / 3,
            gradient=max(four.largest_with_gradients - one.largest_with_gradients, 0) / 3,
            least=max(one.largest, one.largest_with_gradients),
        )


def shortened(method: Method) -> Method:
    """Settings of the same method with as little work as its memory allows to count."""
    less = {name: most for name, most in (("steps", STEPS), ("n", DRAWS), ("n0", DRAWS), ("num_batches", 2))
            if getattr(method, name, 0) and getattr(method, name) > most}  # fmt: skip
    return msgspec.structs.replace(method, **less)
