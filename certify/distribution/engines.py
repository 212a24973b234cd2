"""Engines, the places where work can run, and the pools of workers that they open."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

ATTEMPTS = 4  # at one item, when workers die of it
MEMORY = "it may need more memory than there is, so pass a smaller batch_size or fewer workers"

Function = Callable[[Any, Any], Any]  # of what is shared and of an item


class Pool(ABC):
    """Workers that hold the same shared object.

    Attributes:
        workers: items that can be under way at once, at the moment.
    """

    workers: int

    @abstractmethod
    def unordered(self, function: Function, items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """The place of each item and ``function(shared, item)``, in the order in which they are done.

        Items are taken from the iterable as workers come free, so that no more than a few are under way. An item
        whose worker dies is given to another one. An exception of the function is raised here.

        Raises:
            WorkerLost: an item whose worker died again and again.
        """


class Engine(ABC):
    """A place where work can run besides the calling process.

    Attributes:
        make_model: makes the model on the device of that name, in a worker, where the model itself cannot be sent, as
            programs of ``torch.export``. It must be importable there.
    """

    make_model: Callable[[str], nn.Module] | None = None

    @abstractmethod
    def pool(self, shared: object, device: torch.device) -> AbstractContextManager[Pool]:
        """Workers that hold ``shared``, with its tensors on a device like the given one."""


def outcome(function: Function, shared: object, item: object) -> bytes:
    """The value or the exception of a call, as bytes: what a worker sends back."""
    try:
        return pickle.dumps((function(shared, item), None))
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> bytes:
    """An exception as the outcome of a call; one that cannot be sent becomes its text."""
    try:
        content = pickle.dumps((None, error))
        pickle.loads(content)
    except Exception:  # whatever a foreign class raises
        content = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def value_of(content: bytes) -> Any:  # noqa: ANN401  # whatever the function returns
    """The value of an outcome; an exception is raised."""
    value, error = pickle.loads(content)
    if error is not None:
        raise error
    return value
