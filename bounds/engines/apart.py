"""auto_LiRPA runs with the settings that it needs, and leaves no trace of them in the process.

Its import gives the root logger a handler that prints, changes the filters of warnings, and switches off the profiling
of TorchScript; its passes print, and make tensors in the default dtype.
"""

import importlib
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any

import torch
from torch import Tensor

NAME = "auto_LiRPA"
# Where settings of the exporter of TorchScript lie, from newer versions of PyTorch to older ones.
EXPORTERS = ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals")
_lock = threading.RLock()  # the settings belong to the process


@contextmanager
def apart(like: Tensor | None = None) -> Iterator[list[str]]:
    """Keep the process as it is; yields what the library logs as an error meanwhile, in order.

    Args:
        like: whose dtype becomes the default one, and on whose device random numbers are drawn.
    """
    with _lock, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(record=True))  # since the import shows them whatever was said
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(torch.random.fork_rng([like.device] if like is not None and like.is_cuda else []))
        stack.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        if like is not None:
            torch.set_default_dtype(like.dtype)
        for setting in ("_jit_set_profiling_executor", "_jit_set_profiling_mode"):
            change: Callable[[bool], bool] | None = getattr(torch._C, setting, None)
            if change is not None:
                stack.callback(change, change(False))
        _keep_exporter(stack)
        yield stack.enter_context(_logged_errors())


def _keep_exporter(stack: ExitStack) -> None:
    for name in EXPORTERS:
        with suppress(ImportError, AttributeError):
            settings: Any = importlib.import_module(name).GLOBALS
            stack.callback(setattr, settings, "autograd_inlining", settings.autograd_inlining)


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Messages of errors; nothing is printed."""
    root, own, told = logging.getLogger(), logging.getLogger(NAME), _Told()
    handlers, level, propagate = root.handlers[:], root.level, own.propagate
    own.addHandler(told)
    own.propagate = False
    try:
        yield told.messages
    finally:
        own.removeHandler(told)
        own.propagate = propagate
        root.handlers[:] = handlers
        root.setLevel(level)


class _Told(logging.Handler):
    """Keeps the messages of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.messages.append(record.getMessage())
