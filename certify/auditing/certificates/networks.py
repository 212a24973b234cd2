"""Networks of affine layers and ReLU as matrices in float64, with a bound of the error of every entry.

A network is exported by torch and read node by node. Between two layers of ReLU everything is affine: each value is
carried as its matrices with respect to the input and the outputs of all ReLU layers before it, so that residual
connections need no rule of their own. Next to each matrix goes one of sums of absolute products, by which its rounding
errors are bounded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.verification.proving.programs import ProgramReader, leaves

ROUNDING = 2.0**-53
MOST_ENTRIES = 3 * 10**7  # of all matrices
MOST_OF_BLOCK = 2**14  # entries, whose square is that of the matrix that a block begins with
INPUT = 0  # the block of the input; blocks 1, 2, ... are ReLU layers


class TooLarge(Exception):
    """The matrices of the network would not fit."""


class Unknown(Exception):
    """A layer that is neither affine nor ReLU."""


@dataclass(frozen=True, eq=False)  # no tuple, which torch would take apart
class Form:
    """An affine function of some blocks, one entry of the batch for each input entry.

    Attributes:
        blocks: by number of the block, the matrix (n_block, *shape) and sums of absolute products of the same shape.
        constant: (1, *shape), and likewise.
    """

    blocks: dict[int, tuple[Tensor, Tensor]]
    constant: tuple[Tensor, Tensor]

    def linear(self, signed: Callable[[Tensor], Tensor], absolute: Callable[[Tensor], Tensor]) -> "Form":
        """The form behind a linear map, given with its absolute values too."""
        blocks = {key: (signed(value), absolute(size)) for key, (value, size) in self.blocks.items()}
        if sum(value.numel() for value, _ in blocks.values()) > MOST_ENTRIES:
            raise TooLarge
        return Form(blocks, (signed(self.constant[0]), absolute(self.constant[1])))

    def shifted(self, offset: Tensor | None) -> "Form":
        """The form and a constant that broadcasts to it."""
        if offset is None:
            return self
        return Form(self.blocks, (self.constant[0] + offset, self.constant[1] + offset.abs()))

    def plus(self, other: "Form", sign: float = 1.0) -> "Form":
        """The sum of two forms of one shape, or their difference."""
        blocks = dict(self.blocks)
        for key, (value, size) in other.blocks.items():
            mine = blocks.get(key, (torch.zeros_like(value), torch.zeros_like(size)))
            blocks[key] = (mine[0] + sign * value, mine[1] + size)
        (a, b), (c, d) = self.constant, other.constant
        return Form(blocks, (a + sign * c, b + d))


class Affine(NamedTuple):
    """Rows of an affine function: matrices (n, n_block) with their absolute sums, and constants (n,) with theirs."""

    blocks: dict[int, tuple[Tensor, Tensor]]
    constant: tuple[Tensor, Tensor]


class LayeredNetwork(NamedTuple):
    """A network: what each ReLU layer is applied to, and the logits, as functions of all blocks before.

    Attributes:
        layers: what each ReLU layer is applied to.
        logits: of all classes.
        error: of a sum or an entry, relative to its sum of absolute terms: half a unit for each term of any of them.
    """

    layers: list[Affine]
    logits: Affine
    error: float


def network_of(model: nn.Module, x: Tensor) -> LayeredNetwork:
    """The network behind a model, for inputs such as x, (1, *D).

    Raises:
        Unknown: a layer that is neither affine nor ReLU, or a model that cannot be exported.
        TooLarge: its matrices are.
    """
    return _Reader(model, x).read()


class _Reader(ProgramReader):
    """Reads operations of a program as affine functions of the input and of all ReLU layers before."""

    value, refusal = Form, Unknown

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__(model, x)
        self.layers: list[Affine] = []
        self.terms = 64  # of sums one after the other, with room for single operations

    def read(self) -> LayeredNetwork:
        _, logits = self.output()
        largest = max([self.example.numel(), *[len(layer.constant[0]) for layer in self.layers]])
        return LayeredNetwork(self.layers, _rows(logits), ROUNDING * (self.terms + largest))

    def input(self) -> Form:
        return _block(INPUT, self.example.shape[1:])

    def call(self, node: torch.fx.Node, name: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> Form:
        if name == "relu":
            return self._relu(arguments[0])
        weights = [one[0].numel() for one in leaves(arguments) if isinstance(one, Tensor) and one.ndim > 1]
        self.terms += max([4, *weights]) if name not in MEANS else arguments[0].constant[0].numel()
        if name not in OPERATIONS:
            raise Unknown(f"{name} is neither an affine layer nor ReLU")
        return OPERATIONS[name](*arguments, **settings)

    def _relu(self, form: Form) -> Form:
        self.layers.append(_rows(form))
        return _block(len(self.layers), form.constant[0].shape[1:])


def _block(number: int, shape: torch.Size) -> Form:
    """Entries of a block as functions of themselves."""
    if shape.numel() > MOST_OF_BLOCK:
        raise TooLarge
    one = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    return Form({number: (one, one)}, (zero, zero))


def _rows(form: Form) -> Affine:
    blocks = {key: (value.flatten(1).T, size.flatten(1).T) for key, (value, size) in form.blocks.items()}
    return Affine(blocks, (form.constant[0].flatten(), form.constant[1].flatten()))


def _weighted(function: Callable[..., Tensor]) -> Callable[..., Form]:
    """An operation of torch with weights and an offset."""

    def operation(form: Form, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any) -> Form:  # noqa: ANN401
        found = form.linear(
            lambda value: function(value, weight, None, *rest, **more),
            lambda value: function(value, weight.abs(), None, *rest, **more),
        )
        return found.shifted(None if bias is None else bias.view(-1, *[1] * (found.constant[0].ndim - 2)))

    return operation


def _same(function: Callable[..., Tensor]) -> Callable[..., Form]:
    """A linear operation whose weights are at least 0."""

    def operation(form: Form, *rest: Any, **more: Any) -> Form:  # noqa: ANN401
        return form.linear(lambda value: function(value, *rest, **more), lambda value: function(value, *rest, **more))

    return operation


def _batch_norm(
    form: Form,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    train: bool,
    _: float,
    eps: float,
    *__: object,
) -> Form:
    if train:
        raise Unknown("batch normalisation that looks at the batch is no function of one input")
    view = (-1, *[1] * (form.constant[0].ndim - 2))
    scale = (1 / torch.sqrt(var + eps)) * (1 if weight is None else weight)
    scaled = form.shifted(-mean.view(view)).linear(lambda v: v * scale.view(view), lambda v: v * scale.abs().view(view))
    return scaled.shifted(None if bias is None else bias.view(view))


def _view(form: Form, *sizes: Any) -> Form:  # noqa: ANN401
    shape = sizes[0] if isinstance(sizes[0], list | tuple) else sizes
    return form.linear(*[lambda value: value.reshape(len(value), *shape[1:])] * 2)


def _flatten(form: Form, start: int = 0, end: int = -1) -> Form:
    if start != 1:
        raise Unknown("flatten mixes the batch with the input")
    return form.linear(*[lambda value: value.flatten(start, end)] * 2)


def _add(form: Any, other: Any, *, alpha: float = 1, sign: float = 1.0) -> Form:  # noqa: ANN401
    if not isinstance(form, Form):
        return _add(_scaled(other, sign * alpha), form)
    if isinstance(other, Form):
        if form.constant[0].shape != other.constant[0].shape:
            raise Unknown("a sum of values of different shapes")
        return form.plus(other, sign * alpha)
    return form.shifted(_batched(form, torch.as_tensor(other, dtype=torch.float64) * sign * alpha))


def _subtract(form: Any, other: Any, *, alpha: float = 1) -> Form:  # noqa: ANN401
    return _add(form, other, alpha=alpha, sign=-1.0)


def _scaled(form: Any, other: Any) -> Form:  # noqa: ANN401
    if isinstance(form, Form) and isinstance(other, Form):
        raise Unknown("a product of two values is not affine")
    carried: Form = form if isinstance(form, Form) else other
    constant = other if isinstance(form, Form) else form
    factor = _batched(carried, torch.as_tensor(constant, dtype=torch.float64))
    return carried.linear(lambda value: value * factor, lambda value: value * factor.abs())


def _divided(form: Any, other: Any) -> Form:  # noqa: ANN401
    if isinstance(other, Form):
        raise Unknown("a quotient of values is not affine")
    return _scaled(form, 1 / torch.as_tensor(other, dtype=torch.float64))


def _batched(form: Form, constant: Tensor) -> Tensor:
    """A constant that broadcasts to a form, and does not enlarge it."""
    shape = form.constant[0].shape
    if torch.broadcast_shapes(shape, constant.shape) != shape:
        raise Unknown("a constant makes a value larger")
    return constant


def _concatenated(forms: list[Any], dim: int = 0) -> Form:
    if dim == 0 or not all(isinstance(form, Form) for form in forms):
        raise Unknown("a concatenation with constants, or of the batch")
    blocks: dict[int, tuple[Tensor, Tensor]] = {}
    for key in {key for form in forms for key in form.blocks}:
        count = next(len(form.blocks[key][0]) for form in forms if key in form.blocks)
        nothing = [torch.zeros(count, *form.constant[0].shape[1:], dtype=torch.float64) for form in forms]
        parts = [form.blocks.get(key, (zero, zero)) for form, zero in zip(forms, nothing, strict=True)]
        blocks[key] = (torch.cat([part[0] for part in parts], dim), torch.cat([part[1] for part in parts], dim))
    constants = [torch.cat([form.constant[place] for form in forms], dim) for place in (0, 1)]
    return Form(blocks, (constants[0], constants[1]))


def _permuted(function: Callable[..., Tensor]) -> Callable[..., Form]:
    def operation(form: Form, *places: Any) -> Form:  # noqa: ANN401
        first = places[0][0] if isinstance(places[0], list) else None
        if first not in (None, 0) or (first is None and 0 in places):
            raise Unknown("the batch is moved")
        return form.linear(*[lambda value: function(value, *places)] * 2)

    return operation


def _unchanged(form: Form, *_: Any, **__: Any) -> Form:  # noqa: ANN401
    return form


def _mean(form: Form, dims: list[int], keepdim: bool = False) -> Form:
    if any(dim % form.constant[0].ndim == 0 for dim in dims):
        raise Unknown("a mean over the batch")
    return _same(torch.mean)(form, dims, keepdim)


MEANS = ("mean", "avg_pool2d", "adaptive_avg_pool2d")  # sums of a number of terms that no weight shows
OPERATIONS: dict[str, Callable[..., Form]] = {
    "linear": _weighted(F.linear),
    "conv1d": _weighted(F.conv1d),
    "conv2d": _weighted(F.conv2d),
    "batch_norm": _batch_norm,
    "avg_pool2d": _same(F.avg_pool2d),
    "adaptive_avg_pool2d": _same(F.adaptive_avg_pool2d),
    "mean": _mean,
    "view": _view,
    "reshape": _view,
    "_unsafe_view": _view,
    "flatten": _flatten,
    "permute": _permuted(torch.permute),
    "transpose": _permuted(torch.transpose),
    "add": _add,
    "sub": _subtract,
    "rsub": lambda form, other, alpha=1: _subtract(other, form, alpha=alpha),
    "mul": _scaled,
    "div": _divided,
    "cat": _concatenated,
    "neg": lambda form: _scaled(form, -1.0),
    **dict.fromkeys(
        ("clone", "contiguous", "dropout", "detach", "alias", "lift_fresh_copy", "to", "_to_copy"), _unchanged
    ),
}
