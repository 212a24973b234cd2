"""Constants that a network computes from its weights alone, with a proved bound on the rounding of that computation.

Weight normalisation, the scale of a batch normalisation or a table of positions is evaluated once, in float64. Its
rounding is part of every bound: here each operation has a rule that turns errors of its operands into one of its
result, entry by entry, for any order of summation. The same rules with the unit of float32 bound how far the constants
of a deployed network lie from the exact ones.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bounds.errors import UnsupportedLayer
from bounds.numerics import accumulated_error, unit_roundoff
from bounds.operations.affine import AFFINE

STORED = "stored"  # a weight or buffer, or what a factory such as ``arange`` makes: just what it says
LARGEST_ERROR = 2.0**-6  # relative, of a constant of which a bound is worth having
SPECIAL = 16  # units in the last place of functions such as exp, and those of steps between


@dataclass(frozen=True, eq=False)
class Constant:
    """The result of an operation on constants.

    Attributes:
        value: floating ones in float64; a list where the operation has several results.
        operation: name of the ATen operation.
        function: the operation as a function of the values of its parents.
        parents: the constants that it is computed from.
        arguments: the other arguments by position, None for tensors.
        options: its arguments by name.
        origin: where in the source code it stands.
    """

    value: Any
    operation: str = STORED
    function: Callable[..., Any] = lambda: None
    parents: "tuple[Constant, ...]" = ()
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "unknown"
    cache: dict[object, Any] = field(default_factory=dict)

    def error(self, dtype: torch.dtype) -> Any:  # noqa: ANN401  # one tensor or several, like the value
        """A bound on the error of the value computed in ``dtype``, against real arithmetic; infinite without a rule."""
        if dtype not in self.cache:
            with torch.no_grad():
                self.cache[dtype] = self._error(dtype)
        return self.cache[dtype]

    def _error(self, dtype: torch.dtype) -> Any:  # noqa: ANN401
        errors = [parent.error(dtype) for parent in self.parents]
        rule = RULES.get(self.operation)
        if self.operation == STORED or (not self._is_inexact and _are_zero(errors)):  # integers and conditions
            return pytree.tree_map_only(Tensor, _nothing, self.value)
        found = None if rule is None else rule(self, errors, dtype)
        if found is None:
            return pytree.tree_map_only(Tensor, lambda part: _nothing(part) + math.inf, self.value)
        largest = torch.finfo(dtype).max
        return pytree.tree_map(
            lambda value, error: torch.where(error.isnan() | (value.abs() > largest), math.inf, error).expand_as(value),
            self.value,
            found,
        )

    @property
    def _is_inexact(self) -> bool:
        return any(isinstance(leaf, Tensor) and _rounds(leaf) for leaf in pytree.tree_leaves(self.value))

    def units(self, used: torch.dtype, computed: torch.dtype) -> int:
        """The relative error of all entries, in units of rounding of ``computed``, where they are used in ``used``.

        Found once, since every bound of a captured network asks for it.

        Raises:
            UnsupportedLayer: there is no useful bound, with the operation and the remedy.
        """
        if (used, computed) not in self.cache:
            with torch.no_grad():
                self.cache[used, computed] = self._units(used, computed)
        found: int = self.cache[used, computed]
        return found

    def _units(self, used: torch.dtype, computed: torch.dtype) -> int:
        worst, values = 0.0, pytree.tree_leaves(self.value)
        for value, error in zip(values, pytree.tree_leaves(self.error(computed)), strict=True):
            if not _rounds(value):  # a mask or places, which are exact, or the network is refused elsewhere
                if bool(error.any()):
                    raise UnsupportedLayer(self._without_bound(computed))
                continue
            if value.is_complex():
                value, error = torch.view_as_real(value), error.unsqueeze(-1)
            near = value.to(used).double()
            total = error + torch.where(value == near, 0.0, (value - near).abs())
            share = torch.where(total > 0, total / near.abs(), 0.0)
            if not bool((share <= LARGEST_ERROR).all()):
                raise UnsupportedLayer(self._without_bound(computed))
            worst = max(worst, float(share.max()) if share.numel() else 0.0)
        return math.ceil(worst / unit_roundoff(computed) * (1 + 1e-6))

    def wide(self) -> "Constant":
        """A stored constant in float64."""
        if self.operation != STORED or not self.value.is_floating_point():
            return self
        return replace(self, value=self.value.double())

    def is_exact(self, dtype: torch.dtype) -> bool:
        """Whether it is a stored one that a dtype holds as it is."""
        if self.operation != STORED:
            return False
        needed = dtype.to_complex() if self.value.is_complex() else dtype
        return not self._is_inexact or torch.promote_types(self.value.dtype, needed) == needed

    def _without_bound(self, dtype: torch.dtype) -> str:
        source = self
        while source.operation in RULES and (
            worse := [
                parent
                for parent in source.parents
                if any(bool((~leaf.isfinite()).any()) for leaf in pytree.tree_leaves(parent.error(dtype)))
            ]
        ):
            source = worse[0]
        why = "loses its digits to cancellation" if source.operation in RULES else "rounds in a way that is not known"
        return (
            f"a constant of the network, computed from weights by {source.operation}, {why} in {dtype}; it stands at "
            f"{source.origin}. Store what is computed as a weight (torch.nn.utils.parametrize.remove_parametrizations, "
            f"or register_buffer), or use sound='real'"
        )


Errors = list[Any]
Rule = Callable[[Constant, Errors, torch.dtype], Any]


def _rounds(value: Tensor) -> bool:
    """Whether operations on such numbers round: not on integers and conditions."""
    return value.is_floating_point() or value.is_complex()


def _nothing(value: Tensor) -> Tensor:
    return torch.zeros_like(value, dtype=torch.float64)


def _are_zero(errors: Errors) -> bool:
    return not any(bool(leaf.any()) for leaf in pytree.tree_leaves(errors))


def _at(constant: Constant, parts: list[Any]) -> Any:  # noqa: ANN401
    """The operation on other numbers; what is no floating number stays."""
    given = [
        part if isinstance(parent.value, Tensor) and _rounds(parent.value) else parent.value
        for part, parent in zip(parts, constant.parents, strict=True)
    ]
    return constant.function(*given)


def _moved(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Entries change places, and fillings come in between; conditions and indices are known for certain."""
    for parent, error in zip(constant.parents, errors, strict=True):
        if isinstance(parent.value, Tensor) and not _rounds(parent.value) and not _are_zero([error]):
            return None
    moved = _at(constant, errors)
    filled = _at(constant, [pytree.tree_map_only(Tensor, torch.zeros_like, error) for error in errors])
    return pytree.tree_map(lambda a, b: torch.where(a == b, 0.0, (a - b).abs()), moved, filled)


