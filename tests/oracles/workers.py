"""What tests have workers do: functions at the top level of a module, since these are sent by name."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NETWORK = """
import torch

class Net(torch.nn.Sequential):
    '''A class that pickle finds in this module alone.'''

def make():
    generator = torch.Generator().manual_seed(1)
    net = Net(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return net
"""


def scaled(shared: Tensor, item: float) -> tuple[Tensor, int]:
    """The shared tensor times the item, and the process that did it."""
    return shared * item, os.getpid()


def slow(shared: object, item: float) -> int:
    """Sleep so many seconds; the process that did."""
    time.sleep(item)
    return os.getpid()


def failing(shared: object, item: object) -> object:
    """Raise what is given."""
    if isinstance(item, Exception):
        raise item
    return item


class Unsendable(Exception):
    """An exception that pickle cannot make again."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(f"{text} {number}")


def unsendable(shared: object, item: object) -> None:
    """Raise an exception that cannot be sent."""
    raise Unsendable("item", 3)


def modes(shared: object, item: object) -> tuple[Any, ...]:
    """Modes of the process on which the bits of results depend."""
    return torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()


def dying(shared: object, item: tuple[str, int]) -> int:
    """End the process by force, the first so many times that an item is worked on; the number of times it was."""
    folder, times = item
    done = len(list(Path(folder).iterdir()))
    (Path(folder) / str(done)).touch()
    if done < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return done + 1
