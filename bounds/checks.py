"""Checks of arguments, called at public boundaries only. Each raises one sentence with its remedy."""

import math
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE_SPREAD = 50.0  # from the least to the largest entry, which standardised and scaled inputs stay far below
SPREAD_IN_SIZES = 10.0  # and that in units of the largest perturbation, where it is meant for such inputs
PART = 256  # rows that are looked at together, so that no check holds a second data set
PART_BYTES = 2**22  # and their bytes, but for single rows that have more

Limit = float | Tensor | None  # a box side: one number, one per feature, or none


def _number(value: object) -> float:
    """The value as a float; NaN, which every rule here refuses, for what is no single number."""
    if isinstance(value, bool | str | bytes):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]  # what it does not take is the point
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def positive(name: str, value: float) -> float:
    """Return ``value`` as a float; it must be a finite number above zero."""
    number = _number(value)
    if not 0 < number < math.inf:
        raise InvalidInput(f"{name} must be a finite number above 0, got {value!r}")
    return number


def nonnegative(name: str, value: float) -> float:
    """Return ``value`` as a float; it must be a finite number of at least zero."""
    number = _number(value)
    if not 0 <= number < math.inf:
        raise InvalidInput(f"{name} must be a finite number of at least 0, got {value!r}")
    return number


def at_least(name: str, value: int, smallest: int) -> int:
    """Return ``value`` as an int; it must be an integer, not a float that equals one, of at least ``smallest``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
        raise InvalidInput(f"{name} must be an integer of at least {smallest}, got {value!r}")
    return int(value)


def probability(name: str, value: float) -> float:
    """Return ``value`` as a float; it must lie strictly between zero and one."""
    number = _number(value)
    if not 0 < number < 1:
        percent = f": write {number:g} % as {number / 100:g}" if 1 < number < 100 else ""
        raise InvalidInput(f"{name} must lie strictly between 0 and 1, got {value!r}{percent}")
    return number


def norm(value: float) -> float:
    """Return the order of a norm as a float; it must be at least one (``math.inf`` included)."""
    order = _number(value)
    if not order >= 1:
        remedy = ": pass its order, such as 2 or math.inf" if isinstance(value, str) else ""
        raise InvalidInput(f"norm must be at least 1 (math.inf included), got {value!r}{remedy}")
    return order


def tensor(name: str, value: Tensor) -> Tensor:
    """Return ``value``; it must be a tensor."""
    if not isinstance(value, Tensor):
        numbers = isinstance(value, list | tuple | int | float) or hasattr(value, "__array__")
        remedy = f"use torch.as_tensor({name})"
        if not numbers:
            loader = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
            remedy = "pass x and y of `x, y = certify.collect(data)`" if loader else remedy
        raise InvalidInput(f"{name} must be a torch tensor, got {type(value).__name__}: {remedy}")
    return value


def inputs(x: Tensor, low: Limit = None, high: Limit = None) -> Tensor:
    """Return ``x``; it must be a floating (N, *D) tensor, finite, and inside the box if one is given."""
    if not tensor("x", x).is_floating_point():
        remedy = "convert with x.float()"
        if x.dtype == torch.uint8:
            remedy = "images of 8 bits become numbers in [0, 1] by x.float() / 255"
        raise InvalidInput(f"x must be a floating-point tensor, got {x.dtype}: {remedy}")
    if x.is_meta or x.is_nested or x.layout != torch.strided:
        kind, remedy = ("a meta tensor", "make it on a device") if x.is_meta else (x.layout, "use x.to_dense()")
        if x.is_nested:
            kind, remedy = "a nested tensor", "bring its parts to one shape and use torch.stack"
        raise InvalidInput(f"x must be a dense tensor that holds numbers, got {kind}: {remedy}")
    if x.ndim < 2:
        raise InvalidInput(f"x must have shape (N, *D), got {tuple(x.shape)}: add a batch dimension")
    if x.shape[1:].numel() == 0:
        raise InvalidInput(f"x must have at least one entry per row, got shape {tuple(x.shape)}")
    parts = x.split(rows_at_once(x))
    if not all(bool(part.isfinite().all()) for part in parts):
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise InvalidInput(f"x must be finite, but row {row} holds NaN or infinity: remove or repair it")
    lower, upper = _side("low", low, x), _side("high", high, x)
    if lower is not None and upper is not None and (lower > upper).any():
        raise InvalidInput(f"low must not exceed high, got [{describe(low)}, {describe(high)}]: exchange or widen them")
    above = low is None or all(bool((part >= low).all()) for part in parts)  # False for a side that is NaN
    below = high is None or all(bool((part <= high).all()) for part in parts)
    if not (above and below):
        raise InvalidInput(
            f"x must lie in the declared range [{describe(low)}, {describe(high)}], got values from "
            f"{x.min():.6g} to {x.max():.6g}: rescale x or declare its range with low= and high="
        )
    return x


class Sized(Protocol):
    """Numbers in rows (N, *D), in memory or elsewhere."""

    @property
    def shape(self) -> torch.Size:
        """N, then D."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the entries."""


