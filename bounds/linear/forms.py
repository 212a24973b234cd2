"""Linear functions of the input below functions of the outputs, as backward passes find them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture
from bounds.linear.ladder import best_of, margin_rows, of_rows, refinements, rungs
from bounds.linear.network import Network
from bounds.linear.parts import within_memory
from bounds.linear.refined import RefinedNetwork
from bounds.memory import MEMORY
from bounds.numerics import ieee_arithmetic
from bounds.operations.node import entries
from bounds.rows import DenseRows, other_rows
from bounds.sets.balls import PerturbationSet

FORMS = ("crown_ibp", "fast_lin", "crown")


class LinearForms(NamedTuple):
    """Linear functions ``slope . x + constant`` that lie below others for every x of a set.

    Attributes:
        slope: (N, R, *D) float64; 0 where nothing is known.
        constant: (N, R) float64; minus infinity where nothing is known.
    """

    slope: Tensor
    constant: Tensor


@isolated
@ieee_arithmetic()
@torch.no_grad()
def linear_forms(
    model: Source | Graph,
    ball: PerturbationSet,
    rows: Tensor,
    method: str = "crown",
    *,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> LinearForms:
    """Linear functions of the input below linear functions of the outputs, on all of a ball.

    For every x of set n, ``rows[n, r] . f(x)`` is at least ``slope[n, r] . x + constant[n, r]``. So one question may be
    asked of several inputs at once, as under one perturbation for all. Same guarantee and conditions as
    :func:`bounds.crown`; sets are taken in float64.

    Args:
        model: maps (N, *D) to (N, K), any network that ``torch.export`` follows, or its captured graph.
        ball: N perturbation sets.
        rows: (N, R, K), the functions of the outputs.
        method: ``"crown_ibp"``, ``"fast_lin"`` or ``"crown"``.
        sound: which rounding errors are included, see :func:`bounds.crown`.
        memory: bytes for coefficients.

    Raises:
        UnsupportedLayer: an operation without a rule.
        InvalidInput: an unknown method or mode; rows of another shape.
    """
    checks.one_of("method", method, FORMS)
    checks.at_least("memory", memory, 1)
    network = Network(capture(model, ball.center), ball.double(), sound=sound)
    outputs = entries(network.nodes["output"].value)
    if rows.ndim != 3 or rows.shape[0] != len(ball.center) or rows.shape[2] != outputs:
        raise InvalidInput(
            f"rows must have shape ({len(ball.center)}, R, {outputs}), one row of coefficients of the outputs for each "
            f"function, got {tuple(rows.shape)}"
        )
    *_, last = refinements(network, rungs(network, method, memory=memory), memory)
    return _forms(last, rows)


@dataclass(frozen=True, eq=False)
class MarginForms:
    """Margins of N inputs, and linear functions below those of the B inputs that they leave open.

    Attributes:
        margins: (N, K) lower bounds on ``logit_label - logit_k`` as of :func:`bounds.margin_bounds`, 0 at the label.
        open: (N,) bool, inputs with a margin that is not above 0 off the label.
        slope: (B, K, *D) as of :class:`LinearForms`, in the order of the inputs.
        constant: (B, K).
    """

    margins: Tensor
    open: Tensor
    slope: Tensor
    constant: Tensor

    @property
    def forms(self) -> LinearForms:
        """The linear functions of the open inputs."""
        return LinearForms(self.slope, self.constant)


@isolated
@ieee_arithmetic()
@torch.no_grad()
@within_memory
def margin_forms(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str = "crown",
    *,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> MarginForms:
    """Margins of all inputs and, where these are open, linear functions of the input below them, by one climb.

    The numbers are those of :func:`bounds.margin_bounds` and :func:`linear_forms` in float64: the latter rest on the
    intervals that the former have found.

    Args:
        model: as for :func:`linear_forms`, like all that follow.
        ball: likewise.
        labels: (N,) classes.
        method: likewise.
        sound: likewise.
        memory: bytes for the inputs and rows that are bounded at once.

    Raises:
        UnsupportedLayer: an operation without a rule.
        InvalidInput: an unknown method or mode; labels out of range.
    """
    checks.one_of("method", method, FORMS)
    graph = capture(model, ball.center)
    network = Network(graph, ball.double(), sound=sound)
    every = margin_rows(network, labels)
    rows, others = other_rows(every, labels)
    parts = list(refinements(network, rungs(network, method, memory=memory), memory))
    least = best_of(parts, rows)
    left = ~(least > 0).all(1)
    margins = least.new_zeros(every.shape[:2]).scatter(1, others, least)
    return MarginForms(margins, left, *_of_open_rows(graph, parts[-1], every, left, memory))


def _of_open_rows(graph: Graph, part: RefinedNetwork, rows: Tensor, left: Tensor, memory: int) -> LinearForms:
    """Linear functions below functions (N, R, K) of the outputs, of the inputs that are left (N,) bool."""
    network, places = part.network, left.nonzero()[:, 0]
    if 0 < len(places) < len(left):
        some = Network(graph, network.ball.rows(places), sound=network.sound)
        start = of_rows(network.intervals, some, places)
        if start:
            again = RefinedNetwork(some, start=start, parallel=part.backward.parallel, memory=memory)
            return _forms(again, rows[places])
    if len(places) == 0:
        return LinearForms(
            rows.new_zeros(0, rows.shape[1], *network.ball.center.shape[1:]), rows.new_zeros(0, rows.shape[1])
        )
    slope, constant = _forms(part, rows)
    return LinearForms(slope[places], constant[places])


def _forms(part: RefinedNetwork, rows: Tensor) -> LinearForms:
    """Linear functions below functions (N, R, K) of the outputs, from one backward pass."""
    value = part.refine().nodes["output"].value
    start = DenseRows(rows.to(value).reshape(*rows.shape[:2], *value.shape[1:]))
    slope, constant = part.backward.forms("output", start)
    slope = torch.where(constant.isfinite().unsqueeze(2), slope, 0.0)
    return LinearForms(slope.unflatten(2, part.network.ball.center.shape[1:]), constant)
