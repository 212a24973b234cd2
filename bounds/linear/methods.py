r"""Linear bounds (CROWN, DeepPoly, Fast-Lin, alpha-CROWN) of any captured network.

The planes around a function need bounds of the nodes before it. These come from intervals, and for :func:`crown` from
backward passes wherever a function is unstable: an entry is a row of its own there.

References:
    Zhang et al. (2018), Efficient neural network robustness certification with general activation functions,
    arXiv:1811.00866; Singh et al. (2019), An abstract domain for certifying neural networks, POPL.
"""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.engines.auto_lirpa import other_bounds
from bounds.engines.choice import OWN, is_own
from bounds.graph.captured import Graph, Source
from bounds.linear.ladder import margin_rows, refinements, row_bounds, rungs
from bounds.linear.network import Network
from bounds.linear.parts import within_memory
from bounds.linear.precision import rounded_outward
from bounds.memory import MEMORY
from bounds.numerics import converted_down, ieee_arithmetic
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.rows import other_rows
from bounds.sets.balls import Interval, PerturbationSet


@isolated
@ieee_arithmetic()
@torch.no_grad()
@within_memory
def crown(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    depth: int | None = None,
    memory: int = MEMORY,
    engine: str = OWN,
) -> Interval:
    """Linear bounds on the outputs of a network over a ball, never looser than :func:`fast_lin` and what it contains.

    Holds for every input of the ball, for the network in evaluation mode. A float32 set is bounded in float64, and the
    result is rounded outward to float32, except with ``sound="real"`` and on devices that are slow in float64. TF32,
    other reduced precision and autocast are switched off inside. Conditions: IEEE arithmetic, and for
    ``sound="deployed"`` convolutions that sum products, unlike Winograd's; where float32 may overflow, bounds are
    infinite.

    Args:
        model: maps (N, *D) to (N, K), of any code that ``torch.export`` follows; a program from ``torch.export``; or
            its captured graph, which saves the time of capturing.
        ball: N perturbation sets: :class:`LpBall`, :class:`Box` or :class:`SparseBall`.
        table: affine operations, :data:`bounds.operations.AFFINE` or a copy with more.
        functions: makers of the functions of other operations, :data:`bounds.FUNCTIONS` or a copy with more.
        sound: what the bounds include. ``"rounding"``: the network in real arithmetic, all rounding errors of the
            bounds themselves subtracted. ``"real"``: the same without these errors, a proof up to rounding.
            ``"deployed"``: the float32 network as it runs, under any order of summation.
        depth: functions that the backward pass of an inner node goes through before it ends at their intervals; the
            pass of the outputs always reaches the input. Small numbers are for networks too large for full passes:
            these take as long as a forward pass for each neuron whose sign is not known. With a depth, bounds are never
            looser than those of :func:`crown_ibp`, but may be than :func:`fast_lin`.
        memory: bytes for the intervals of some inputs, and for coefficients of some rows: of more inputs or rows, so
            many are bounded at once as fit. One row of one input, the weights and what is derived from these come on
            top.
        engine: ``"own"``, or ``"auto_lirpa"`` for the bounds of auto_LiRPA 0.6 or newer, where it is installed. These
            include no rounding errors, so that ``sound="real"`` must be said, and they are not compared with those of
            cheaper methods. It serves boxes; and balls of norms from 1 to 2 without a box, if the network begins with a
            linear layer or a convolution. ``memory`` does not bind it.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: an operation without a rule, with its place in the source code.
        InvalidInput: a bad argument; an engine that is not installed.
    """
    checks.at_least("depth", 0 if depth is None else depth, 0)
    if not is_own(engine, sound, table=table is AFFINE, functions=functions is FUNCTIONS):
        return other_bounds(model, ball, "crown")
    network = Network(model, ball, Tables(table, functions), sound)
    return rounded_outward(_outputs(network, "crown", depth=depth, memory=memory), ball.center.dtype)


@isolated
@ieee_arithmetic()
@within_memory
def crown_ibp(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
    engine: str = OWN,
) -> Interval:
    """Like :func:`crown`, with intervals alone in front of every function: one backward pass, cheaper and looser.

    Gradients reach the weights where they are enabled.

    References:
        Zhang et al. (2020), Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316.
    """
    if not is_own(engine, sound, table=table is AFFINE, functions=functions is FUNCTIONS):
        return other_bounds(model, ball, "crown_ibp")
    network = Network(model, ball, Tables(table, functions), sound)
    return rounded_outward(_outputs(network, "crown_ibp", memory=memory), ball.center.dtype)


