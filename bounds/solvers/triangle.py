"""Bounds by linear programmes: the triangle relaxation, solved to its optimum.

The reference for cheaper methods: none that relaxes every neuron by itself is tighter, given the same bounds in front
of the functions. For small networks, of at most 20,000 values per input, 2,000 of them inputs or unstable neurons.

References:
    Wong, Kolter (2018), Provable defenses against adversarial examples via the convex outer adversarial polytope,
    arXiv:1711.00851; Salman et al. (2019), A convex relaxation barrier to tight robustness verification of neural
    networks, arXiv:1902.08722.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bounds.circumstances import isolated
from bounds.graph.captured import Graph, Source
from bounds.linear.margins import margin_bounds
from bounds.linear.methods import crown
from bounds.numerics import ieee_arithmetic
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.sets.balls import Interval, PerturbationSet
from bounds.solvers.admission import followed
from bounds.solvers.affine_form import lowest
from bounds.solvers.encoding import differences_from_label, encodings


@isolated
@ieee_arithmetic()
@torch.no_grad()
def lp_bounds(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    tighten: bool = True,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
) -> Interval:
    """Bounds on the outputs of a network by linear programmes, never looser than :func:`bounds.crown`.

    Holds for every input of the ball, for the network in evaluation mode and in real arithmetic. The solver is not
    trusted: its multipliers are evaluated anew, with rounding errors subtracted. Each ReLU, leaky ReLU or PReLU with
    slopes in [0, 1] stands for its triangle, any other scalar function for a line below and a line above.

    Args:
        model: maps (N, *D) to (N, K), of any code that ``torch.export`` follows; or its captured graph.
        ball: N perturbation sets in float64, an :class:`LpBall` of norm 1 or infinity or a :class:`Box`.
        tighten: solve two programmes for each unstable neuron, layer by layer, for bounds in front of it; without,
            these are those of :func:`bounds.crown`.
        table: affine operations, :data:`bounds.operations.AFFINE` or a copy with more.
        functions: makers of the functions of other operations, :data:`bounds.FUNCTIONS` or a copy with more.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: an operation without a rule, with its place in the source code.
        InvalidInput: another set or dtype, a network that is too large.
    """
    graph = followed(model, ball)
    interval = crown(graph, ball, table=table, functions=functions)
    identity = torch.eye(interval.lower.shape[1], dtype=torch.float64, device=interval.lower.device)
    for row, encoding in enumerate(encodings(graph, ball, tighten, Tables(table, functions))):
        programme, form = encoding.programme(), encoding.combination(identity)
        interval.lower[row] = torch.maximum(interval.lower[row], lowest(programme, form))
        interval.upper[row] = torch.minimum(interval.upper[row], -lowest(programme, form.negated()))
    return interval


@isolated
@ieee_arithmetic()
@torch.no_grad()
def lp_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    *,
    tighten: bool = True,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k`` by linear programmes; a row above 0 off the label is a proof.

    Same guarantee, conditions and errors as :func:`lp_bounds`, with the difference as the objective, which is tighter
    than subtracting bounds of logits; 0 at the label. Never looser than those of :func:`bounds.crown`.
    """
    graph = followed(model, ball)
    margins = margin_bounds(graph, ball, labels, "crown", table=table, functions=functions)
    for row, encoding in enumerate(encodings(graph, ball, tighten, Tables(table, functions))):
        others, rows = differences_from_label(margins[row], int(labels[row]))
        least = lowest(encoding.programme(), encoding.combination(rows))
        margins[row, others] = torch.maximum(margins[row, others], least)
    return margins
