"""Functions behind the operations of a captured network that are not affine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bounds.errors import UnsupportedLayer
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.masks import LEAKING
from bounds.operations.node import Node
from bounds.operations.pooling import POOLED, pooled_windows_of
from bounds.operations.products_and_conditions import CHOICE, NOT_NEGATIVE, POSITIVE
from bounds.relaxations import activations, elementary, steps_and_waves
from bounds.relaxations.base import NodeFunction
from bounds.relaxations.multivariate import Choice, Leaking, Maximum, Product, Ranked, Within
from bounds.relaxations.pooled import PooledMaximum

Maker = Callable[[Node], NodeFunction]


def _fixed(make: Callable[[], NodeFunction]) -> Maker:
    return lambda node: make()


def _with(make: Callable[..., NodeFunction], **defaults: float | None) -> Maker:
    """Takes the arguments after the data, by position, or their defaults."""

    def maker(node: Node) -> NodeFunction:
        given = node.arguments[1:]
        return make(*given, *list(defaults.values())[len(given) :])

    return maker


def _prelu(node: Node) -> NodeFunction:
    weight: Tensor = node.arguments[1]
    shape = (1, -1, *[1] * (node.value.ndim - 2)) if weight.numel() > 1 else ()
    return activations.leaky_relu(weight.reshape(shape))


def _maximum(node: Node) -> NodeFunction:
    shape = (node if node.single is None else node.single).value.ndim
    dims, keepdim, *_ = (*node.arguments[1:], (), False) if len(node.arguments) > 1 else ((), False)
    given = [dims] if isinstance(dims, int) else list(dims)
    ndim = shape + (0 if keepdim else len(given))
    return Maximum(tuple(dim if dim < 0 else dim - ndim for dim in given or range(ndim)), bool(keepdim))


# One line for each operation. Names are those of ATen; a caller may add to a copy.
FUNCTIONS: Mapping[str, Maker] = {
    "aten.relu.default": _fixed(activations.relu),
    "aten.leaky_relu.default": _with(activations.leaky_relu, negative_slope=0.01),
    "aten.prelu.default": _prelu,
    "aten.elu.default": _with(activations.elu, alpha=1.0, scale=1.0, input_scale=1.0),
    "aten.selu.default": _fixed(activations.selu),
    "aten.celu.default": lambda node: activations.elu(*_celu(*node.arguments[1:])),
    "aten.relu6.default": _fixed(activations.relu6),
    "aten.hardtanh.default": _with(activations.hardtanh, low=-1.0, high=1.0),
    "aten.clamp.default": _with(activations.clamp, low=None, high=None),
    "aten.clamp_min.default": _with(activations.clamp, low=None),
    "aten.clamp_max.default": lambda node: activations.clamp(None, node.arguments[1]),
    "aten.hardsigmoid.default": _fixed(activations.hardsigmoid),
    "aten.hardswish.default": _fixed(activations.hardswish),
    "aten.abs.default": _fixed(activations.absolute),
    "aten.sign.default": _fixed(steps_and_waves.sign),
    "aten.floor.default": _fixed(steps_and_waves.floor),
    "aten.round.default": _fixed(steps_and_waves.round_half_to_even),
    "aten.sigmoid.default": _fixed(activations.sigmoid),
    "aten.tanh.default": _fixed(activations.tanh),
    "aten.atan.default": _fixed(activations.atan),
    "aten.softplus.default": _with(activations.softplus, beta=1.0, threshold=20.0),
    "aten.silu.default": _fixed(activations.silu),
    "aten.mish.default": _fixed(activations.mish),
    "aten.gelu.default": lambda node: activations.gelu(node.options.get("approximate", "none")),
    "aten.erf.default": _fixed(activations.erf),
    "aten.erfc.default": _fixed(elementary.erfc),
    "aten.special_ndtr.default": _fixed(elementary.normal_distribution),
    "aten.logit.default": _fixed(elementary.logit),
    "aten.sinh.default": _fixed(elementary.sinh),
    "aten.cosh.default": _fixed(elementary.cosh),
    "aten.tan.default": _fixed(elementary.tan),
    "aten.asin.default": _fixed(elementary.asin),
    "aten.acos.default": _fixed(elementary.acos),
    "aten.asinh.default": _fixed(elementary.asinh),
    "aten.acosh.default": _fixed(elementary.acosh),
    "aten.atanh.default": _fixed(elementary.atanh),
    "aten.exp.default": _fixed(elementary.exp),
    "aten.exp2.default": lambda node: elementary.exponential(2.0),
    "aten.log2.default": lambda node: elementary.logarithm(2),
    "aten.log10.default": lambda node: elementary.logarithm(10),
    "aten.pow.Scalar": lambda node: elementary.exponential(float(node.arguments[0])),
    "aten.log.default": _fixed(elementary.log),
    "aten.sqrt.default": _fixed(elementary.sqrt),
    "aten.reciprocal.default": _fixed(elementary.reciprocal),
    "aten.mul.Tensor": _fixed(Product),
    "aten.amax.default": _maximum,
    POOLED: lambda node: PooledMaximum(pooled_windows_of(node)),
    LEAKING: lambda node: Leaking(node.arguments[2]),
    "certify_bounds.ranked.default": lambda node: Ranked(node.arguments[1]),
    "certify_bounds.within.default": lambda node: Within(*node.arguments[1:]),
    POSITIVE: _fixed(steps_and_waves.step_above_zero),
    NOT_NEGATIVE: _fixed(steps_and_waves.not_negative),
    CHOICE: _fixed(Choice),
    "aten.pow.Tensor_Scalar": lambda node: elementary.power(node.arguments[1]),
    "aten.square.default": _fixed(elementary.square),
    "aten.sin.default": _fixed(steps_and_waves.sin),
    "aten.cos.default": _fixed(steps_and_waves.cos),
}

PARENTS = {"aten.mul.Tensor": 2, CHOICE: 3, LEAKING: 2}  # of which they take several


def _celu(alpha: float = 1.0) -> tuple[float, float, float]:
    """CELU as ELU: alpha (e^(x / alpha) - 1) below 0."""
    return alpha, 1.0, 1.0 / alpha


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of operations that a caller hands to bounds.

    Attributes:
        affine: operations that are affine in their data.
        functions: makers of functions, for all others.
    """

    affine: Mapping[str, Affine] = field(default_factory=lambda: AFFINE)
    functions: Mapping[str, Maker] = field(default_factory=lambda: FUNCTIONS)

    def pools(self) -> bool:
        """Whether max pooling is what it is by default, and not what a caller makes of its parts."""
        name = "aten.amax.default"
        own = self.affine.get("aten.index_select.default") is AFFINE["aten.index_select.default"]
        return own and self.functions.get(name) is FUNCTIONS[name] and POOLED in self.functions


def function_of(node: Node, table: Mapping[str, Maker] = FUNCTIONS) -> NodeFunction:
    """The function of a node.

    Raises:
        UnsupportedLayer: there is none, with the operation, its place in the source code, and the remedy.
    """
    maker = table.get(node.operation)
    own = maker is not FUNCTIONS.get(node.operation)  # of the caller, who knows how many data it takes
    if maker is None or not (own or len(node.parents) == PARENTS.get(node.operation, 1)):
        raise UnsupportedLayer(
            f"{node.operation} of {len(node.parents)} data inputs has no rule for linear bounds; it stands at "
            f"{node.origin}. {remedy(node)}"
        )
    return maker(node)


def remedy(node: Node) -> str:
    """The remedy for an operation without a rule."""
    return (
        f"Write it with operations that have a rule; or pass functions=bounds.FUNCTIONS | "
        f"{{{node.operation!r}: maker}}, where maker takes the node and returns its function (see bounds.relaxations), "
        f"or, if it is affine, table=bounds.AFFINE | {{{node.operation!r}: Affine(...)}}"
    )
