"""Runs survive kills at any moment, full disks, damaged files, and being opened twice."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from oracles.commands import start

from bounds import InvalidConfiguration
from certify import RunDirectory
from certify.command_line.runs import output_directory
from certify.evaluation.storage import durable, input_file, run_directory
from certify.evaluation.storage.durable import write_whole
from certify.evaluation.storage.repair import repair

MANIFEST = {
    "created": "today",
    "configuration": {"units": 3, "norms": ["2"]},
    "source": {"model": {}, "data": {}, "require": []},
}
ROW = {"index": 0, "label": 1, "base_prediction": 1, "subject": "base", "status": "certified"}
TENSORS = {"clean": torch.arange(4.0), "adversarial": torch.ones(2, 3)}
ON_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no fork")


def record(unit: str) -> dict:
    return {"unit": unit, "method": "ibp", "kind": "certificate", "norm": "2", "seconds": 0.5, "rows": [ROW]}


def killed_at(moment: int, path: Path) -> bool:
    """Whether a process that appends a unit was killed at that line of the store; it cleans nothing up."""
    child = os.fork()
    if not child:
        left = moment

        def count(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename not in (module.__file__ for module in (run_directory, durable, input_file)):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(9)
            return count

        run = RunDirectory.open(path, MANIFEST)
        sys.settrace(count)
        run.append(record("b"), TENSORS)
        sys.settrace(None)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@ON_POSIX
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_kill_at_any_line_of_append_loses_nothing_and_names_nothing_that_is_not_there(tmp_path):
    moments = 0
    while True:
        path = tmp_path / str(moments)
        run = RunDirectory.open(path, MANIFEST)
        run.append(record("a"), TENSORS)
        run.close()
        killed = killed_at(moments, path)
        resumed = RunDirectory.open(path, MANIFEST)
        stored = resumed.records()
        assert stored.keys() >= {"a"}
        if "b" not in stored:
            resumed.append(record("b"), TENSORS)
        assert resumed.records() == {"a": record("a"), "b": record("b")}
        for unit in ("a", "b"):
            assert all(torch.equal(value, TENSORS[name]) for name, value in resumed.tensors(unit).items())
            assert resumed.tensors(unit).keys() == TENSORS.keys()
        assert resumed.chain_faults() == []
        resumed.close()
        moments += 1
        if not killed:
            break
    assert moments > 31


def test_tensors_are_on_the_disk_before_the_line_that_names_them(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").resolve().name if sys.platform == "linux" else "?")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (order.append(f"-> {target.name}"), replace(self, target))
    )
    run = RunDirectory.open(tmp_path, MANIFEST)
    order.clear()
    run.append(record("a"), TENSORS)
    if sys.platform == "linux":
        assert order == ["a.partial", "-> a.safetensors", "tensors", "records.jsonl", tmp_path.name]


@pytest.mark.parametrize("written", [0, 7])
def test_a_full_disk_leaves_no_part_of_a_line(written: int, tmp_path, monkeypatch):
    run = RunDirectory.open(tmp_path, MANIFEST)
    run.append(record("a"))
    before = (tmp_path / "records.jsonl").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InvalidConfiguration, match="No space left on device"):
            run.append(record("b"))
    assert (tmp_path / "records.jsonl").read_bytes() == before
    run.append(record("b"))
    assert list(run.records()) == ["a", "b"]
    assert run.chain_faults() == []


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write_whole(page, b"new")
    assert page.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.slow
def test_the_one_that_opens_a_run_last_has_it(tmp_path):
    first = RunDirectory.open(tmp_path, MANIFEST)
    second = RunDirectory.open(tmp_path, MANIFEST)
    second.append(record("a"))
    with pytest.raises(InvalidConfiguration, match="opened again in this process: use the later one"):
        first.append(record("a"))
    del first  # whose end must not free the lock of the other
    second.append(record("b"))
    assert second.chain_faults() == []
    command = [sys.executable, "-c", f"from certify import RunDirectory as R; R.open({str(tmp_path)!r}, {MANIFEST!r})"]
    if sys.platform != "win32":
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "in use by another process" in found.stderr


def test_two_runs_that_start_in_one_second_have_their_own_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with output_directory(None) as first, output_directory(None) as second, output_directory(None) as third:
        assert len({first, second, third}) == 3
        RunDirectory.open(second, MANIFEST)
    assert [path for path in (first, second, third) if path.exists()] == [second]


# ------------------------------------------------------------------------------------------------------------ repair


def damaged_run(path: Path) -> list[bytes]:
    run = RunDirectory.open(path, MANIFEST)
    for unit in "abcd":
        run.append(record(unit), TENSORS if unit in "ad" else None)
    run.close()
    return (path / "records.jsonl").read_bytes().splitlines(keepends=True)


def test_a_damaged_line_is_dropped_and_a_copy_is_kept(tmp_path):
    lines = damaged_run(tmp_path)
    damaged = b"".join([lines[0], lines[1][:30] + b"\n", *lines[2:]])
    (tmp_path / "records.jsonl").write_bytes(damaged)
    with pytest.raises(InvalidConfiguration, match=r"line 2 is damaged: .*: drop it with `certify repair"):
        RunDirectory.read(tmp_path).records()
    told = repair(tmp_path)
    assert told[0].startswith("line 2 is dropped: it cannot be read")
    assert (tmp_path / "records.jsonl.damaged").read_bytes() == damaged
    run = RunDirectory.open(tmp_path, MANIFEST)
    assert list(run.records()) == ["a", "c", "d"]
    assert run.chain_faults() == []
    run.append(record("b"))
    assert run.chain_faults() == []
    assert repair(tmp_path) == ["nothing is damaged"]


def test_a_repair_does_not_hide_what_was_changed(tmp_path):
    lines = damaged_run(tmp_path)
    changed = lines[2].replace(b'"seconds":0.5', b'"seconds":0.6')
    (tmp_path / "records.jsonl").write_bytes(b"".join([lines[0], b"{\n", changed, lines[3]]))
    repair(tmp_path)
    assert [unit for unit, _ in RunDirectory.read(tmp_path).chain_faults()] == ["c"]


def test_a_line_whose_tensors_are_lost_is_dropped(tmp_path):
    damaged_run(tmp_path)
    (tmp_path / "tensors" / "a.safetensors").write_bytes(b"")
    assert repair(tmp_path)[0] == "line 1 is dropped: its tensors are missing or damaged"
    run = RunDirectory.open(tmp_path, MANIFEST)
    assert list(run.records()) == ["b", "c", "d"]
    assert run.chain_faults() == []


@pytest.mark.parametrize("records", [True, False])
def test_an_empty_manifest_is_set_aside_and_made_again(records: bool, tmp_path):
    damaged_run(tmp_path)
    if not records:
        (tmp_path / "records.jsonl").unlink()
    (tmp_path / "manifest.json").write_bytes(b"")
    with pytest.raises(InvalidConfiguration, match="look at `certify repair"):
        RunDirectory.read(tmp_path)
    assert "certify run CONFIG --output" in repair(tmp_path)[0]
    run = RunDirectory.open(tmp_path, MANIFEST)
    assert list(run.records()) == (list("abcd") if records else [])
    assert run.chain_faults() == []


def test_lines_of_another_manifest_are_not_taken_over(tmp_path):
    damaged_run(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"")
    repair(tmp_path)
    with pytest.raises(InvalidConfiguration, match="is not empty and holds no run"):
        RunDirectory.open(tmp_path, {**MANIFEST, "configuration": {"units": 3, "norms": ["1"]}})


def test_nothing_to_repair_is_refused(tmp_path):
    with pytest.raises(InvalidConfiguration, match="holds no run"):
        repair(tmp_path)


# ------------------------------------------------------------------------------------------------------------- chain


def test_a_run_of_an_earlier_version_has_no_chain_and_goes_on_without(tmp_path):
    RunDirectory.open(tmp_path, MANIFEST).close()
    (tmp_path / "records.jsonl").write_text(json.dumps(record("a")) + "\n")
    run = RunDirectory.open(tmp_path, MANIFEST)
    run.append(record("b"))
    assert list(run.records()) == ["a", "b"]
    assert run.chain_faults() is None


def test_records_of_parts_have_a_chain_of_their_own_in_a_merged_run(tmp_path):
    parts = []
    for name in "ab":
        part = RunDirectory.open(tmp_path / name, {**MANIFEST, "part": name})
        part.append(record(name), TENSORS)
        parts.append(part)
    merged = RunDirectory.open(tmp_path / "merged", MANIFEST)
    for part in parts:
        for line in part.lines():
            merged.append({**line, "tensors_sha256": "0" * 64}, part.tensors(line["unit"]))
    assert merged.chain_faults() == []
    assert all(torch.equal(merged.tensors(name)["clean"], TENSORS["clean"]) for name in "ab")


# ----------------------------------------------------------------------------------------------------------- signals


@ON_POSIX
@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_shutdown_ends_a_run_as_an_interrupt_does(number: str, tmp_path):
    running, started = start("demo", "--inputs", 1000, "--output", "run", cwd=tmp_path), time.monotonic()
    while not any(tmp_path.rglob("records.jsonl")):
        assert time.monotonic() - started < 60
        time.sleep(0.1)
    running.send_signal(getattr(signal, number))
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "finished units are stored; continue with `certify resume" in told