@isolated
@ieee_arithmetic()
@torch.no_grad()
@within_memory
def fast_lin(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with parallel lines around ReLU and leaky ReLU: about half the work, and looser.

    Never looser than :func:`crown_ibp` and intervals. A network without these functions has the bounds of crown.

    References:
        Weng et al. (2018), Towards fast computation of certified robustness for ReLU networks, arXiv:1804.09699; the
        same bounds as Wong and Kolter (2018), arXiv:1711.00851.
    """
    network = Network(model, ball, Tables(table, functions), sound)
    return rounded_outward(_outputs(network, "fast_lin", memory=memory), ball.center.dtype)


@isolated
@ieee_arithmetic()
@torch.no_grad()
@within_memory
def alpha_crown(
    model: Source | Graph,
    ball: PerturbationSet,
    steps: int = 20,
    *,
    intermediate: bool = True,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
    engine: str = OWN,
) -> Interval:
    """Like :func:`crown`, with the planes of every function chosen by some steps of ascent; never looser.

    Every bound has planes of its own, which serve it best.

    Args:
        model: see :func:`crown`.
        ball: likewise.
        steps: of ascent for each bound; rows that no longer gain end sooner.
        intermediate: whether bounds of neurons whose sign is not known yet have an ascent of their own too. Without it
            they are those of :func:`crown`: looser in deep networks, at a fraction of the time.
        table: likewise.
        functions: likewise.
        sound: likewise.
        memory: likewise.
        engine: likewise.

    References:
        Xu et al. (2021), Fast and complete: enabling complete verification with rapid and massively parallel incomplete
        verifiers, arXiv:2011.13824.
    """
    checks.at_least("steps", steps, 0)
    if not is_own(engine, sound, table=table is AFFINE, functions=functions is FUNCTIONS):
        return other_bounds(model, ball, "alpha_crown", steps=steps)
    network = Network(model, ball, Tables(table, functions), sound)
    bounds = _outputs(network, "alpha_crown", steps=steps, intermediate=intermediate, memory=memory)
    return rounded_outward(bounds, ball.center.dtype)


METHODS = ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown")


def linear_bounds(graph: Graph, ball: PerturbationSet, method: str, *, steps: int, sound: str, memory: int) -> Interval:
    """Bounds on the outputs (N, K) by one of the linear methods, by its name."""
    if method == "alpha_crown":
        return alpha_crown(graph, ball, steps=steps, sound=sound, memory=memory)
    bound = {"crown_ibp": crown_ibp, "fast_lin": fast_lin, "crown": crown}[method]
    return bound(graph, ball, sound=sound, memory=memory)


@ieee_arithmetic()
def linear_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str,
    *,
    steps: int = 20,
    intermediate: bool = True,
    depth: int | None = None,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k``, with the difference folded into the network; 0 at the label.

    Gradients reach the weights with ``"ibp"`` and ``"crown_ibp"``, where they are enabled.
    """

    @within_memory
    def bound(model: Source | Graph, ball: PerturbationSet, labels: Tensor, *, sound: str, memory: int) -> Tensor:
        network = Network(model, ball, Tables(table, functions), sound)
        rows, others = other_rows(margin_rows(network, labels), labels)
        least = row_bounds(
            network, rows, method, steps=steps, intermediate=intermediate, depth=depth, memory=memory, target=0.0
        )
        margins = least.new_zeros(len(least), least.shape[1] + 1).scatter(1, others, least)
        return converted_down(margins, ball.center.dtype)

    with torch.set_grad_enabled(torch.is_grad_enabled() and method in ("ibp", "crown_ibp")):
        return bound(model, ball, labels, sound=sound, memory=memory)


def _outputs(
    network: Network,
    method: str,
    *,
    steps: int = 20,
    intermediate: bool = True,
    depth: int | None = None,
    memory: int,
) -> Interval:
    """Linear bounds (N, K) on the outputs by a method and all cheaper ones."""
    ladder = rungs(network, method, steps=steps, intermediate=intermediate, depth=depth, memory=memory)
    parts = list(refinements(network, ladder, memory))
    plain, climbing = ([part for part in parts if bool(part.steps) == climbs] for climbs in (False, True))
    return reduce(network.meet, (part.output() for part in climbing), plain[-1].output(plain[:-1]))
