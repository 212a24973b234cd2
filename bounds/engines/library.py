"""auto_LiRPA as it can be imported here, or one line that says which version is needed and how to get it."""

import importlib
import importlib.metadata
import re
from contextlib import suppress
from typing import Any

from bounds.engines.apart import NAME, apart
from bounds.errors import InvalidInput

OLDEST = (0, 6)
LONGEST = 200  # characters of a message
REMEDY = (
    "PyPI has only 0.3 of 2022, which today's PyTorch cannot import, so install its source by "
    "`pip install --no-deps git+https://github.com/Verified-Intelligence/auto_LiRPA` and "
    "`pip install appdirs graphviz packaging pyyaml`"
)


def library() -> Any:  # noqa: ANN401  # a module without types
    """The package.

    Raises:
        InvalidInput: it is not there, too old, or its import fails.
    """
    with apart():
        try:
            found = importlib.import_module(NAME)
        except Exception as error:  # old versions raise anything
            if isinstance(error, ModuleNotFoundError) and error.name == NAME:
                raise _missing("none is installed") from error
            installed = ""
            with suppress(importlib.metadata.PackageNotFoundError):
                installed = f" {importlib.metadata.version(NAME)}"
            raise _missing(f"the import of the one found{installed} fails with {told(error)}") from error
    version = str(getattr(found, "__version__", "without a version"))
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    if tuple(numbers[: len(OLDEST)]) < OLDEST:
        raise _missing(f"found {version}")
    return found


def told(error: Exception) -> str:
    """An error in one line, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:LONGEST]}" if lines else type(error).__name__


def _missing(found: str) -> InvalidInput:
    oldest = ".".join(map(str, OLDEST))
    return InvalidInput(f"engine='auto_lirpa' needs auto_LiRPA {oldest} or newer, but {found}: {REMEDY}")
