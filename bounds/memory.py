"""Large computations in parts that fit a memory budget."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import torch

MEMORY = 2**26  # bytes; on a CPU, larger tensors than the parts that follow from it cost page faults

WAITING = 2**31  # bytes of sub-problems that wait in a search

Result = TypeVar("Result")


def out_of_memory(error: Exception) -> bool:
    """Whether a computation failed because memory ended: on a GPU an error of its own, on a CPU its allocator's."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensors of up to 32 MiB, from the first call on.

    Pages that are new to the process cost more than the arithmetic on them. glibc gives memory back by the size of the
    largest block that it has mapped and got back; this one is never touched.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


def in_chunks(compute: Callable[[slice], Result], count: int, at_once: Callable[[], int]) -> Iterator[Result]:
    """Results of consecutive slices of a range; their size is asked for anew each time, and halved if memory ends."""
    first, most = 0, count
    while first < count or count == 0:
        size = max(1, min(at_once(), most))
        try:
            yield compute(slice(first, first + size))
        except RuntimeError as error:
            if not out_of_memory(error) or size == 1:
                raise
            most = size // 2
            continue
        first += size
        if count == 0:
            return
