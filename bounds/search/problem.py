"""The problem that a search is given, and its result."""

import math
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
from bounds.numerics import accumulated_error
from bounds.operations.node import entries
from bounds.sets.balls import Box, LpBall
from bounds.sets.hulls import HullOfBoxes

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
        ball: (1, *D) in float64, of which the box is the hull, or a hull of boxes; None where all of the box is meant.
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
    ball: LpBall | HullOfBoxes | None = None
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

    @property
    def region(self) -> Box | LpBall | HullOfBoxes:
        """The inputs that are searched."""
        return self.box if self.ball is None else self.ball

    def corner(self, slopes: Tensor) -> Tensor:
        """The input (.., F) at which each linear function with slopes (.., F) is least; of a cut ball, about there."""
        lower, upper = self.box.lower.flatten(), self.box.upper.flatten()
        if self.ball is None:
            return torch.where(slopes > 0, lower, upper)
        if isinstance(self.ball, HullOfBoxes):
            rows = slopes.reshape(1, -1, slopes.shape[-1])
            _, move = self.ball.largest_fall(rows)
            return (self.ball.center.flatten().to(rows.dtype) + move).reshape(slopes.shape)
        center, radius, order = self.ball.center.flatten(), self.ball.radii[0], self.ball.dual_norm
        if math.isinf(order):
            step = torch.zeros_like(slopes).scatter(-1, slopes.abs().argmax(-1, keepdim=True), 1.0) * slopes.sign()
        else:
            share = slopes.abs() / slopes.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(slopes.dtype).tiny)
            step = slopes.sign() * share ** (order - 1)
            step = step / torch.linalg.vector_norm(step, self.ball.norm, dim=-1, keepdim=True).clamp(min=1e-300)
        moved = center.to(slopes.dtype) - radius.to(slopes.dtype) * step
        return torch.minimum(torch.maximum(moved, lower.to(slopes.dtype)), upper.to(slopes.dtype))

    def reaches(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Whether boxes (N, F) may hold an input that is searched, (N,)."""
        if not isinstance(self.ball, LpBall):
            return torch.ones_like(lower[:, 0], dtype=torch.bool)
        center = self.ball.center.flatten()
        apart = torch.maximum(lower - center, center - upper).clamp(min=0)
        room = 1 + accumulated_error(4 * apart.shape[1] + 64, apart.dtype)
        distance: Tensor = torch.linalg.vector_norm(apart, self.ball.norm, dim=1)
        return distance <= self.ball.radii[0] * room

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
