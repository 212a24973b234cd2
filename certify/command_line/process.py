"""Ends of the program, and writing on terminals that do not know all characters."""

import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

FINE, MISSED, BAD_INPUT, CONTRADICTION, INTERNAL, INTERRUPTED, NO_READER = 0, 1, 2, 3, 70, 130, 141

SPELLINGS = {"∞": "inf", "—": "-", "≈": "~", "≤": "<=", "≥": ">=", "→": "->", "×": "x"}  # noqa: RUF001


def tolerate_encodings() -> None:
    """Spell out what the encoding of the standard streams lacks, where Python would fail: ``l∞`` becomes ``linf``."""
    codecs.register_error("certify", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="certify")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    spelled = (SPELLINGS.get(sign, sign).encode("ascii", "backslashreplace").decode() for sign in lacking)
    return "".join(spelled), error.end


# A machine that shuts down, a queue whose time is up, and a terminal that closes end a run as Ctrl-C does.
INTERRUPTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def leaving_when_interrupted() -> Iterator[None]:
    """End at an interrupt with one line, until :func:`raise_when_interrupted`.

    While torch and numpy are imported, a KeyboardInterrupt becomes an ImportError of theirs, or a long traceback.
    A signal that is ignored, as below ``nohup``, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def raise_when_interrupted() -> None:
    """Raise KeyboardInterrupt from here on."""
    for number in INTERRUPTS:
        if signal.getsignal(number) is _leave:
            signal.signal(number, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is behind an error that somebody made of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def flush_output() -> bool:
    """Whether what was printed has a reader: not, if the program behind a pipe has ended."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file has nothing to repair
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
