"""Memory that rows take, counted operation by operation: in passes of a model, and in what a method holds besides."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bounds.errors import BoundsError, InvalidInput
from bounds.models import PROBE_ROWS, answer
from bounds.sets.orders import Order
from certify.methods import Method, Problem
from certify.models import frozen
from certify.sizes import size_in_words
from certify.stored_inputs import Rows

SHARE = 0.7  # of the memory that tensors fill; kernels and the allocator take from the rest
COPIES = 4  # of each point that a sampler holds
STEPS = 4  # of a search whose memory is counted; it does not grow with them
DRAWS = 100
FEW = 8  # rows, more than a probe of the model takes
MANY = 32  # inputs, of which all but one are misclassified: what is held of all of them is then the most
ENTRIES = 1024  # of an input


class HeldBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made in the body of a ``with`` and that are still there.

    Counts are the same on every machine, where those of an operating system depend on what it gave before.

    Attributes:
        peak: largest number of bytes at one moment.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        result = function(*args, **(kwargs or {}))
        given = {_storage(tensor)[1] for tensor in _tensors((*args, *(kwargs or {}).values()))}
        for tensor in _tensors((result,)):
            storage, address, size = _storage(tensor)
            if size and address not in given and address not in self._known:
                self._known.add(address)
                self._now += size
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._freed, address, size)
        return result

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """Tensors of the arguments or results of an operation, which may stand in lists; a walk through trees is slow."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage(tensor: Tensor) -> tuple[object, int, int]:
    """Storage of a tensor, its address and its bytes."""
    try:
        storage = tensor.untyped_storage()
        return storage, storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):  # a tensor without a storage of its own
        return None, 0, 0


class RowLine(NamedTuple):
    """Bytes as a linear function of a number of rows."""

    fixed: float
    each: float

    @classmethod
    def through(cls, measure: Callable[[int], int]) -> "RowLine":
        """A line through what one row and two rows take."""
        one, two = measure(1), measure(2)
        each = max(two - one, 0)
        return cls(max(one - each, 0), each)

    def of(self, rows: float) -> float:
        """Bytes of so many rows."""
        return self.fixed + rows * self.each


class PassMemory(NamedTuple):
    """Bytes that passes of a model take: alone, and with the gradient of an input."""

    forward: RowLine
    gradient: RowLine

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> "PassMemory":
        """Counted on one and two copies of an input (1, *D)."""

        def gradient(rows: int) -> int:
            held = HeldBytes()
            with torch.enable_grad(), held:
                given = x.expand(rows, *x.shape[1:]).clone().requires_grad_()
                output = model(given)
                if output.requires_grad:
                    torch.autograd.grad(output.sum(), given)
            return held.peak

        with frozen(model):
            return cls(forward_memory(model, x), RowLine.through(gradient))


def forward_memory(model: nn.Module, x: Tensor) -> RowLine:
    """Bytes that forward passes of a model take, counted on one and two copies of an input (1, *D)."""

    def measured(rows: int) -> int:
        held = HeldBytes()
        with frozen(model), torch.no_grad(), held:
            answer(model, x.expand(rows, *x.shape[1:]).clone())
        return held.peak

    return RowLine.through(measured)


def rows_of_passes(model: nn.Module, x: Rows, most: int, memory: int | None, besides: float = 0.0) -> int:
    """Rows of a forward pass, with copies of each of them, that fit into a memory.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D) inputs, of which the first is looked at.
        most: rows where there is memory enough.
        memory: bytes; None without a limit.
        besides: bytes that are held at the same time.

    Raises:
        InvalidInput: the rows on which every model is tried do not fit.
    """
    if memory is None:
        return most
    one, passes = x[:1], forward_memory(model, x[:1])
    each = passes.each + COPIES * one.numel() * one.element_size()
    needed = passes.fixed + PROBE_ROWS * each
    if needed > SHARE * memory:
        raise InvalidInput(
            f"memory must be at least {size_in_words(int(1.01 * needed / SHARE))} for the {PROBE_ROWS} inputs on which "
            f"the model is tried, got {size_in_words(memory)}: raise it"
        )
    return max(1, min(most, int((SHARE * memory - passes.fixed - besides) / each)))


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


