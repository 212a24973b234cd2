"""Lower bounds on the differences between logits, by any method: what a certificate of a class rests on."""

from collections.abc import Mapping

from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.engines.auto_lirpa import other_bounds
from bounds.engines.choice import OWN, is_own
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.linear.intervals import DEFAULT_RULES, Rule, interval_margins, layers_in_turn
from bounds.linear.methods import METHODS, linear_margins
from bounds.memory import MEMORY
from bounds.numerics import ieee_arithmetic
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker
from bounds.sets.balls import Box, LpBall, PerturbationSet


@isolated
@ieee_arithmetic()
def margin_bounds(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str = "ibp",
    *,
    steps: int = 20,
    intermediate: bool = True,
    depth: int | None = None,
    sound: str = "rounding",
    memory: int = MEMORY,
    rules: Mapping[type[nn.Module], Rule] = DEFAULT_RULES,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    engine: str = OWN,
) -> Tensor:
    """Lower bounds on ``logit_label - logit_k`` over a ball; a row above 0 off the label is a proof.

    Same guarantee and conditions as :func:`bounds.crown`. The difference is folded into the last affine layers, which
    is tighter than subtracting bounds of logits.

    Args:
        model: any network that ``torch.export`` follows, or its captured graph; see :func:`bounds.ibp`.
        ball: N perturbation sets.
        labels: (N,) class indices.
        method: ``"ibp"``, ``"crown_ibp"``, ``"fast_lin"``, ``"crown"`` or ``"alpha_crown"``, each at least as tight as
            those before it.
        steps: of ascent, for ``"alpha_crown"``; it stops where a row is above 0.
        intermediate: whether ``"alpha_crown"`` ascends bounds of neurons too, see :func:`bounds.alpha_crown`; of inputs
            that outputs alone leave open.
        depth: of the passes of inner nodes, for ``"crown"``, see :func:`bounds.crown`.
        sound: which rounding errors are included: ``"rounding"``, ``"real"`` or ``"deployed"``, see
            :func:`bounds.crown`.
        memory: bytes for the inputs and rows that are bounded at once, see :func:`bounds.crown`.
        rules: bounding rule of each layer type, for ``"ibp"`` of a sequential network.
        table: affine operations of captured networks.
        functions: makers of the functions of their other operations.
        engine: ``"own"`` or ``"auto_lirpa"``, see :func:`bounds.crown`; the latter knows all methods but
            ``"fast_lin"``.

    Returns:
        (N, K) tensor, 0 at ``k = label``.

    Raises:
        UnsupportedLayer: a layer or an operation without a rule.
        InvalidInput: labels out of range, an unknown method or mode.
    """
    checks.one_of("method", method, METHODS)
    checks.at_least("steps", steps, 0)
    if depth is not None and method != "crown":
        raise InvalidInput(f'depth must be None unless method is "crown", got {depth} with {method!r}: leave it out')
    checks.at_least("depth", 0 if depth is None else depth, 0)
    own = {"rules": rules is DEFAULT_RULES, "table": table is AFFINE, "functions": functions is FUNCTIONS}
    if not is_own(engine, sound, **own):
        return other_bounds(model, ball, method, steps=steps, labels=labels).lower
    layers = layers_in_turn(model, ball, rules, sound) if method == "ibp" else None
    if layers is not None and isinstance(ball, LpBall | Box):
        return interval_margins(layers, ball, labels, rules, sound, memory)
    return linear_margins(
        model,
        ball,
        labels,
        method,
        steps=steps,
        intermediate=intermediate,
        depth=depth,
        table=table,
        functions=functions,
        sound=sound,
        memory=memory,
    )
