"""Weights of quantised, pruned or otherwise rounded copies of a network, as boxes of weights of the original."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bounds import WeightBox
from bounds.errors import InvalidInput, InvalidModel
from bounds.numerics import round_down, round_up

DYNAMIC_LINEAR = "torch.ao.nn.quantized.dynamic.modules.linear.Linear"
OWN_STEPS = 4  # version since which such layers quantise their input in 127 steps, so that no sum saturates
FLOAT32_ROUNDING = 2.0**-23  # of a product of an integer and a scale in float32, relative
HALF = (torch.float16, torch.bfloat16)
PLAIN = (int, float, str, bool, tuple, type(None))  # settings of layers that are compared


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedTensor:
    """Integers that stand for the numbers ``(values - zero_point) * scale``.

    Attributes:
        values: integers of any shape.
        scale: a number above 0, or one for each index along ``axis``.
        zero_point: an integer, or one for each.
        axis: the dimension of the channels; None for one scale.
    """

    values: Tensor
    scale: float | Tensor
    zero_point: int | Tensor = 0
    axis: int | None = None

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends, float64, that hold the exact products and those that were rounded to float32.

        Raises:
            InvalidInput: values that are no integers, a scale that is not above 0, or other shapes.
        """
        if self.values.is_floating_point() or self.values.is_complex():
            raise InvalidInput(f"values of a quantised tensor must be integers, got {self.values.dtype}")
        scale = self._along(torch.as_tensor(self.scale, dtype=torch.float64, device=self.values.device))
        zero = self._along(torch.as_tensor(self.zero_point, device=self.values.device).double())
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise InvalidInput(f"scale of a quantised tensor must be finite and above 0, got {self.scale!r}")
        exact = (self.values.double() - zero) * scale
        return round_down(exact, FLOAT32_ROUNDING), round_up(exact, FLOAT32_ROUNDING)

    def _along(self, number: Tensor) -> Tensor:
        """One number, or one for each channel, as it broadcasts to the values."""
        if number.ndim == 0:
            return number
        if self.axis is None or number.shape != self.values.shape[self.axis : self.axis + 1]:
            raise InvalidInput(
                f"scale and zero_point must be numbers, or one for each index along axis, got shape "
                f"{tuple(number.shape)} for values of {tuple(self.values.shape)} and axis={self.axis}"
            )
        return number.view(-1, *[1] * (self.values.ndim - self.axis - 1))


Copy = nn.Module | Mapping[str, Tensor | QuantisedTensor]
Ends = tuple[Tensor, Tensor]


def box_of_copy(model: nn.Module, copy: Copy, *, between: bool) -> WeightBox:
    """The box of the weights of a copy; with ``between``, of all weights between these and those of the model.

    Raises:
        InvalidInput: a name or shape that the model does not have, or a weight that is not finite.
        InvalidModel: a module that computes something else than the model with other weights, as far as can be seen.
    """
    dynamic: set[str] = set()
    if isinstance(copy, nn.Module):
        found = dict(_of_module(model, copy, dynamic))
    elif isinstance(copy, Mapping):
        found = {name: _ends(name, value) for name, value in copy.items()}
    else:
        raise InvalidInput(
            f"quantised must be a module, a mapping of names to weights or a WeightBox, got {type(copy).__name__}"
        )
    state = model.state_dict()
    lower, upper = {}, {}
    for name, (low, high) in found.items():
        if name not in state or state[name].shape != low.shape:
            raise InvalidInput(
                f"quantised must have the names and shapes of model.state_dict(), got {name!r} of {tuple(low.shape)}"
            )
        own = state[name]
        if not own.is_floating_point():
            if not bool((own.double() == low).all() & (low == high).all()):
                raise InvalidInput(f"quantised must have the same {name!r} as the model, which is no weight")
            continue
        low, high, own = low.to(own.device), high.to(own.device), own.detach().double()
        lower[name], upper[name] = (torch.minimum(low, own), torch.maximum(high, own)) if between else (low, high)
    changed = {
        name
        for name in lower
        if name in dynamic or bool((lower[name] < upper[name]).any() | _moved(state, lower, name))
    }
    return WeightBox(
        {name: lower[name] for name in changed}, {name: upper[name] for name in changed}, frozenset(dynamic)
    )


def _moved(state: Mapping[str, Tensor], lower: Mapping[str, Tensor], name: str) -> Tensor:
    """Whether a weight of the copy is another one than that of the model."""
    return (lower[name] != state[name].double()).any()


def _ends(name: str, value: Any) -> Ends:  # noqa: ANN401  # whatever a caller hands in
    """Ends of one weight."""
    if isinstance(value, QuantisedTensor):
        return value.ends()
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter, nn.Buffer):
        raise InvalidInput(
            f"{name} must be a plain tensor or a certify.QuantisedTensor, got {type(value).__name__}: pass the numbers "
            f"that it stands for; whether its layer quantises inputs too cannot be seen"
        )
    if value.is_quantized:
        return of_torch(name, value).ends()
    exact = value.detach().double()
    return exact, exact


