"""Lower bounds on the differences between all pairs of logits: what a bound on a softmax confidence rests on."""

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.graph.captured import Graph, Source
from bounds.linear.ladder import row_bounds
from bounds.linear.methods import METHODS
from bounds.linear.network import Network
from bounds.linear.parts import within_memory
from bounds.memory import MEMORY
from bounds.numerics import converted_down, ieee_arithmetic
from bounds.operations.node import entries
from bounds.sets.balls import PerturbationSet


@isolated
@ieee_arithmetic()
def pairwise_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    method: str = "crown",
    *,
    steps: int = 20,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Tensor:
    """Lower bounds on ``logit_j - logit_k`` over a ball for all classes j and k.

    Same guarantee and conditions as :func:`bounds.crown`. The K (K - 1) differences are rows of one call, each folded
    into the last affine layers. Gradients reach the weights with ``"ibp"`` and ``"crown_ibp"``, where they are enabled.

    Args:
        model: maps (N, *D) to (N, K), any network that ``torch.export`` follows, or its captured graph.
        ball: N perturbation sets.
        method: as for :func:`bounds.margin_bounds`.
        steps: of ascent, for ``"alpha_crown"``.
        sound: which rounding errors are included, see :func:`bounds.crown`.
        memory: bytes for the inputs and rows that are bounded at once, see :func:`bounds.crown`.

    Returns:
        (N, K, K) tensor, a bound on ``logit_j - logit_k`` at ``[:, j, k]``; 0 on the diagonal.

    Raises:
        UnsupportedLayer: an operation without a rule.
        InvalidInput: an unknown method or mode.
    """
    checks.one_of("method", method, METHODS)
    checks.at_least("steps", steps, 0)

    @within_memory
    def bound(model: Source | Graph, ball: PerturbationSet, *, sound: str, memory: int) -> Tensor:
        network = Network(model, ball, sound=sound)
        classes = entries(network.nodes["output"].value)
        unit = torch.eye(classes, dtype=network.ball.center.dtype, device=network.ball.center.device)
        # All pairs (j, j + shift) around the circle of classes: no row is the difference of a class to itself.
        place = torch.arange(classes, device=unit.device)
        second = (place[:, None] + place[1:]) % classes
        rows = (unit[:, None] - unit[second]).flatten(0, 1).expand(len(ball.center), -1, -1)
        least = row_bounds(network, rows, method, steps=steps, memory=memory).unflatten(1, second.shape)
        margins = least.new_zeros(len(least), classes, classes).scatter(2, second.expand_as(least), least)
        return converted_down(margins, ball.center.dtype)

    with torch.set_grad_enabled(torch.is_grad_enabled() and method in ("ibp", "crown_ibp")):
        return bound(model, ball, sound=sound, memory=memory)
