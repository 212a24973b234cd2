"""Linear functions of the input below functions of the outputs, as backward passes find them."""

from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.linear.ladder import refinements, rungs
from bounds.linear.network import Network
from bounds.memory import MEMORY
from bounds.numerics import accumulated_error, ieee_arithmetic, unit_roundoff
from bounds.operations.node import entries
from bounds.rows import DenseRows
from bounds.sets.balls import PerturbationSet

FORMS = ("crown_ibp", "fast_lin", "crown")
INWARD = 2.0**-40  # share of the way to the centre


class LinearForms(NamedTuple):
    """Linear functions ``slope . x + constant`` that lie below others for every x of a set.

    Attributes:
        slope: (N, R, *D) float64.
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
    network = Network(model, ball.double(), sound=sound)
    outputs = entries(network.nodes["output"].value)
    if rows.ndim != 3 or rows.shape[0] != len(ball.center) or rows.shape[2] != outputs:
        raise InvalidInput(
            f"rows must have shape ({len(ball.center)}, R, {outputs}), one row of coefficients of the outputs for each "
            f"function, got {tuple(rows.shape)}"
        )
    *_, last = refinements(network, rungs(network, method, memory=memory), memory)
    value = last.refine().nodes["output"].value
    start = DenseRows(rows.to(value).reshape(*rows.shape[:2], *value.shape[1:]))
    least, slope = last.backward.bounds_with_slopes("output", start)
    constant = least - _at_a_lowest_point(slope, network.ball)
    constant = constant - 4 * unit_roundoff(constant.dtype) * (constant.abs() + least.abs())
    return LinearForms(slope.unflatten(2, ball.center.shape[1:]), constant.nan_to_num(-torch.inf, -torch.inf))


def _at_a_lowest_point(slope: Tensor, ball: PerturbationSet) -> Tensor:
    """Values (N, R), rounded up, of linear functions (N, R, F) at points of the sets at which they are about least."""
    center = ball.center.flatten(1).unsqueeze(1)
    _, move = ball.largest_fall(slope)
    point = center + move * (1 - INWARD)  # certainly in the set if that holds the way to its centre
    error = 2 * accumulated_error(slope.shape[2] + 8, slope.dtype)
    return (slope * point).sum(2) + ((slope * point).abs() * error + (slope * move).abs() * 2 * INWARD).sum(2)
