"""Rounding to multiples, and what remains: compositions of floor and round."""

import math
import struct

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.decompositions.known import within


def trunc(x: Tensor) -> Tensor:
    """Towards 0: the floor of what is above, less that of what is below."""
    return F.relu(x).floor() - F.relu(-x).floor()


def frac(x: Tensor) -> Tensor:
    """The part that rounding towards 0 leaves."""
    found: Tensor = within(x - trunc(x), -1.0, 1.0)
    return found


def round_to_decimals(x: Tensor, *, decimals: int) -> Tensor:
    """To a number of decimals."""
    scale = 10.0 ** abs(decimals)
    return (x * scale).round() / scale if decimals >= 0 else (x / scale).round() * scale


def divide(x: Tensor | float, y: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    """A quotient, as it is or rounded; of integers, which are constants, export does without this."""
    if not _floating(x, y):
        return NotImplemented  # type: ignore[no-any-return]  # the operation stays as it is
    quotient = torch.div(x, y)
    return quotient.floor() if rounding_mode == "floor" else trunc(quotient) if rounding_mode == "trunc" else quotient


def _floating(*sides: Tensor | float) -> bool:
    return any(side.is_floating_point() if isinstance(side, Tensor) else isinstance(side, float) for side in sides)


def floor_divide(x: Tensor | float, y: Tensor | float) -> Tensor:
    """The floor of a quotient."""
    return divide(x, y, rounding_mode="floor")


def _between(remainder: Tensor, divisor: Tensor | float, least: float) -> Tensor:
    """A remainder, with what is known of it if the divisor is a number."""
    if isinstance(divisor, Tensor) or divisor == 0:
        return remainder
    size = math.nextafter(abs(divisor), math.inf)
    ends = (least * size, size) if divisor > 0 or least < 0 else (-size, 0.0)
    found: Tensor = within(remainder, *ends)
    return found


def remainder(x: Tensor | float, y: Tensor | float) -> Tensor:
    """The remainder of the floor of a quotient; it has the sign of the divisor."""
    if not _floating(x, y):
        return NotImplemented  # type: ignore[no-any-return]  # the operation stays as it is
    return _between(x - y * floor_divide(x, y), y, 0.0)


def fmod(x: Tensor | float, y: Tensor | float) -> Tensor:
    """The remainder of a quotient rounded towards 0; it has the sign of the dividend."""
    if not _floating(x, y):
        return NotImplemented  # type: ignore[no-any-return]  # the operation stays as it is
    return _between(x - y * divide(x, y, rounding_mode="trunc"), y, -1.0)


def fake_quantize(x: Tensor, scale: float | Tensor, zero_point: int | Tensor, low: int, high: int) -> Tensor:
    """Quantised to integers from ``low`` to ``high``, and back."""
    if isinstance(scale, Tensor):
        scaled = x / scale
    else:  # torch holds both factors in float32
        scale = _in_float32(scale)
        scaled = x * _in_float32(1 / scale)
    steps = (scaled.round() + zero_point).clamp(low, high)
    return (steps - zero_point) * scale


def _in_float32(number: float) -> float:
    found: float = struct.unpack("f", struct.pack("f", number))[0]
    return found


def fake_quantize_channels(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int) -> Tensor:
    """Quantised and back, with a scale and a zero point for each channel."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return fake_quantize(x, scale.view(shape), zero_point.view(shape), low, high)
