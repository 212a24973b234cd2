"""Lower bounds on the differences between logits, by any method: what a certificate of a class rests on."""

from collections.abc import Mapping

from torch import Tensor, nn

from bounds import checks
from bounds.balls import LpBall
from bounds.concretize import PerturbationSet
from bounds.errors import InvalidInput
from bounds.graph import Graph
from bounds.interval import DEFAULT_RULES, Rule, interval_margins
from bounds.linear import METHODS as LINEAR_METHODS
from bounds.linear import linear_margins
from bounds.operations import AFFINE, Affine

METHODS = ("ibp", *LINEAR_METHODS)


def margin_bounds(
    model: nn.Module | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str = "ibp",
    *,
    rules: Mapping[type[nn.Module], Rule] = DEFAULT_RULES,
    table: Mapping[str, Affine] = AFFINE,
) -> Tensor:
    """Lower bounds on ``logit_label - logit_k`` over a ball; a row above 0 off the label is a proof.

    Same guarantee and conditions as :func:`bounds.ibp` or :func:`bounds.crown`. The difference is folded into the last
    linear layer, which is tighter than subtracting bounds of logits.

    Args:
        model: as the method asks: ``nn.Sequential`` for ``"ibp"``, any model or a captured graph for the others.
        ball: N perturbation sets, :class:`LpBall` or, for linear bounds, others.
        labels: (N,) class indices.
        method: ``"ibp"``, ``"crown_ibp"`` or ``"crown"``, from cheap to tight.
        rules: bounding rule of each layer type, for ``"ibp"``.
        table: affine operations, for the others.

    Returns:
        (N, K) tensor, 0 at ``k = label``.

    Raises:
        UnsupportedLayer: a layer or an operation without a rule.
        InvalidInput: labels out of range, an unknown method, a graph or another set than a ball for ``"ibp"``.
    """
    checks.one_of("method", method, METHODS)
    if method != "ibp":
        return linear_margins(model, ball, labels, method, table=table)
    if isinstance(model, Graph) or not isinstance(ball, LpBall):
        raise InvalidInput(
            f"method 'ibp' takes an nn.Sequential and an LpBall, got {type(model).__name__} and {type(ball).__name__}: "
            f"pass these, or use 'crown_ibp'"
        )
    return interval_margins(model, ball, labels, rules)
