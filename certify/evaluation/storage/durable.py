"""Files that survive a kill, a full disk and a loss of power: written whole or not at all, and waited for."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_DEFERRED: ContextVar[bool] = ContextVar("syncing is deferred", default=False)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, so that it is there whole, or the one before is; also after a loss of power."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk need not stay full
            partial.unlink()
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add a line, for good; where that fails, as on a full disk, nothing of it stays."""
    new = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) or 0 :]
            _wait(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
    if new:
        sync_folder(path.parent)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as file:
        _wait(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, on systems that can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network disks cannot
            _wait(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def synced_at_the_end(directory: Path) -> Iterator[None]:
    """Wait for all files of a directory once, which nobody relies on before, instead of each after every write."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)
    for path in directory.rglob("*"):
        if path.is_file():
            sync(path)
        else:
            sync_folder(path)
    sync_folder(directory)


def _wait(descriptor: int) -> None:
    if not _DEFERRED.get():
        os.fsync(descriptor)
