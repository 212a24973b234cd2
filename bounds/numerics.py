"""Arithmetic whose rounding errors fall on the safe side, and the settings under which that is true."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from bounds.errors import InvalidInput

# Relative error allowed to a correctly implemented special function in float64: eight units in the last place.
SPECIAL_FUNCTION_ERROR = 8 * 2.0**-52

# Relative error allowed to SciPy's incomplete beta function as a binomial tail. The error grows with the number of
# trials; against 40 digits, up to 3e-13 was measured for 10**5 trials and up to 6e-12 for 10**8.
BETA_FUNCTION_ERROR = 1e-9


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape (N,) values so that they broadcast over (N, *D)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def round_down(x: Tensor, relative_error: float = SPECIAL_FUNCTION_ERROR) -> Tensor:
    """A float64 number at most the exact value that ``x`` approximates within ``relative_error``.

    Infinity gives the largest finite number, since the exact value may have overflowed.
    """
    lowered = torch.where(x.isinf(), x, x - x.abs() * relative_error)
    return torch.nextafter(lowered, torch.full_like(x, -torch.inf))


def round_up(x: Tensor, relative_error: float = SPECIAL_FUNCTION_ERROR) -> Tensor:
    """A float64 number at least the exact value that ``x`` approximates within ``relative_error``."""
    return -round_down(-x, relative_error)


def converted_down(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest numbers of ``dtype`` that are at most the given ones; gradients pass."""
    if numbers.dtype == dtype:
        return numbers
    nearest = numbers.to(dtype)
    with torch.no_grad():
        below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
        found = torch.where(nearest > numbers, below, nearest)
    if not nearest.requires_grad:
        return found
    return found + torch.where(found.isfinite(), nearest - nearest.detach(), 0.0)


def complement(p: Tensor) -> Tensor:
    """A probability at least ``1 - p``."""
    return round_up(1 - p, 2.0**-53).clamp(max=1.0)


def raised(p: Tensor, error: float) -> Tensor:
    """A probability at least ``p + error``, or 1."""
    return round_up(p + error, 2.0**-52).clamp(max=1.0)


def lowered(p: Tensor, error: float) -> Tensor:
    """A probability at most ``p - error``, or 0."""
    return round_down(p - error, 2.0**-52).clamp(min=0.0) if error else p


def underflow(dtype: torch.dtype) -> float:
    """A number that covers all that underflow may take from one operation, added to bounds and errors.

    The smallest normal number would do, but its products with coefficients are subnormal, and processors take a
    hundred times as long for these. Products of this number are normal.
    """
    limits = torch.finfo(dtype)
    return limits.tiny / limits.eps**2


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounded operation in ``dtype``, round to nearest."""
    return torch.finfo(dtype).eps / 2


def accumulated_error(terms: int, dtype: torch.dtype) -> float:
    r"""The constant :math:`\gamma_n = n u / (1 - n u)` that bounds ``n`` rounded operations in any order.

    References:
        Higham (2002), Accuracy and Stability of Numerical Algorithms, Lemma 3.1 and section 3.1.
    """
    error = terms * unit_roundoff(dtype)
    if error >= 0.5:
        raise InvalidInput(f"sums of {terms} terms in {dtype} have no useful error bound: use float64")
    return error / (1 - error)


# Settings below torch.backends that let products round their factors or sums, with the values of IEEE arithmetic. Those
# of older versions of PyTorch come first, since they move the newer ones.
_IEEE: dict[str, object] = {
    **{path: "none" for path in ("fp32_precision", "cudnn.fp32_precision", "mkldnn.fp32_precision")},
    "cuda.matmul.allow_tf32": False,
    "cudnn.allow_tf32": False,
    "float32_matmul_precision": "highest",
    "cuda.matmul.allow_fp16_reduced_precision_reduction": False,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": False,
    "cuda.matmul.allow_fp16_accumulation": False,
    **{f"{part}.fp32_precision": "ieee" for part in ("cuda.matmul", "cudnn.conv", "cudnn.rnn")},
    **{f"mkldnn.{part}.fp32_precision": "ieee" for part in ("matmul", "conv", "rnn")},
}
_lock = threading.Lock()
_running = 0  # bounds at this moment, in all threads
_callers: dict[str, object] = {}  # settings of the caller, while bounds run


@contextmanager
def ieee_arithmetic() -> Iterator[None]:
    """Products and convolutions without TF32, bfloat16 or reduced accumulation, as rounding terms assume; a decorator.

    PyTorch rounds the factors of float32 convolutions to 10 bits on CUDA unless told otherwise. The settings belong to
    the process: they are changed while any bound runs, in any thread, and put back when the last one ends.
    """
    global _running, _callers
    with _lock:
        if _running == 0:
            _callers = _settings()
            _assign({path: _IEEE[path] for path in _callers})
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _assign({path: value for path, value in _callers.items() if value is not None})
                _callers = {}


def reduced_precision(device: torch.device) -> list[str]:
    """Settings of the caller by which a device does not round float32 products as IEEE says, as assignments."""
    own = {"cpu": ("mkldnn.",), "cuda": ("cuda.", "cudnn.")}.get(device.type, ())
    with _lock:
        settings = _callers or _settings()
    return [
        f"torch.backends.{path} = {value!r}"
        for path, value in settings.items()
        if path.startswith(own) and (value in ("tf32", "bf16") or (value is True and path.endswith("tf32")))
    ]


def _settings() -> dict[str, object]:
    """The settings as they stand, None where PyTorch cannot tell, without those that this version lacks."""
    found: dict[str, object] = {}
    for path in _IEEE:
        holder, _, name = path.rpartition(".")
        try:
            if path == "float32_matmul_precision":
                found[path] = torch.get_float32_matmul_precision()
            else:
                found[path] = getattr(_below_backends(holder), name)
        except RuntimeError:  # set apart by newer names: nothing to put back
            found[path] = None
        except AttributeError:
            continue
    return found


def _assign(settings: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of some versions about names of others
        for path, value in settings.items():
            holder, _, name = path.rpartition(".")
            if path == "float32_matmul_precision":
                torch.set_float32_matmul_precision(str(value))
            else:
                setattr(_below_backends(holder), name, value)


def _below_backends(path: str) -> Any:  # noqa: ANN401  # modules and objects of PyTorch
    return attrgetter(path)(torch.backends) if path else torch.backends
