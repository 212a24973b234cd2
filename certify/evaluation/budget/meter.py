"""The cost of a piece of work: time, passes of the model, and memory, as they happen."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Clock = Callable[[], float]  # seconds since any moment

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KILOBYTE = 1024


@dataclass
class Spent:
    """Time, passes and memory that were spent.

    Attributes:
        seconds: by the clock.
        forward: rows that went through the model; NaN for scripts of TorchScript, which tell nobody.
        backward: rows that gradients came back to the model's output for; likewise.
        memory: bytes that were held at the peak besides those held before; None where that cannot be told.
    """

    seconds: float = 0.0
    forward: float = 0
    backward: float = 0
    memory: int | None = None


@contextmanager
def metered(model: nn.Module, device: torch.device, clock: Clock) -> Iterator[Spent]:
    """Count what the body spends; passes by hooks, which see every call of the model from wherever it comes."""
    spent, held = Spent(), _restarted(device)

    def passed(module: nn.Module, given: object, output: object) -> None:
        if torch.compiler.is_exporting() or not isinstance(output, Tensor) or output.ndim == 0:
            return
        rows = len(output)
        spent.forward += rows
        if output.requires_grad:

            def returned(gradient: Tensor) -> None:
                spent.backward += rows

            output.register_hook(returned)

    if isinstance(model, torch.jit.ScriptModule):  # takes no hooks
        spent.forward = spent.backward = math.nan
        hook = None
    else:
        hook = model.register_forward_hook(passed)
    started = clock()
    try:
        yield spent
    finally:
        spent.seconds = clock() - started
        if hook is not None:
            hook.remove()
        spent.memory = None if held is None else max(_peak(device) - held, 0)


def _restarted(device: torch.device) -> int | None:
    """Bytes that are held now; the peak is measured from here on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not sys.platform.startswith("linux"):
        return None
    try:
        RESET.write_text("5")  # from proc(5): the peak becomes what is held now
        return _stated("VmRSS")
    except (OSError, ValueError, StopIteration):  # pragma: no cover  # where a container forbids it
        return None


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _stated("VmHWM")


def _stated(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * KILOBYTE