class _Trial(NamedTuple):
    """Inputs of a unit of which so many are classified correctly, in batches of so many rows."""

    inputs: int
    batch: int
    right: int


TRIALS = (
    _Trial(FEW, FEW, FEW),
    _Trial(2 * FEW, FEW, 2 * FEW),
    _Trial(2 * FEW, 2 * FEW, 2 * FEW),
    _Trial(MANY, FEW, 1),
    _Trial(2 * MANY, FEW, 1),
)


class MethodMemory(NamedTuple):
    """Bytes that a method takes besides the passes of the model, and the rows of its passes.

    Attributes:
        fixed: bytes that grow with neither of the others.
        of_batch: bytes of each row of a batch.
        of_unit: bytes of each input of a unit.
        forward: rows of the largest pass without gradients, for each row of a batch.
        gradient: rows of the largest pass with gradients, likewise.
        least: rows of a pass with gradients, however small the batch is.
    """

    fixed: float
    of_batch: float
    of_unit: float
    forward: float
    gradient: float
    least: int = 1

    @classmethod
    def of(cls, method: Method, problem: Problem, norm: Order) -> "MethodMemory | None":
        """Counted on a stand-in for the model; None where the method cannot treat that.

        A bound of all trials. It is in proportion to the entries of an input, so that few of them are counted on.
        """
        x, scale = _small_input(method, problem)
        held: dict[_Trial, int] = {}
        models: dict[_Trial, StandIn] = {}
        for trial in TRIALS:
            model = models[trial] = StandIn(problem.num_classes).eval()
            given = x.expand(trial.inputs, *x.shape[1:]).clone()
            labels = model(given).argmax(1)
            labels[trial.right :] = (labels[trial.right :] + 1) % problem.num_classes
            changed = {"model": model, "x": given, "y": labels, "batch_size": trial.batch}
            own = replace(problem, stated_on_grid=problem.on_grid, **changed)
            counted = HeldBytes()
            with counted:
                try:
                    shortened(method).run(own, slice(0, trial.inputs), norm)
                except (BoundsError, RuntimeError):
                    return None
            held[trial] = int(counted.peak * scale)
        first, more_inputs, more_rows, some, most = held.values()
        # Phases of a method have peaks of their own: what is behind a search holds all inputs, and few rows of a batch.
        of_unit = max(more_inputs - first, (most - some) / MANY * FEW, 0) / FEW
        of_batch = max(more_rows - more_inputs, 0) / FEW
        one, _, four, _, _ = models.values()
        return cls(
            fixed=max(0.0, *(size - trial.inputs * of_unit - trial.batch * of_batch for trial, size in held.items())),
            of_batch=of_batch,
            of_unit=of_unit,
            forward=(four.largest - one.largest) / FEW,
            gradient=(four.largest_with_gradients - one.largest_with_gradients) / FEW,
        )

    def bytes_of(self, passes: PassMemory, batch: int, unit: int) -> float:
        """Bytes of a unit of so many inputs, in batches of so many rows."""
        forward = passes.forward.of(max(batch * self.forward, PROBE_ROWS))
        passing = max(forward, passes.gradient.of(max(batch * self.gradient, self.least)) if self.gradient else 0.0)
        return self.fixed + batch * self.of_batch + unit * self.of_unit + passing


def _small_input(method: Method, problem: Problem) -> tuple[Tensor, float]:
    """An input (1, *D) of few entries, and how many times as many the others have."""
    x = problem.x[:1]
    per_feature = isinstance(problem.low, Tensor) or isinstance(problem.high, Tensor)
    if per_feature or getattr(method, "frozen_features", None) is not None or x.numel() <= ENTRIES:
        return x, 1.0
    return x.reshape(1, -1)[:, :ENTRIES].clone(), x.numel() / ENTRIES


def shortened(method: Method) -> Method:
    """Settings of the same method with little work, which takes no less memory."""
    most = {"steps": STEPS, "n": DRAWS, "n0": DRAWS, "num_batches": 2, "batch_size": 2 * FEW}
    less = {name: number for name, number in most.items() if (getattr(method, name, None) or 0) > number}
    return msgspec.structs.replace(method, **less)
