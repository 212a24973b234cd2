"""The problem that a search is given, and its result."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph
from bounds.memory import MEMORY, WAITING
from bounds.operations.node import entries
from bounds.sets.balls import Box

if TYPE_CHECKING:
    from bounds.search.recording import Record

Check = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The end of a search.

    Attributes:
        status: ``"proved"``, ``"counterexample"``, ``"timeout"`` or ``"unknown"``.
        counterexample: (1, *D), as the check returned it; None if there is none.
        domains: parts of the problem that were bounded.
        decided_by: ``"bounds"``, ``"input splits"`` or ``"neuron splits"``.
        reason: why nothing was decided, a sentence.
    """

    status: str
    counterexample: Tensor | None = None
    domains: int = 0
    decided_by: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Problem:
    """Unsafe sets of outputs that no input of a box may reach, and the limits of the search.

    Attributes:
        graph: of the network.
        box: (1, *D) in float64.
        rows: (C, M, K), the inequalities ``rows @ y <= offsets`` of each of C sets; those of smaller sets are repeated.
        offsets: (C, M).
        deadline: by ``time.monotonic()``.
        sound: which rounding errors bounds include.
        check: a function of candidates (N, *D) that returns one that is confirmed, or None.
        memory: bytes that coefficients may take.
        waiting: bytes that sub-problems may take that wait; the search ends where they are more.
        record: that takes up what is proved, None where nobody asks for it.
        places: (C,), of the sets among all that the search began with; None for the same.
    """

    graph: Graph
    box: Box
    rows: Tensor
    offsets: Tensor
    deadline: float
    sound: str
    check: Check
    memory: int = MEMORY
    waiting: int = WAITING
    record: "Record | None" = None
    places: Tensor | None = None

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline

    @property
    def shape(self) -> torch.Size:
        """The shape of one input."""
        return self.box.lower.shape[1:]

    def corner(self, slopes: Tensor) -> Tensor:
        """The corner of the box (.., F) at which each linear function with slopes (.., F) is least."""
        return torch.where(slopes > 0, self.box.lower.flatten(), self.box.upper.flatten())

    def distances(self, bounds: Tensor) -> Tensor:
        """Lower bounds (N, C, M) of ``rows @ y - offsets``, from those (N, C M) of the rows."""
        offsets = self.offsets.flatten()
        found = bounds - offsets
        found = found - 4 * torch.finfo(found.dtype).eps * (found.abs() + offsets.abs())
        return found.view(len(found), *self.rows.shape[:2])

    def only(self, index: Tensor) -> "Problem":
        """The problem with some of the unsafe sets, given by their places."""
        places = index if self.places is None else self.places[index]
        return replace(self, rows=self.rows[index], offsets=self.offsets[index], places=places)


def problem_of(
    graph: Graph,
    box: Box,
    cases: Sequence[tuple[Tensor, Tensor]],
    deadline: float,
    sound: str,
    check: Check,
    memory: int = MEMORY,
) -> Problem:
    """The problem of unsafe sets ``A y <= b``, given as pairs of A (M, K) and b (M,).

    Raises:
        InvalidInput: several boxes, no set, or sets of other shapes.
    """
    if not isinstance(box, Box) or len(box.lower) != 1:
        raise InvalidInput(f"box must be one bounds.Box of shape (1, *D), got {type(box).__name__}: search each alone")
    if not cases:
        raise InvalidInput("cases must hold at least one pair (A, b), got none: there is nothing to prove")
    box = box.double()
    outputs = entries(graph.bind(box.center)["output"].value)
    for pair in cases:
        if len(pair) != 2:
            raise InvalidInput(f"cases must hold pairs of A (M, {outputs}) and b (M,), got {len(pair)} parts")
        matrix, vector = pair
        shapes = tuple(checks.tensor("A", matrix).shape), tuple(checks.tensor("b", vector).shape)
        if matrix.ndim != 2 or len(matrix) == 0 or matrix.shape[1] != outputs or shapes[1] != shapes[0][:1]:
            raise InvalidInput(
                f"cases must hold pairs of A (M, {outputs}) and b (M,), got shapes {shapes[0]} and {shapes[1]}"
            )
    most = max(len(offsets) for _, offsets in cases)
    places = [torch.arange(most, device=box.lower.device).clamp(max=len(offsets) - 1) for _, offsets in cases]
    rows, offsets = (
        torch.stack([part.to(box.lower)[place] for part, place in zip(parts, places, strict=True)])
        for parts in zip(*cases, strict=True)
    )
    return Problem(graph, box, rows, offsets, deadline, sound, check, memory)
