"""Commands on runs that were killed, interrupted, cut short or damaged: they go on where they stopped, or refuse."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from oracles.commands import certify, records, refusal, start, write


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_run(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('[model]\nnetwork = "noise"\n[data]\ncount = 40\n[methods.smoothing]\nn = 3000\n[methods.ibp]\n')
    certify("run", config, "--output", "whole", cwd=tmp_path)
    process = start("run", config, "--output", "killed", cwd=tmp_path)
    lines = tmp_path / "killed" / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = lines.read_bytes()
    finished = before[: before.rfind(b"\n") + 1]
    assert 2 <= finished.count(b"\n") < 6, "the run was not killed in the middle"
    certify("resume", "killed", cwd=tmp_path)
    assert lines.read_bytes().startswith(finished)  # nothing was computed again
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


@pytest.mark.slow
def test_interrupt_keeps_what_is_finished(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('[model]\nnetwork = "noise"\n[methods.smoothing]\nn = 20000\n')
    process = start("run", config, "--output", "out", cwd=tmp_path)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("[1/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.endswith("interrupted: finished units are stored; continue with `certify resume out`\n")
    assert "Traceback" not in told
    assert records(tmp_path / "out")


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two inputs, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder, model='network = "ibp"', data="count = 2")
    certify("run", "config.toml", "--output", "out", cwd=folder)
    return folder


@pytest.fixture
def finished(run_of_two: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(run_of_two, tmp_path, dirs_exist_ok=True) / "out"


DAMAGES = {
    "manifest is a list": ("manifest.json", b"[]"),
    "manifest is empty": ("manifest.json", b"{}"),
    "manifest is cut": ("manifest.json", b'{"seed": 0'),
    "record is a list": ("records.jsonl", b"[]\n"),
    "record without rows": ("records.jsonl", b'{"unit": "ibp/2/0-2"}\n'),
    "records are a directory": ("records.jsonl", None),
    "tensors are damaged": ("tensors/attack_inf_0-2.safetensors", b"damaged"),
    "tensors are a directory": ("tensors/attack_inf_0-2.safetensors", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_in_one_line(damage: str, finished: Path):
    name, content = DAMAGES[damage]
    (finished / name).unlink()
    if content is None:
        (finished / name).mkdir()
    else:
        (finished / name).write_bytes(content)
    for command in ("check", "report", "resume"):
        refusal(command, "out", cwd=finished.parent)


def test_a_report_that_cannot_be_written_is_refused_in_one_line(finished: Path):
    (finished / "report.html").unlink()
    (finished / "report.html").mkdir()
    assert "out/report.html cannot be written: Is a directory" in refusal("report", "out", cwd=finished.parent)


@pytest.mark.slow
def test_an_unfinished_run_is_no_success(finished: Path):
    file = finished / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]))
    assert f"unfinished: 2 of {len(lines)} units" in certify("check", "out", cwd=finished.parent, expect=1)
    assert f"unfinished: 2 of {len(lines)} units" in certify("report", "out", cwd=finished.parent)
    certify("resume", "out", cwd=finished.parent)
    certify("check", "out", cwd=finished.parent)
