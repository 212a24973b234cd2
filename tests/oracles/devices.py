"""A device run without a second device.

The default device is ``meta`` while models and inputs stay on the CPU, and an operation that sees tensors of two
devices fails: it catches every tensor that code makes without ``device=``. The same mode counts reads by the host.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OneDevice(TorchDispatchMode):
    """Fails when one operation sees two devices; counts ``.item()`` and its like."""

    def __init__(self) -> None:
        super().__init__()
        self.host_reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = {str(leaf.device) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if len(devices) > 1:
            raise AssertionError(f"{function} sees tensors on {sorted(devices)}")
        if function is torch.ops.aten._local_scalar_dense.default:
            self.host_reads += 1
        return function(*args, **kwargs)


class Remote(Tensor):
    """A tensor like those of another device: the host gets numbers of it by ``cpu()`` alone, NumPy none at all."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert a tensor of another device to numpy: use Tensor.cpu() first")
        found = super().__torch_function__(function, types, args, kwargs or {})
        moved = [(kwargs or {}).get("device"), *args[1:2]] if function in (Tensor.to, torch.as_tensor) else []
        local = function is Tensor.cpu or "cpu" in map(str, moved)
        return found.as_subclass(Tensor) if local else found


def remote(x: Tensor) -> Tensor:
    """The numbers as if they lay on another device."""
    return x.as_subclass(Remote)


@contextmanager
def elsewhere() -> Iterator[OneDevice]:
    """Run the body as if the inputs lived on another device than the default one."""
    mode = OneDevice()
    with torch.device("meta"), mode:
        yield mode