def _picked(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    return errors[0][constant.arguments[1]]


def _unmoved(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Functions of slope 1 at most, whose sides may be rounded: clamps and absolute values."""
    return errors[0] + 2 * unit_roundoff(dtype) * constant.value.abs() if len(errors) == 1 else None


def _cast(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Error of a cast of a computed constant: evaluated in float64, and rounded where it runs."""
    target = constant.options.get("dtype") or dtype
    if not target.is_floating_point:
        return errors[0] if _are_zero(errors) else None
    if constant.parents[0].value.is_floating_point() and torch.promote_types(target, dtype) != target:
        return (
            errors[0]
            + 2 * unit_roundoff(target) * constant.value.abs()
            + torch.finfo(target).tiny * (constant.value.abs() < torch.finfo(target).tiny) * (constant.value != 0)
        )
    return errors[0]


def _largest(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    return torch.maximum(*torch.broadcast_tensors(*errors)) if len(errors) == 2 else None


def _ranked(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The k-th largest of several numbers moves by no more than the one that moves most."""
    return errors[0].amax(-1)


def _filled(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """One number everywhere, rounded to the dtype."""
    number = float(constant.arguments[1])
    return torch.full_like(constant.value, abs(number - torch.tensor(number, dtype=dtype).item()), dtype=torch.float64)


def _grid(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Affine maps of points between -1 and 1, which are themselves off by a few units."""
    (matrix,) = (parent.value for parent in constant.parents)  # (N, d, d + 1), and values (N, ..., d)
    most = (SPECIAL * unit_roundoff(dtype) * matrix.abs() + errors[0]).sum(-1) * (1 + 2.0**-40)
    return most.view(len(most), *[1] * (constant.value.ndim - 2), -1).expand_as(constant.value)


def _added(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Sums and differences: what cancels leaves an exact result, up to the errors of the terms."""
    alpha = abs(float(constant.options.get("alpha", 1)))
    unit = unit_roundoff(dtype)
    total = max(alpha, 1.0) * sum(errors) + 2 * unit * constant.value.abs()
    if alpha != 1:
        sizes = [parent.value.abs() for parent in constant.parents]
        total = total + 2 * unit * alpha * sum(sizes)
    for number in constant.arguments[:2]:
        if isinstance(number, int | float):
            total = total + abs(number - torch.tensor(number, dtype=dtype).item())
    return total * (1 + 4 * unit)


def _multiplied(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    sizes = [parent.value.abs() for parent in constant.parents]
    before, after = _of_sizes(constant, sizes), _of_sizes(constant, [a + e for a, e in zip(sizes, errors, strict=True)])
    lost = (after < 2 * torch.finfo(dtype).tiny) & _of_sizes(constant, [(a > 0).double() for a in sizes]).bool()
    return _more(after, before, errors) + 2 * unit_roundoff(dtype) * after + lost * torch.finfo(dtype).tiny


def _of_sizes(constant: Constant, sizes: list[Tensor]) -> Tensor:
    """The product, of absolute values."""
    found: Tensor = constant.function(*sizes).abs()
    return found


def _more(after: Tensor, before: Tensor, errors: Errors) -> Tensor:
    """The growth of a function of absolute values with errors; both computed in float64."""
    grown = (after - before) + 2.0**-50 * after
    return torch.zeros_like(after) if _are_zero(errors) else grown


def _divided(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Error of a quotient whose divisor stays away from 0; a number in its place is exact."""
    size, unit = constant.value.abs(), unit_roundoff(dtype)
    numerator: Any
    least: Any
    spread: Any
    if constant.arguments[1] is not None:  # a number
        numerator, least, spread = errors[0], abs(float(constant.arguments[1])), 0.0
    else:
        numerator = errors[0] if constant.arguments[0] is None else 0.0
        divisor = constant.parents[-1].value.abs()
        spread, least = errors[-1], divisor - errors[-1]
        least = torch.where(least > 0, least, math.nan)
    found = (numerator + size * spread) / least * (1 + 8 * 2.0**-53) + 2 * unit * size
    lost = (size < 2 * torch.finfo(dtype).tiny) & (size > 0)
    return found + lost * torch.finfo(dtype).tiny


def _sum_of_products(terms: Callable[[Constant], int]) -> Rule:
    """Sums of products, in any order: the same of absolute values bounds their size."""

    def rule(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
        if constant.options.get("alpha", 1) != 1 or constant.options.get("beta", 1) != 1:
            return None
        sizes = [parent.value.abs() for parent in constant.parents]
        before = constant.function(*sizes)
        after = constant.function(*(a + e for a, e in zip(sizes, errors, strict=True)))
        count = terms(constant)
        lost = torch.finfo(dtype).tiny * count * (after > 0)
        return _more(after, before, errors) + accumulated_error(count + 4, dtype) * after * (1 + 1e-9) + lost

    return rule


def _fan_in(constant: Constant) -> int:
    """Entries of the last dimension of the first factor: of vectors, matrices and linear layers."""
    return int(constant.parents[0].value.shape[-1])


def _kernel(constant: Constant) -> int:
    return max(int(parent.value.numel()) for parent in constant.parents)


def _share(constant: Constant) -> int:
    """Entries behind one of the result."""
    return math.ceil(int(constant.parents[0].value.numel()) / max(1, int(constant.value.numel())))


def _function(units: int, steepest: float = math.inf) -> Rule:
    """A function of one number that rises or falls, or whose slope is bounded."""

    def rule(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
        (error,), (parent,) = errors, constant.parents
        value = constant.value
        if steepest < math.inf:
            apart, size = steepest * error, torch.ones_like(value)
        elif _are_zero(errors):
            apart, size = error, value.abs()
        else:
            ends = [constant.function(parent.value + sign * error) for sign in (-1, 1)]
            apart = torch.stack([(end - value).abs() for end in ends]).amax(0)
            size = value.abs() + apart
        tiny = torch.finfo(dtype).tiny
        lost = (size < 2 * tiny) & (size > 0)
        return apart * (1 + 1e-9) + (units * unit_roundoff(dtype) + SPECIAL * 2.0**-53) * size + lost * tiny

    return rule


def _inverse(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Error of the inverse of numbers on one side of 0."""
    return _function(2)(constant, errors, dtype) if bool((constant.parents[0].value.abs() > errors[0]).all()) else None


def _power(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Powers of numbers on one side of 0."""
    exponent, base = float(constant.arguments[1]), constant.parents[0].value
    known = torch.tensor(exponent, dtype=dtype).item() == exponent
    one_side = _are_zero(errors) or bool((base.abs() > errors[0]).all())
    return _function(SPECIAL)(constant, errors, dtype) if known and one_side else None


def _normalised(constant: Constant, errors: Errors, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """``g v / |v|``: the root of a sum of squares, a quotient and a product, of weights as they are."""
    direction = constant.parents[0].value
    dim = constant.arguments[2] if len(constant.arguments) > 2 else 0
    norm = torch.linalg.vector_norm(direction, dim=[i for i in range(direction.ndim) if i != dim], keepdim=True)
    limits = torch.finfo(dtype)
    if not _are_zero(errors) or not bool(((norm**2 > limits.tiny / limits.eps**2) & (norm**2 < limits.max / 2)).all()):
        return None
    error = accumulated_error(direction.numel() // norm.numel() + SPECIAL, dtype)
    return error * constant.value.abs() + limits.tiny * ((constant.value.abs() < 2 * limits.tiny) & (direction != 0))


def _named(rule: Rule, *names: str) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names}


RULES: Mapping[str, Rule] = {
    **{name: _moved for name, entry in AFFINE.items() if entry.exact},
    **_named(_moved, "full_like.default", "zeros_like.default", "ones_like.default", "lift_fresh_copy.default"),
    **_named(_moved, "embedding.default", "meshgrid.default", "meshgrid.indexing", "numpy_T.default", "mT.default"),
    **_named(_unmoved, "abs.default", "relu.default", "clamp.default", "clamp_min.default", "clamp_max.default"),
    **_named(_cast, "_to_copy.default"),
    "certify_bounds.ranked.default": _ranked,
    **_named(_filled, "fill.Scalar"),
    **_named(_grid, "affine_grid_generator.default"),
    **_named(_largest, "maximum.default", "minimum.default"),
    **_named(_added, "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor"),
    **_named(_multiplied, "mul.Tensor", "mul.Scalar"),
    **_named(_divided, "div.Tensor", "div.Scalar"),
    **_named(_sum_of_products(_fan_in), "mv.default", "dot.default", "vdot.default", "mm.default", "bmm.default"),
    **_named(_sum_of_products(_fan_in), "matmul.default", "linear.default"),
    **_named(_sum_of_products(_kernel), "conv1d.default", "conv2d.default", "einsum.default", "outer.default"),
    **_named(_sum_of_products(_kernel), "avg_pool2d.default", "upsample_bilinear2d.vec", "cumsum.default"),
    **_named(_sum_of_products(_share), "sum.dim_IntList", "sum.default", "mean.dim", "mean.default"),
    **_named(_function(2), "sqrt.default"),
    **_named(_inverse, "reciprocal.default"),
    **_named(_function(SPECIAL), "rsqrt.default", "exp.default", "log.default"),
    **_named(_function(SPECIAL, 1.0), "sigmoid.default", "tanh.default", "sin.default", "cos.default"),
    **_named(_power, "pow.Tensor_Scalar"),
    **_named(_normalised, "_weight_norm.default"),
    "certify_bounds.within.default": _unmoved,
    "getitem": _picked,
}
