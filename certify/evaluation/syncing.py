"""Writes that survive a loss of power: each by itself, or all of a directory at once."""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_DEFERRED: ContextVar[bool] = ContextVar("syncing is deferred", default=False)


def fsync(descriptor: int) -> None:
    """Have the disk keep what was written to a file, now or at the end of :func:`synced_at_the_end`."""
    if not _DEFERRED.get():
        os.fsync(descriptor)


@contextlib.contextmanager
def synced_at_the_end(directory: Path) -> Iterator[None]:
    """Sync all files of a directory once, which nobody relies on before, instead of each after every write."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)
    for path in [*directory.rglob("*"), directory]:
        _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
