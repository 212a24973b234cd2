"""An accelerator made of the CPU: a second device with real numbers, on which a mistake fails as it does on a GPU.

Tensors on it are wrappers that hold a tensor of the CPU and say that they live elsewhere. As on CUDA, an operation
that sees both devices is refused, NumPy gets nothing before ``cpu()``, and a generator draws on its own device only.
What would make the host wait for the device (a number read, positions of ``True``, a copy to the host) is counted by
line of the packages under test.
"""

import copy
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.backend_registration
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import bounds
import certify

NAME = "pretend"
PACKAGES = tuple(str(Path(package.__file__).parent) for package in (bounds, certify))
WAITS = {  # operations whose result has a size or a value that the host must know before it goes on
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_linalg_check_errors"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}
CPU_INDICES = (torch.int64, torch.int32, torch.bool, torch.uint8)  # which a device takes from the host
Generator = torch.Generator  # the real one


class TwoDevices(RuntimeError):
    """An operation saw tensors or generators of two devices."""


class _AnyGenerator(type(Generator)):
    """Makes generators that were made before the accelerator was there pass as such."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Generator)


class OfAccelerator(Generator, metaclass=_AnyGenerator):
    """A generator of the CPU that says where it belongs."""

    def __new__(cls, device: object = "cpu"):
        return Generator.__new__(cls)

    def __init__(self, device: object = "cpu"):
        self.place = torch.device(device)
        _places[self._cdata] = self  # torch passes on another object with the same state

    @property
    def device(self) -> torch.device:
        return self.place


class OnAccelerator(Tensor):
    """A tensor that lives on the accelerator; ``numbers`` holds its entries."""

    @staticmethod
    def __new__(cls, numbers: Tensor):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "dtype": numbers.dtype}
        made = Tensor._make_wrapper_subclass(cls, numbers.shape, **layout, device=torch.device(NAME, 0))
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnAccelerator({self.numbers})"

    def __array__(self, *_: object):
        raise TypeError("can't convert a tensor of the accelerator to numpy: use Tensor.cpu() first")

    numpy = __array__

    def __deepcopy__(self, memo: dict):  # torch would copy a storage, which a wrapper has not
        copied = OnAccelerator(self.detach().numbers.clone())
        is_weight = isinstance(self, nn.Parameter)
        copied = nn.Parameter(copied, self.requires_grad) if is_weight else copied.requires_grad_(self.requires_grad)
        return memo.setdefault(id(self), copied)

    def tolist(self) -> list:
        _count("tolist")
        return self.detach().numbers.tolist()

    def __format__(self, specification: str) -> str:
        return format(self.item() if self.ndim == 0 else self, specification)

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()


_places: dict[int, OfAccelerator] = {}
_counts: list["Waits"] = []


class Waits(Counter):
    """How often the host waited, by operation and line of the packages."""

    @property
    def lines(self) -> str:
        """One line each, the most frequent first."""
        return "\n".join(f"{count:5d} {operation:20s} {line}" for (operation, line), count in self.most_common())


def _count(operation: str) -> None:
    if _counts:
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGES):
            frame = frame.f_back
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "the test"
        _counts[-1][operation, line] += 1


def _run(function: Any, args: tuple, kwargs: dict) -> Any:
    name = function.overloadpacket.__name__
    leaves = tree_leaves((args, kwargs))
    here = [leaf for leaf in leaves if isinstance(leaf, OnAccelerator)]
    host = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnAccelerator)]
    target = kwargs.get("device")
    moves = name in ("copy_", "_to_copy")
    made_here = target is not None and torch.device(target).type == NAME
    made_on_host = name == "_to_copy" and target is not None and not made_here
    if here and not moves:
        _refuse_host_tensors(name, args, host)
    _refuse_generators(name, leaves, on_accelerator=bool(here) or made_here)
    if here:
        _count_wait(name, args, made_on_host)

    def numbers(leaf: object) -> object:
        return leaf.numbers if isinstance(leaf, OnAccelerator) else leaf

    plain = {
        key: torch.device("cpu") if key == "device" and value is not None else value for key, value in kwargs.items()
    }
    found = function(*tree_map(numbers, args), **tree_map(numbers, plain))
    if made_on_host or not (here or made_here):
        return found
    if name == "copy_" and not isinstance(args[0], OnAccelerator):
        return args[0]
    found = tree_map(lambda leaf: OnAccelerator(leaf) if type(leaf) is Tensor else leaf, found)
    return return_and_correct_aliasing(function, args, kwargs, found) if here else found


def _refuse_host_tensors(name: str, args: tuple, host: list[Tensor]) -> None:
    """Numbers of the host mix with tensors of a device if they have no axes, or are indices."""
    strangers = [tensor for tensor in host if tensor.ndim > 0]
    if name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"):
        values = args[2] if len(args) > 2 else None
        indexes_device = isinstance(args[0], OnAccelerator)
        strangers = [t for t in strangers if not indexes_device or t is values or t.dtype not in CPU_INDICES]
    if strangers:
        raise TwoDevices(f"{name} sees tensors of the accelerator and of the CPU")


def _refuse_generators(name: str, leaves: list, *, on_accelerator: bool) -> None:
    for leaf in leaves:
        if isinstance(leaf, Generator):
            known = _places.get(leaf._cdata)
            if (known is not None and known.place.type == NAME) != on_accelerator:
                raise TwoDevices(f"{name}: a generator must live where the tensor does")


def _count_wait(name: str, args: tuple, made_on_host: bool) -> None:
    masks = name.startswith("index") and any(
        isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in tree_leaves(args[1:2])
    )
    to_host = made_on_host or (name == "copy_" and not isinstance(args[0], OnAccelerator))
    repeats = name == "repeat_interleave" and len(args) > 0 and isinstance(args[-1], Tensor)
    if name in WAITS or masks or to_host or repeats:
        _count("copy to the host" if to_host else name)


class _Mode(TorchDispatchMode):
    """Sees operations that no tensor of the accelerator takes part in, such as those that make one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _making(real: Any) -> Any:
    """``torch.tensor`` and its like, which build on the CPU and then know no way to a device made of Python."""

    def make(data: object, *, dtype: torch.dtype | None = None, device: object = None, **rest: object) -> Tensor:
        if device is None or torch.device(device).type != NAME:
            return real(data, dtype=dtype, device=device, **rest)
        if isinstance(data, Tensor):
            return data.to(device, dtype) if dtype else data.to(device)
        return OnAccelerator(real(data, dtype=dtype, device="cpu", **rest))

    return make


_new_tensor = Tensor.new_tensor


def _new_tensor_there(self: Tensor, data: object, **options: Any) -> Tensor:
    made = _new_tensor(self.numbers if isinstance(self, OnAccelerator) else self, data, **options)
    return OnAccelerator(made) if isinstance(self, OnAccelerator) else made


@cache
def _register() -> None:
    make_device = getattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend", None)
    if make_device is None:
        pytest.skip("this version of PyTorch makes no devices of Python")
    make_device(NAME)
    module = getattr(torch, NAME)  # any test that runs later in this process may ask for its state by ``fork_rng``
    module.get_rng_state = lambda device: torch.get_rng_state()
    module.set_rng_state = lambda state, device: None


@contextmanager
def accelerator() -> Iterator[Waits]:
    """A device called ``accelerator`` for the body; what made the host wait."""
    _register()
    tensor, as_tensor, waits = torch.tensor, torch.as_tensor, Waits()
    torch.Generator, torch.tensor, torch.as_tensor = OfAccelerator, _making(tensor), _making(as_tensor)
    Tensor.new_tensor = _new_tensor_there
    _counts.append(waits)
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a wrapper's data cannot be exchanged in place
    try:
        with _Mode():
            yield waits
    finally:
        _counts.pop()
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
        torch.Generator, torch.tensor, torch.as_tensor, Tensor.new_tensor = Generator, tensor, as_tensor, _new_tensor


def there(value: Any) -> Any:
    """A copy on the accelerator of a tensor, or of a network."""
    if isinstance(value, Tensor):
        return OnAccelerator(value.detach().clone())
    if isinstance(value, nn.Module):
        network = copy.deepcopy(value)
        for module in network.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    moved = OnAccelerator(weight.detach().clone())
                    module._parameters[name] = nn.Parameter(moved, requires_grad=weight.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = OnAccelerator(buffer.detach().clone())
        return network
    return value


def back(value: Any) -> Any:
    """The numbers of a tensor of the accelerator, on the CPU, without a wait."""
    return value.detach().numbers if isinstance(value, OnAccelerator) else value
