"""Peak of the memory that tensors hold, counted operation by operation."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still referenced."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
                if size and address not in given and address not in self.known:
                    self.known.add(address)
                    self.live += size
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._freed, address, size)
        return result

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


@contextmanager
def live_tensors() -> Iterator[LiveTensors]:
    """Count within the body."""
    with LiveTensors() as mode:
        yield mode