def rows_at_once(x: Sized) -> int:
    """Rows of inputs (N, *D) that are looked at together; fewer of large ones."""
    size = x.shape[1:].numel() * x.dtype.itemsize
    return max(1, min(PART, PART_BYTES // max(size, 1)))


def warn_of_another_unit(x: Tensor, what: str, size: float) -> None:
    """Warn where inputs spread so far that ``size``, in units of the input, was hardly meant so.

    As of images from 0 to 255 where everything else is in units of [0, 1]: what is stated then holds, in units of one
    part of 255.
    """
    if x.numel() == 0:
        return
    low, high = (float(side) for side in x.detach().aminmax())
    if low >= 0 and high - low > max(WIDE_SPREAD, SPREAD_IN_SIZES * size):
        warnings.warn(
            f"x holds values from {low:g} to {high:g}, but {what} is in units of x: if these are images of 8 bits, "
            f"divide them by 255",
            stacklevel=4,
        )


def not_empty(x: Tensor) -> Tensor:
    """Return ``x`` (N, *D); N must not be 0."""
    if len(x) == 0:
        raise InvalidInput(f"x must hold at least one input, got shape {tuple(x.shape)}: leave empty batches out")
    return x


def _side(name: str, side: Limit, x: Tensor) -> Tensor | None:
    """A side of the box in the dtype of ``x``; rows are split at will, so it must not have a batch dimension."""
    if side is None:
        return None
    if isinstance(side, bool) or not isinstance(side, int | float | np.integer | np.floating | Tensor):
        raise InvalidInput(f"{name} must be a number or a tensor, got {type(side).__name__}: pass a number or a tensor")
    return _per_entry(name, torch.as_tensor(side, dtype=x.dtype, device=x.device), x, kind="box")


def frozen_features(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Return ``mask``; it must be a boolean tensor that broadcasts to one of the inputs ``x``, or None."""
    if mask is None:
        return None
    if tensor("frozen_features", mask).dtype != torch.bool:
        raise InvalidInput(f"frozen_features must be a boolean tensor, got {mask.dtype}: True where x must stay")
    return _per_entry("frozen_features", mask, x, kind="mask")


def _per_entry(name: str, value: Tensor, x: Tensor, *, kind: str) -> Tensor:
    """The value; it must broadcast to one input."""
    entries = x.shape[1:]
    fits = zip(value.shape[::-1], entries[::-1], strict=False)
    if value.ndim > len(entries) or not all(size in (1, entry) for size, entry in fits):
        raise InvalidInput(
            f"{name} must broadcast to one input, of shape {tuple(entries)}, got {tuple(value.shape)}: "
            f"pass one {kind} for all inputs, without a batch dimension"
        )
    return value


def labels(y: Tensor, count: int, num_classes: int) -> Tensor:
    """Return ``y`` as int64; it must hold ``count`` class indices below ``num_classes``."""
    if tensor("labels", y).shape != (count,):
        remedy = "class indices, not one-hot rows" if y.ndim == 2 else "one class index for each row of x"
        raise InvalidInput(f"labels must have shape ({count},), got {tuple(y.shape)}: pass {remedy}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InvalidInput(f"labels must be integers, got {y.dtype}: convert with labels.long()")
    if num_classes == 1:
        raise InvalidInput(
            "labels must be of at least two classes, got logits of one: wrap the model as certify.TwoClasses(model), "
            "whose class is 1 where the logit is above 0"
        )
    y = y.long()  # first of all, since unsigned integers cannot be compared
    wrong = (y < 0) | (y >= num_classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InvalidInput(
            f"labels must be class indices from 0 to {num_classes - 1}, got {int(y[row])} in row {row}: "
            f"check the labels or the number of classes"
        )
    return y


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


def several(name: str, values: object) -> list[Any]:
    """Return ``values`` as a list; they must be a sequence or another collection, and not empty."""
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0:
        raise InvalidInput(f"{name} must be a sequence, got {values!r}: put a single one into a list")
    found = list(values)
    if not found:
        raise InvalidInput(f"{name} must hold at least one, got none: leave the argument out for the default")
    return found


def generator(value: torch.Generator | None, device: torch.device | None = None) -> torch.Generator | None:
    """Return ``value``; it must be a random generator or None, and no seed.

    PyTorch draws on the device of a generator alone. So for another ``device``, what is returned is a generator there,
    whose seed is one draw of ``value``.
    """
    if value is not None and not isinstance(value, torch.Generator):
        raise InvalidInput(
            f"generator must be a torch.Generator or None, got {value!r}: use torch.Generator().manual_seed(seed)"
        )
    if value is None or device is None or value.device.type == device.type:
        return value
    return torch.Generator(device).manual_seed(drawn_seed(value))


def drawn_seed(value: torch.Generator | None) -> int:
    """A seed from one draw of a generator, or of torch's default; ``value`` must be one of these."""
    source = generator(value)
    device = "cpu" if source is None else source.device
    return int(torch.randint(2**63 - 1, (), generator=source, device=device))


def at_most(name: str, value: float, largest: float) -> float:
    """Return ``value``; it must not exceed ``largest``."""
    if value > largest:
        raise InvalidInput(f"{name} must be at most {largest}, got {value}")
    return value


def rows(name: str, value: Tensor, count: int) -> Tensor:
    """Return ``value``; it must have shape (count,)."""
    if tensor(name, value).shape != (count,):
        raise InvalidInput(f"{name} must have shape ({count},), got {tuple(value.shape)}")
    return value


def same_shape(name: str, value: Tensor, like: Tensor) -> Tensor:
    """Return ``value``; it must be an integer tensor of the shape of ``like``."""
    if tensor(name, value).shape != like.shape:
        raise InvalidInput(f"{name} must have shape {tuple(like.shape)}, got {tuple(value.shape)}: pass class indices")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise InvalidInput(f"{name} must be integers, got {value.dtype}: convert with {name}.long()")
    return value


def full_precision(x: Tensor) -> None:
    """Refuse to compute a bound where autocast would lower the precision that its rounding terms assume."""
    if torch.is_autocast_enabled(x.device.type):
        raise InvalidInput(f"bounds must be computed outside torch.autocast, which is enabled for {x.device.type}")


def axes(ax: "Axes | None") -> "Axes":
    """The axes on which a record draws: those of pyplot where a caller gives none.

    Raises:
        InvalidInput: a figure, an array of axes, or anything else on which nothing can be drawn.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.gca()
    if not hasattr(ax, "plot"):
        raise InvalidInput(f"ax must be one matplotlib Axes, got {type(ax).__name__}: pass figure.add_subplot()")
    return ax
