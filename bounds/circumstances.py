"""Computations apart from the modes of PyTorch that a caller has switched on around them.

Inference mode, autocast and anomaly detection act on everything that runs within them, also on what the library does
inside: gradients vanish without a word, sums lose half of their digits, a gradient that is not a number raises. What a
function returns must not depend on that. Where deterministic algorithms are demanded, an operation that has none warns
instead of raising. The default dtype and the default device stay as the caller has set them, since models rely on them;
the library names dtype and device wherever it makes a tensor.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils import _pytree as pytree

from bounds.errors import InvalidModel

P = ParamSpec("P")
R = TypeVar("R")
DEVICES = ("cpu", "cuda", "mps", "xpu")  # types of devices that have an autocast


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function without the caller's inference mode, autocast and anomaly detection; gradients stay on or off."""
    return _within(function, keep_autocast=False)


def in_deployed_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function as :func:`isolated` does, but under the caller's autocast: what it says is of the model there."""
    return _within(function, keep_autocast=True)


def _within(function: Callable[P, R], *, keep_autocast: bool) -> Callable[P, R]:
    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _ordinary_modes(keep_autocast=keep_autocast):
                own = [_ordinary(value) for value in args]
                return function(*own, **{name: _ordinary(value) for name, value in kwargs.items()})
        except RuntimeError as error:
            if "inference tensor" not in str(error).lower():
                raise
            raise InvalidModel(
                "the model must not hold tensors that were made under torch.inference_mode() where gradients are "
                "needed: pass copy.deepcopy(model), made outside of it"
            ) from error

    return wrapped


@contextmanager
def _ordinary_modes(*, keep_autocast: bool) -> Iterator[None]:
    gradients = torch.is_grad_enabled()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))  # which would switch gradients on
            stack.enter_context(torch.set_grad_enabled(gradients))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            torch.use_deterministic_algorithms(True, warn_only=True)  # on a GPU cumulative sums know no other way
            stack.callback(torch.use_deterministic_algorithms, True)
        for device in () if keep_autocast else DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _ordinary(value: Any) -> Any:  # noqa: ANN401  # any argument
    """The argument itself, or a copy where it holds tensors that autograd would refuse."""
    if not any(_is_foreign(leaf) for leaf in pytree.tree_leaves(value)):
        return value
    return pytree.tree_map(_usable, value)


def _is_foreign(leaf: object) -> bool:
    if isinstance(leaf, Tensor):
        return leaf.is_inference()
    if isinstance(leaf, nn.Module):
        first = next(leaf.parameters(), None)  # to look at all of them takes as long as a pass through a small network
        return first is not None and not isinstance(first, UninitializedParameter) and first.is_inference()
    return any(isinstance(part, Tensor) and part.is_inference() for part in _parts(leaf).values())


def _usable(leaf: Any) -> Any:  # noqa: ANN401  # likewise
    if not _is_foreign(leaf):
        return leaf
    if isinstance(leaf, Tensor | nn.Module):
        return copy.deepcopy(leaf)  # made outside of inference mode
    made = copy.copy(leaf)
    for name, part in _parts(leaf).items():
        object.__setattr__(made, name, _ordinary(part))  # records are frozen
    return made


def _parts(leaf: object) -> dict[str, object]:
    """The fields of a record or a perturbation set."""
    if not is_dataclass(leaf) or isinstance(leaf, type):
        return {}
    return {field.name: getattr(leaf, field.name) for field in fields(leaf) if hasattr(leaf, field.name)}
