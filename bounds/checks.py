"""Checks of arguments, called at public boundaries only. Each raises one sentence with its remedy."""

import math

import torch
from torch import Tensor

from bounds.errors import InvalidInput

Limit = float | Tensor | None  # a box side: one number, one per feature, or none


def positive(name: str, value: float) -> float:
    """Return ``value`` as a float; it must be a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{name} must be a finite number above 0, got {value}")
    return float(value)


def at_least(name: str, value: int, smallest: int) -> int:
    """Return ``value``; it must be an integer of at least ``smallest``."""
    if int(value) != value or value < smallest:
        raise InvalidInput(f"{name} must be an integer of at least {smallest}, got {value}")
    return int(value)


def probability(name: str, value: float) -> float:
    """Return ``value``; it must lie strictly between zero and one."""
    if not 0 < value < 1:
        raise InvalidInput(f"{name} must lie strictly between 0 and 1, got {value}")
    return float(value)


def norm(value: float) -> float:
    """Return the order of a norm as a float; it must be at least one (``math.inf`` included)."""
    order = float(value)
    if not order >= 1:
        raise InvalidInput(f"norm must be at least 1 (math.inf included), got {value}")
    return order


def inputs(x: Tensor, low: Limit = None, high: Limit = None) -> Tensor:
    """Return ``x``; it must be a floating (N, *D) tensor, finite, and inside the box if one is given."""
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidInput(f"x must be a floating-point tensor, got {kind}: convert with x.float()")
    if x.ndim < 2:
        raise InvalidInput(f"x must have shape (N, *D), got {tuple(x.shape)}: add a batch dimension")
    if not x.isfinite().all():
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise InvalidInput(f"x must be finite, but row {row} holds NaN or infinity: remove or repair it")
    above = low is None or bool((x >= low).all())  # False for a side that is NaN
    below = high is None or bool((x <= high).all())
    if not (above and below):
        raise InvalidInput(
            f"x must lie in the declared range [{describe(low)}, {describe(high)}], got values from "
            f"{x.min():.6g} to {x.max():.6g}: rescale x or declare its range with low= and high="
        )
    return x


def labels(y: Tensor, count: int, num_classes: int) -> Tensor:
    """Return ``y`` as int64; it must hold ``count`` class indices below ``num_classes``."""
    if y.shape != (count,):
        remedy = ": pass class indices, not one-hot rows" if y.ndim == 2 else ""
        raise InvalidInput(f"labels must have shape ({count},), got {tuple(y.shape)}{remedy}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InvalidInput(f"labels must be integers, got {y.dtype}: convert with labels.long()")
    wrong = (y < 0) | (y >= num_classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InvalidInput(
            f"labels must be class indices from 0 to {num_classes - 1}, got {int(y[row])} in row {row}: "
            f"check the labels or the number of classes"
        )
    return y.long()


def describe(limit: Limit) -> str:
    """A box side in words, for messages."""
    if limit is None:
        return "unbounded"
    return "per feature" if isinstance(limit, Tensor) and limit.numel() > 1 else f"{float(limit):g}"


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return ``value``; it must be one of the known names."""
    if value not in known:
        raise InvalidInput(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def at_most(name: str, value: int, largest: int) -> int:
    """Return ``value``; it must not exceed ``largest``."""
    if value > largest:
        raise InvalidInput(f"{name} must be at most {largest}, got {value}")
    return value


def rows(name: str, value: Tensor, count: int) -> Tensor:
    """Return ``value``; it must have shape (count,)."""
    if value.shape != (count,):
        raise InvalidInput(f"{name} must have shape ({count},), got {tuple(value.shape)}")
    return value


def full_precision(x: Tensor) -> None:
    """Refuse to compute a bound where autocast would lower the precision that its rounding terms assume."""
    if torch.is_autocast_enabled(x.device.type):
        raise InvalidInput(f"bounds must be computed outside torch.autocast, which is enabled for {x.device.type}")
