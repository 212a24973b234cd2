"""Lipschitz constants from above: what CLEVER estimates, proved, from the loosest bound to the tightest."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph
from bounds.graph.capturing import capture
from bounds.layers import segments
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.lipschitz.jacobians import interval_jacobian, linear_jacobian
from bounds.lipschitz.layer_chain import LayerChain, chain_of
from bounds.lipschitz.multipliers import programme_bound
from bounds.lipschitz.operator_norms import UP, Matrix, matrix_norm
from bounds.lipschitz.product import dual_norms, product_bound
from bounds.models import frozen
from bounds.numerics import accumulated_error, ieee_arithmetic
from bounds.sets.balls import Box, Interval, LpBall, PerturbationSet, perturbation_set
from bounds.solvers.semidefinite import SOLVERS

LIPSCHITZ_METHODS = ("product", "eclipse", "sdp", "fast_lip", "recurjac", "local")
PROGRAMMES = ("eclipse", "sdp")


@isolated
@ieee_arithmetic()
@torch.no_grad()
def lipschitz_bound(
    model: nn.Module | Graph,
    norm: float = 2,
    method: str = "product",
    ball: PerturbationSet | None = None,
    *,
    x: Tensor | None = None,
    solver: str = "CLARABEL",
) -> Tensor:
    """Upper bounds on how far the logits move with an input, both measured in the same norm.

    Proved, rounding included, for the network in real arithmetic: for all inputs, (1,), or within each set of ``ball``,
    (N,).

    Args:
        model: maps (N, *D) to logits (N, K); or its captured graph, which saves the time of capturing. ``"product"``
            takes any network that ``torch.export`` follows but for products of data, the others those without
            branches; layers of :class:`bounds.GroupSort` in sequential networks are for ``"product"``.
        norm: order of both norms; ``"eclipse"`` and ``"sdp"`` serve 2 alone here.
        method: ``"product"`` of operator norms; ``"eclipse"`` (ECLipsE-Fast) and ``"sdp"`` (LipSDP-Neuron), multipliers
            of slope constraints, up to 400 neurons for the latter; ``"fast_lip"`` and ``"recurjac"``, intervals of the
            Jacobian; ``"local"``, linear bounds of the Jacobian, which needs a ball.
        ball: sets of inputs, or the box around one that is not convex; None for all inputs. It sharpens all methods
            but ``"product"``.
        x: any input (1, *D), whose shape is taken where there is no ball; needed unless the first layer is linear.
        solver: of semidefinite programmes, ``"CLARABEL"`` or ``"SCS"``; it is not trusted.

    Raises:
        InvalidInput: a bad argument, a network too large for the method.
        UnsupportedLayer: a network that the method does not take.
    """
    return _bounds(model, norm, method, ball, x, solver, None).squeeze(1)


@isolated
@ieee_arithmetic()
@torch.no_grad()
def margin_lipschitz(
    model: nn.Module | Graph,
    norm: float,
    labels: Tensor,
    method: str = "product",
    ball: PerturbationSet | None = None,
    *,
    x: Tensor | None = None,
    solver: str = "CLARABEL",
) -> Tensor:
    """Upper bounds (N, K) on the Lipschitz constants of ``logit_label - logit_k``, in logits per unit of the input.

    0 at the label. The difference is folded into the last layer. Arguments and guarantee as in :func:`lipschitz_bound`,
    with labels (N,) for the N sets of the ball, or of any number without one. For other norms than 2, multipliers give
    a bound by ``|x|_2 <= F^(1/2 - 1/p) |x|_p``.
    """
    return _bounds(model, norm, method, ball, x, solver, labels)


def _bounds(
    model: nn.Module | Graph,
    norm: float,
    method: str,
    ball: PerturbationSet | None,
    x: Tensor | None,
    solver: str,
    labels: Tensor | None,
) -> Tensor:
    """Bounds (N, R): for all outputs together with one column, or for differences of outputs."""
    order = checks.norm(norm)
    checks.one_of("method", method, LIPSCHITZ_METHODS)
    checks.one_of("solver", solver, SOLVERS)
    if method == "local" and ball is None:
        raise InvalidInput("method='local' must have a ball: pass ball=, or use method='recurjac'")
    if method in PROGRAMMES and labels is None and order != 2:
        raise InvalidInput(
            f"method={method!r} serves norm=2 alone for all outputs, got {order:g}: use margin_lipschitz"
        )
    region = None if ball is None else _convex(ball)
    example = _example(model, region, x)
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        parts = segments(model) if method == "product" and isinstance(model, nn.Module) else [model]
        before, value = _before(parts[:-1], example, order)
        graph = capture(parts[-1], value)
        value = value.double()
        network = _at(graph, value)
        rows = None
        if labels is not None:
            classes = network.nodes["output"].value.numel()
            label = checks.labels(labels, len(labels) if region is None else len(region.center), classes).to(
                value.device
            )
            identity = torch.eye(classes, dtype=torch.float64, device=value.device)
            rows = identity[label][:, None] - identity  # (N, K, K)
        if method != "product":
            found = _of_chain(graph, network, order, method, region, solver, rows)
        elif rows is None:
            found = product_bound(network, order)[:, None] * before * UP
            found = found if region is None else found.expand(len(region.center), 1)
        else:
            found = product_bound(network, order, rows.flatten(0, 1)).view(rows.shape[:2]) * before * UP
    # Exactly 0 for the label against itself.
    return found if rows is None else torch.where((rows == 0).all(2), 0.0, found)


def _convex(ball: PerturbationSet) -> LpBall | Box:
    """A convex set around it: a slope between two inputs is bounded by those on the way from one to the other."""
    perturbation_set(ball)
    if isinstance(ball, LpBall | Box):
        return ball
    hull = ball.hull()
    return Box(hull.lower, hull.upper)


def _example(model: nn.Module | Graph, ball: PerturbationSet | None, x: Tensor | None) -> Tensor:
    """One input in the dtype that the model runs in, of which parts without weights do not tell."""
    given = x if ball is None else ball.center
    if given is not None:
        weight = next(model.parameters(), given) if isinstance(model, nn.Module) else given
        return given[:1].detach().to(weight.dtype)
    parts = model.modules() if isinstance(model, nn.Module) else ()
    layer = next((part for part in parts if not list(part.children())), None)
    if not isinstance(layer, nn.Linear):
        raise InvalidInput("x must be given where the first layer is not linear: pass any input x of shape (1, *D)")
    return layer.weight.new_zeros(1, layer.in_features)


def _at(graph: Graph, x: Tensor) -> Network:
    """The network bound to one input, for its matrices."""
    return Network(graph, LpBall(x, 0.0, low=None, high=None), pooled=False)


def _before(parts: Sequence[nn.Module | Graph], example: Tensor, order: float) -> tuple[float, Tensor]:
    """The product over all segments but the last, and an input of that; sorting in between is 1-Lipschitz."""
    product, value = 1.0, example
    for part in parts:
        if isinstance(part, nn.Module) and len(list(part.children())):
            product *= float(product_bound(_at(capture(part, value), value.double()), order)) * UP
            value = part(value)
    return product, value


def _of_chain(
    graph: Graph,
    network: Network,
    order: float,
    method: str,
    ball: LpBall | Box | None,
    solver: str,
    rows: Tensor | None,
) -> Tensor:
    chain = chain_of(network)
    if ball is not None:
        network = RefinedNetwork(Network(graph, ball, pooled=False), tighten=True).refine()
    count = len(ball.center) if ball is not None else 1 if rows is None else len(rows)
    parts = []
    for row in range(count):
        chosen = chain if rows is None else chain.of_rows(rows[row])
        slopes = chain.slopes(network, None if ball is None else row)
        here = None if ball is None else ball.row(row)
        parts.append(_one(chosen, slopes, order, method, here, solver, vector=rows is None))
    return torch.stack(parts)


def _one(
    chain: LayerChain,
    slopes: list[Interval],
    order: float,
    method: str,
    ball: LpBall | Box | None,
    solver: str,
    *,
    vector: bool,
) -> Tensor:
    """Bounds (R,) for one set: (1,) for all rows of the chain together, or one for each."""
    like = chain.weights[0].value
    if method in PROGRAMMES:
        if vector:
            return like.new_tensor([programme_bound(chain, slopes, method, solver)])
        units = torch.eye(len(chain.weights[-1].value), dtype=like.dtype, device=like.device)
        factor = max(1.0, like.shape[1] ** (0.5 - 1 / order)) * UP
        moving = chain.weights[-1].size.sum(1) > 0
        return like.new_tensor(
            [
                programme_bound(chain.of_rows(unit[None]), slopes, method, solver) * factor if moves else 0.0
                for unit, moves in zip(units, moving.tolist(), strict=True)
            ]
        )
    if any(bool((part.lower.isinf() | part.upper.isinf()).any()) for part in slopes):
        return like.new_full((1 if vector else len(chain.weights[-1].value),), math.inf)
    jacobian = interval_jacobian(chain, slopes, recursive=method != "fast_lip")
    if method == "local" and ball is not None:
        linear = linear_jacobian(chain, ball)
        jacobian = jacobian & Interval(linear.lower[0], linear.upper[0])
    size = torch.maximum(jacobian.lower.abs(), jacobian.upper.abs())
    if vector:
        return like.new_tensor([matrix_norm(Matrix(size, torch.zeros_like(size)), order)])
    return dual_norms(size, order)


def lipschitz_radius(margins: Tensor, constants: Tensor) -> Tensor:
    """Radii (N,), rounded down, within which no margin (N, K) of constants (N, K) can reach 0.

    0 where a margin is not above 0. The entry of constant 0 and margin 0 that the label itself has is left out; where
    there is a second one, another class is tied.
    """
    itself = (margins == 0) & (constants == 0)
    itself = itself & (itself.sum(1, keepdim=True) == 1)  # a second one is another class that is tied everywhere
    share = margins / constants * (1 - accumulated_error(4, margins.dtype))
    share = torch.where(itself, math.inf, torch.where(margins > 0, share, 0.0))
    radius: Tensor = share.amin(1).nan_to_num(nan=0.0)
    return radius