def of_torch(name: str, value: Tensor) -> QuantisedTensor:
    """A quantised tensor of PyTorch."""
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return QuantisedTensor(values=value.int_repr(), scale=value.q_scale(), zero_point=value.q_zero_point())
    if value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        scales, zeros = value.q_per_channel_scales(), value.q_per_channel_zero_points()
        return QuantisedTensor(values=value.int_repr(), scale=scales, zero_point=zeros, axis=value.q_per_channel_axis())
    raise InvalidInput(f"{name} must be quantised by affine maps, got {value.qscheme()}: pass its numbers instead")


# ------------------------------------------------------------------------------------------------------------ modules


def _of_module(model: nn.Module, copy: nn.Module, dynamic: set[str]) -> Iterator[tuple[str, Ends]]:
    """Weights of a module of the same layers, by name; those whose layers quantise inputs are added to ``dynamic``."""
    owns, others = dict(model.named_modules()), dict(copy.named_modules())
    packed = tuple(f"{path}." if path else "" for path, layer in others.items() if _is_dynamic(layer))
    extra = [path for path in others if path not in owns and not path.startswith(packed or ("\0",))]
    if extra:
        raise InvalidModel(_another(extra[0], "is not in the model"))
    for path, own in owns.items():
        other = others.get(path)
        if other is None:
            raise InvalidModel(_another(path, "is missing in the copy"))
        if other._forward_hooks or other._forward_pre_hooks or "forward" in vars(other):
            raise InvalidModel(
                _another(path, "has forward hooks or a forward of its own: make them permanent (prune.remove)")
            )
        prefix = f"{path}." if path else ""
        if type(own) is nn.Linear and _is_dynamic(other):
            yield from _of_dynamic(prefix, path, other, dynamic)
        else:
            yield from _of_same(prefix, path, own, other)


def _is_dynamic(layer: nn.Module) -> bool:
    return f"{type(layer).__module__}.{type(layer).__qualname__}" == DYNAMIC_LINEAR


def _of_dynamic(prefix: str, path: str, layer: Any, dynamic: set[str]) -> Iterator[tuple[str, Ends]]:  # noqa: ANN401
    """A linear layer of ``torch.ao.quantization.quantize_dynamic``, whose sums of products are exact."""
    kept = layer._packed_params.dtype
    if kept == torch.qint8:
        if layer.version is None or layer.version < OWN_STEPS:
            raise InvalidModel(_another(path, f"is of version {layer.version}, whose sums may saturate: quantise anew"))
        dynamic.add(f"{prefix}weight")
    elif kept != torch.float16:
        raise InvalidModel(_another(path, f"holds weights as {kept}, of which nothing is known"))
    yield f"{prefix}weight", _ends(f"{prefix}weight", layer.weight())
    if (bias := layer.bias()) is not None:
        yield f"{prefix}bias", _ends(f"{prefix}bias", bias)


def _of_same(prefix: str, path: str, own: nn.Module, other: nn.Module) -> Iterator[tuple[str, Ends]]:
    """A layer of the same kind and settings."""
    if type(own) is not type(other):
        raise InvalidModel(
            _another(
                path,
                f"is {type(other).__name__} where the model has {type(own).__name__}: known are other weights, and "
                f"linear layers of quantize_dynamic; inputs that are quantised in other ways have no bound",
            )
        )
    for name, value in vars(own).items():
        if (
            not name.startswith("_")
            and name != "training"
            and isinstance(value, PLAIN)
            and vars(other).get(name) != value
        ):
            raise InvalidModel(_another(path, f"has {name}={vars(other).get(name)!r} where the model has {value!r}"))
    values = {name: value for name, value in (*other._parameters.items(), *other._buffers.items()) if value is not None}
    names = {name for name, value in (*own._parameters.items(), *own._buffers.items()) if value is not None}
    if values.keys() != names:
        raise InvalidModel(_another(path, f"holds {sorted(values)} where the model holds {sorted(names)}"))
    for name, value in values.items():
        if value.dtype in HALF and next(iter(own.parameters()), value).dtype not in HALF:
            raise InvalidModel(
                _another(
                    path,
                    f"computes in {value.dtype}, which rounds inputs of layers as well: pass its weights alone, "
                    f"as quantised.float() or its state_dict()",
                )
            )
        if name not in own._non_persistent_buffers_set:
            yield f"{prefix}{name}", _ends(f"{prefix}{name}", value)
        elif not torch.equal(value.to(own._buffers[name]), own._buffers[name]):  # type: ignore[arg-type]  # no None here
            raise InvalidModel(_another(path, f"holds another buffer {name!r}"))


def _another(path: str, what: str) -> str:
    return f"quantised must be the model with other weights, but layer {path or '(the copy itself)'!r} {what}"
