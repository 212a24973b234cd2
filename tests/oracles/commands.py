"""Commands as a person gives them: in this process, or in one of their own."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from certify.cli import _exit_code

QUICK = """
norms = [2, "inf"]
[methods.smoothing]
n = 200
[methods.ibp]
[methods.attack]
steps = 5
restarts = 1
"""


def certify(*arguments: object, cwd: Path, expect: int = 0, told: TextIO | None = None) -> str:
    """The output of a command, run in this process; its exit code must be as expected."""
    told = told or io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        code = _exit_code([str(argument) for argument in arguments])
    assert code == expect, told.getvalue()
    return told.getvalue()


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "certify", *map(str, arguments)]
    heard = None if sys.platform == "win32" else _hear_signals
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )


def _hear_signals() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, as nohup does for SIGHUP; what that starts, too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def refusal(*arguments: object, cwd: Path) -> str:
    """The one line with which wrong input is refused."""
    lines = certify(*arguments, cwd=cwd, expect=2).strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def write(folder: Path, *, model: str, data: str = 'file = "data.npz"\ndivide_by = 255', rest: str = "") -> Path:
    file = folder / "config.toml"
    file.write_text(f"{QUICK}\n{rest}\n[model]\n{model}\n[data]\n{data}\n")
    return file


def records(folder: Path) -> list[dict]:
    """Records without their times."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    own = ("seconds", "previous", "sha256")  # its time, and the links of a chain over such lines
    return [{key: value for key, value in json.loads(line).items() if key not in own} for line in lines]
