r"""Linear bounds (CROWN, DeepPoly, Fast-Lin, alpha-CROWN) of any captured network.

The planes around a function need bounds of the nodes before it. These come from intervals, and for :func:`crown` from
backward passes wherever a function is unstable: an entry is a row of its own there.

References:
    Zhang et al. (2018), Efficient neural network robustness certification with general activation functions,
    arXiv:1811.00866; Singh et al. (2019), An abstract domain for certifying neural networks, POPL.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.graph.captured import Graph, Source
from bounds.linear.network import Network
from bounds.linear.parts import in_parts
from bounds.linear.precision import rounded_outward
from bounds.linear.refined import RefinedNetwork
from bounds.memory import MEMORY
from bounds.numerics import converted_down, ieee_arithmetic
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.sets.balls import Interval, PerturbationSet


@isolated
@ieee_arithmetic()
@torch.no_grad()
@in_parts
def crown(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    depth: int | None = None,
    memory: int = MEMORY,
) -> Interval:
    """Linear bounds on the outputs of a network over a ball, never looser than :func:`crown_ibp` and intervals.

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
            these take as long as a forward pass for each neuron whose sign is not known.
        memory: bytes for the intervals of some inputs, and for coefficients of some rows: of more inputs or rows, so
            many are bounded at once as fit. One row of one input, the weights and what is derived from these come on
            top.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: an operation without a rule, with its place in the source code.
        InvalidInput: a bad argument.
    """
    checks.at_least("depth", 0 if depth is None else depth, 0)
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        loose = RefinedNetwork(network, memory=memory)
        bounds = loose.output()
        tight = RefinedNetwork(loose.network, tighten=True, depth=depth, memory=memory)
        return rounded_outward(network.meet(tight.output(), bounds), ball.center.dtype)


@isolated
@ieee_arithmetic()
@in_parts
def crown_ibp(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with intervals alone in front of every function: one backward pass, cheaper and looser.

    Gradients reach the weights where they are enabled.

    References:
        Zhang et al. (2020), Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316.
    """
    network = Network(model, ball, Tables(table, functions), sound)
    return rounded_outward(RefinedNetwork(network, memory=memory).output(), ball.center.dtype)


@isolated
@ieee_arithmetic()
@torch.no_grad()
@in_parts
def fast_lin(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with parallel lines around every function: about half the work, and looser.

    References:
        Weng et al. (2018), Towards fast computation of certified robustness for ReLU networks, arXiv:1804.09699; the
        same bounds as Wong and Kolter (2018), arXiv:1711.00851.
    """
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        bounds = RefinedNetwork(network, tighten=True, parallel=True, memory=memory).output()
        return rounded_outward(bounds, ball.center.dtype)


@isolated
@ieee_arithmetic()
@torch.no_grad()
@in_parts
def alpha_crown(
    model: Source | Graph,
    ball: PerturbationSet,
    steps: int = 20,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with the planes of every function chosen by some steps of ascent; never looser.

    Every bound, also of inner nodes, has planes of its own, which serve it best.

    Args:
        model: see :func:`crown`.
        ball: likewise.
        steps: of ascent for each bound; rows that no longer gain end sooner.
        table: likewise.
        functions: likewise.
        sound: likewise.
        memory: likewise.

    References:
        Xu et al. (2021), Fast and complete: enabling complete verification with rapid and massively parallel incomplete
        verifiers, arXiv:2011.13824.
    """
    checks.at_least("steps", steps, 0)
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        loose = RefinedNetwork(network, memory=memory)
        bounds = loose.output()
        tight = RefinedNetwork(loose.network, tighten=True, memory=memory)
        bounds = network.meet(bounds, tight.output())
        best = RefinedNetwork(tight.network, tighten=True, steps=steps, memory=memory)
        return rounded_outward(network.meet(bounds, best.output()), ball.center.dtype)


METHODS = ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown")


@ieee_arithmetic()
def linear_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str,
    *,
    steps: int = 20,
    depth: int | None = None,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k``, with the difference folded into the network; 0 at the label.

    Gradients reach the weights with ``"ibp"`` and ``"crown_ibp"``, where they are enabled.
    """

    @in_parts
    def bound(model: Source | Graph, ball: PerturbationSet, labels: Tensor, *, sound: str, memory: int) -> Tensor:
        network = Network(model, ball, Tables(table, functions), sound)
        rows = margin_rows(network, labels)
        margins = row_bounds(network, rows, method, steps=steps, depth=depth, memory=memory, target=0.0)
        margins = margins.scatter(1, labels.to(rows.device, torch.int64)[:, None], 0.0)
        return converted_down(margins, ball.center.dtype)

    with torch.set_grad_enabled(torch.is_grad_enabled() and method in ("ibp", "crown_ibp")):
        return bound(model, ball, labels, sound=sound, memory=memory)


def row_bounds(
    network: Network,
    rows: Tensor,
    method: str,
    *,
    steps: int,
    depth: int | None = None,
    memory: int,
    target: float = torch.inf,
) -> Tensor:
    """Lower bounds (N, R) of linear functions (N, R, K) of the outputs, by a method and all cheaper ones.

    An ascent ends where all rows but those of zeros are above the target.
    """
    loose = RefinedNetwork(network, memory=memory)
    margins = loose.functions(rows, intervals=True)
    if method != "ibp":
        margins = torch.maximum(margins, loose.functions(rows))
    if method == "fast_lin":
        parallel = RefinedNetwork(loose.network, tighten=True, parallel=True, memory=memory)
        margins = torch.maximum(margins, parallel.functions(rows))
    elif method in ("crown", "alpha_crown"):
        tight = RefinedNetwork(loose.network, tighten=True, depth=depth, memory=memory)
        margins = torch.maximum(margins, tight.functions(rows))
        if method == "alpha_crown" and not bool(((margins > target) | (rows == 0).all(2)).all()):
            best = RefinedNetwork(tight.network, tighten=True, steps=steps, memory=memory)
            margins = torch.maximum(margins, best.functions(rows, target=target))
    return margins


def margin_rows(network: Network, labels: Tensor) -> Tensor:
    """The functions ``logit_label - logit_k`` of the outputs, for :meth:`RefinedNetwork.functions`, (N, K, K)."""
    value = network.nodes["output"].value.reshape(len(network.ball.center), -1)
    label = checks.labels(labels, len(value), value.shape[1]).to(value.device)
    identity = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
    return identity[label].unsqueeze(1) - identity
