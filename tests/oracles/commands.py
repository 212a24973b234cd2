"""Commands as a person gives them: in this process, or in one of their own."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from certify.cli import _exit_code


def certify(*arguments: object, cwd: Path, expect: int = 0, told: TextIO | None = None) -> str:
    """What a command prints, run in this process; its exit code must be as expected."""
    told = told or io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        code = _exit_code([str(argument) for argument in arguments])
    assert code == expect, told.getvalue()
    return told.getvalue()


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "certify", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
