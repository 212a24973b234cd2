"""Complete search for an input that leads into an unsafe set, or for the proof that there is none.

References:
    Bunel et al. (2020), Branch and bound for piecewise linear neural network verification, arXiv:1909.06588; Wang et al.
    (2021), Beta-CROWN, arXiv:2103.06624.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bounds.circumstances import isolated
from bounds.graph.captured import Graph
from bounds.memory import MEMORY
from bounds.numerics import ieee_arithmetic
from bounds.search.input_splits import split_inputs
from bounds.search.problem import Check, SearchResult, problem_of
from bounds.sets.balls import Box


@isolated
@ieee_arithmetic()
def search(
    graph: Graph,
    box: Box,
    cases: Sequence[tuple[Tensor, Tensor]],
    *,
    deadline: float,
    sound: str = "rounding",
    check: Check,
    memory: int = MEMORY,
) -> SearchResult:
    """Prove that no input of a box leads to outputs with ``A y <= b`` for any of the cases, or find such an input."""
    with torch.no_grad():
        problem = problem_of(graph, box, cases, deadline, sound, check, memory)
        return split_inputs(problem)
