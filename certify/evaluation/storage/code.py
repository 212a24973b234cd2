"""Circumstances of a run that its numbers do not show: the code of the model, and the processor."""

import ast
import hashlib
import inspect
import platform
import textwrap
from pathlib import Path

from torch import nn


def code_digest(model: nn.Module) -> str:
    """SHA-256 over the code of all classes of a model that are not torch's own, without comments and layout.

    Weights and answers do not tell all of a model: its code may treat inputs in another way where no data lie. Classes
    whose source is not at hand, as in notebooks of some kinds, count by their names.
    """
    classes = {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}
    digest = hashlib.sha256()
    for kind in sorted(classes, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        digest.update(f"{kind.__qualname__}\n{_source(kind)}\n".encode())
    return digest.hexdigest()


def _source(kind: type) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def processor_name() -> str:
    """The model of the processor, as the system tells it; its architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
