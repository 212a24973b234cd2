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
from bounds.numerics import ieee_arithmetic
from bounds.operations.node import entries
from bounds.rows import DenseRows
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
    slope, constant = last.backward.forms("output", start)
    slope = torch.where(constant.isfinite().unsqueeze(2), slope, 0.0)
    return LinearForms(slope.unflatten(2, ball.center.shape[1:]), constant)
