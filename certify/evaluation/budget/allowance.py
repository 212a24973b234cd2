"""Batches and units of work that fit into the memory that an evaluation may take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from bounds.errors import BoundsError, InvalidInput
from bounds.graph.capturing import capture
from bounds.sets.orders import Order
from certify.evaluation.budget.row_memory import COPIES, SHARE, MethodMemory, PassMemory
from certify.methods import (
    ChangeBounds,
    Choice,
    Clever,
    CompleteSearch,
    Lipschitz,
    Method,
    Problem,
    ProvedRadius,
    QuantisedCopy,
    RandomNoise,
    SmoothedAttack,
    Smoothing,
    TransformationBounds,
    Verify,
)
from certify.sizes import size_in_words
from certify.smoothing.drawing.division import NOISE_BLOCK

OF_UNIT = 0.25  # of that, for what a unit holds of all its inputs
BY_BOUNDS = (ProvedRadius, QuantisedCopy, CompleteSearch, Verify, Lipschitz, TransformationBounds, ChangeBounds)
OF_NODES = 13 * 8  # bytes that intervals hold for each number of a network: at most 13 tensors were counted
OF_DIRECTIONS = 6  # copies of the noise of an input, which is the same at every scale: five were counted
OF_DRAWS = 12  # bytes for each entry of a draw: the noise, and the random words it is looked up by


@dataclass(frozen=True)
class Allowance:
    """Sizes that fit into a memory.

    Attributes:
        memory: bytes; None without a limit.
        batch_sizes: rows of a forward pass by method.
        unit_sizes: inputs of a unit by method.
        left_out: reasons by method, of a preset's methods that do not fit.
    """

    memory: int | None = None
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    unit_sizes: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, choice: Choice, norms: Sequence[Order], memory: int) -> "Allowance":
        """Sizes by what a row takes, which is counted on one and two inputs.

        Raises:
            InvalidInput: a method that does not fit with a single row.
        """
        passes, found = PassMemory.of(problem.model, problem.x[:1]), cls(memory)
        batches, units, reasons = {}, {}, {}
        for method in choice.methods:
            try:
                batches[method.name], units[method.name] = _sizes(method, problem, norms, passes, memory)
            except InvalidInput as error:
                if method.name not in choice.lenient:
                    raise
                reasons[method.name] = str(error)
        return replace(found, batch_sizes=batches, unit_sizes=units, left_out=reasons)


def _sizes(
    method: Method, problem: Problem, norms: Sequence[Order], passes: PassMemory, memory: int
) -> tuple[int, int]:
    """Rows of a batch and inputs of a unit of a method.

    Raises:
        InvalidInput: not even one of each fits.
    """
    usable, unit = SHARE * memory, method.rows_per_unit
    if isinstance(method, BY_BOUNDS):
        _require(method, _of_bounds(method, problem), usable)
        copies = COPIES * problem.x[:1].numel() * problem.x[:1].element_size()
        return problem.batch_size, (min(unit, max(1, int(OF_UNIT * usable / copies))) if method.divisible else unit)
    found = [one for norm in norms if method.serves(norm) if (one := _memory_of(method, problem, norm)) is not None]
    largest = problem.batch_size
    for one in found:
        if method.divisible and one.of_unit and not method.one_by_one:
            unit = min(unit, max(1, int(OF_UNIT * usable / one.of_unit)))
        held = 1 if method.one_by_one else unit
        _require(method, one.bytes_of(passes, 1, held), usable)
        low, high = 1, largest
        while low < high:  # bytes grow with the batch
            middle = (low + high + 1) // 2
            fits = one.bytes_of(passes, middle, held) <= usable
            low, high = (middle, high) if fits else (low, middle - 1)
        largest = low
    return (largest // NOISE_BLOCK * NOISE_BLOCK if largest > NOISE_BLOCK else largest), unit


def _memory_of(method: Method, problem: Problem, norm: Order) -> MethodMemory | None:
    """Memory of a method besides passes: known where it draws, counted where it searches; None where it is unknown."""
    row = problem.x[:1].numel() * problem.x[:1].element_size()
    if isinstance(method, Smoothing):
        noise = OF_DRAWS * problem.x[:1].numel()  # of a draw, which all inputs of a group share
        return MethodMemory(NOISE_BLOCK * noise + method.noise_group * row, noise + row, 4 * row, 1, 0)
    if isinstance(method, Clever):
        return MethodMemory(COPIES * method.batch_size * row, COPIES * row, COPIES * row, 1, 1)
    if isinstance(method, SmoothedAttack):  # all draws at a point in one pass
        return MethodMemory(NOISE_BLOCK * OF_DRAWS * row / 4, COPIES * row, 10 * COPIES * row, 1, 1, method.draws)
    if isinstance(method, RandomNoise):
        return MethodMemory(OF_DIRECTIONS * method.draws * row, 2 * COPIES * row, COPIES * row, 1, 0)
    return MethodMemory.of(method, problem, norm)


def _of_bounds(method: Method, problem: Problem) -> float:
    """Bytes that intervals of one input take; 0 where the network cannot be captured, which the method says itself."""
    if isinstance(method, Lipschitz):
        return 0.0
    try:
        x: Tensor = problem.x[:1]
        return float(OF_NODES * capture(problem.model, x).entries(x))
    except BoundsError:
        return 0.0


def _require(method: Method, needed: float, usable: float) -> None:
    if needed > usable:
        least, given = (size_in_words(int(size / SHARE)) for size in (1.01 * needed, usable))
        raise InvalidInput(
            f"memory must be at least {least} for one input of {method.name!r}, got {given}: raise it, or leave the "
            "method out"
        )
