"""Models from files of ``torch.export`` that nobody vouches for: such a file must not run code of its own.

``torch.export.load`` unpickles what stands in it, loads compiled libraries, evaluates the expressions of its sizes and
writes its names into source code. So all of these are looked at first, and tensors are read without pickle.
"""

import ast
import contextlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator

import torch
from torch import nn

from bounds.errors import InvalidConfiguration

CODE = ("aotinductor/", "custom_obj_", "opaque_obj_")  # parts of an archive that are compiled or pickled
NAMES = {"name", "forward_arg_names"}  # keys whose strings become names in source code
TREES = {"in_spec", "out_spec"}
EXPRESSIONS = {"expr_str", "guards_code"}
CALLED = {"floor", "ceiling", "sqrt", "len", "int", "float"}  # besides the classes of SymPy, in capitals
ATTRIBUTES = {"size", "stride", "shape", "dim", "ndim", "storage_offset", "numel"}
SYNTAX = (
    *(ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.keyword, ast.Name, ast.Constant),
    *(ast.Subscript, ast.Attribute, ast.Tuple, ast.List, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
    ast.expr_context,
)


def load_exported(file: str) -> nn.Module:
    """The module in a ``.pt2`` file.

    Raises:
        InvalidConfiguration: no such file, or one that holds more than a graph and tensors.
    """
    try:
        _require_data_only(file)
        with _tensors_only(), _silent():
            return torch.export.load(file).module()
    except InvalidConfiguration:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InvalidConfiguration(
            f"exported model {file} cannot be read: {lines[0]}: write it with torch.export.save"
        ) from error


def _require_data_only(file: str) -> None:
    """Refuse an archive with a part that would be run."""
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if any(mark in part.filename for mark in CODE):
                _refuse(file, f"{part.filename} is compiled or pickled code")
            if part.filename.endswith(".json"):
                for key, text in _strings(json.loads(archive.read(part))):
                    if not _is_data(key, text):
                        _refuse(file, f"{key} {text[:60]!r} in {part.filename} is no plain name or size")


def _refuse(file: str, reason: str) -> None:
    raise InvalidConfiguration(
        f"exported model {file} must hold a graph and tensors only, but {reason}: "
        "export the model again, or name a function that builds it with [model] build"
    )


def _strings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a decoded file with the key that it belongs to."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)
    elif isinstance(value, str):
        yield key, value


def _is_data(key: str, text: str) -> bool:
    if key in EXPRESSIONS:
        return _is_size(text)
    if key in NAMES:
        return re.fullmatch(r"[\w.]*", text) is not None
    return key not in TREES or re.search(r"[()=;'\\\n]", text) is None


def _is_size(text: str) -> bool:
    """Whether an expression can be no more than arithmetic of sizes."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, SYNTAX) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ATTRIBUTES
    if isinstance(node, ast.Constant):  # SymPy evaluates strings as well
        return not isinstance(node.value, str | bytes) or re.fullmatch(r"\w*", str(node.value)) is not None
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute):
        return isinstance(node.func, ast.Name) and (node.func.id in CALLED or node.func.id[0].isupper())
    return True


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Keep ``torch.load`` from unpickling anything but tensors, whatever its callers ask for."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep torch from logging the traceback of an error that is raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
