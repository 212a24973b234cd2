"""Branch and bound, and a mixed-integer programme for what that leaves open of small networks of rectifiers."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from bounds import Box, Graph, LpBall
from bounds.memory import MEMORY, WAITING
from bounds.search.problem import Check, SearchResult
from bounds.search.recording import Record
from certify.verification.deadlines import share

SHARE, LONGEST = 0.15, 20.0  # of the time, and seconds, that branch and bound has before a programme is tried
ENDS = "proved", "counterexample"


class Limits(NamedTuple):
    """Memory of a search.

    Attributes:
        memory: bytes that coefficients may take.
        waiting: bytes that sub-problems may take that wait.
    """

    memory: int = MEMORY
    waiting: int = WAITING


def searched(
    graph: Graph,
    box: Box,
    cases: Sequence[tuple[Tensor, Tensor]],
    *,
    deadline: float,
    sound: str,
    check: Check,
    limits: Limits = Limits(),  # noqa: B008  # immutable
    ball: LpBall | None = None,
    record: Record | None = None,
) -> SearchResult:
    """Prove that no input of a box leads to outputs with ``A y <= b`` for any of the cases, or find such an input.

    With a ball, of which the box is the hull, only its inputs are meant.
    """
    from bounds.search.branch_and_bound import search
    from bounds.solvers.mixed_integer import encoded, is_small, search_by_programmes

    def split(end: float) -> SearchResult:
        return search(
            graph,
            box,
            cases,
            deadline=end,
            sound=sound,
            check=check,
            memory=limits.memory,
            waiting=limits.waiting,
            ball=ball,
            record=record,
        )

    if sound == "deployed" or (ball is not None and ball.norm != 1) or not is_small(graph, box):
        return split(deadline)
    now = time.monotonic()
    found = split(now + min(SHARE * (deadline - now), LONGEST) if record is None else share(deadline, 2))
    if found.status in ENDS or time.monotonic() >= deadline:
        return found
    encoding, domains = encoded(graph, box if ball is None else ball), found.domains
    if encoding is not None:
        exact = search_by_programmes(graph, encoding, cases, deadline=share(deadline, 2), check=check)
        domains += exact.domains
        if exact.status in ENDS:
            if record is not None:
                record.gives_up("a mixed-integer programme decided it, of which nothing is recorded")
            return replace(exact, domains=domains)
    if found.status == "timeout" and record is None and time.monotonic() < deadline:
        found = split(deadline)
        domains += found.domains
    return replace(found, domains=domains)
