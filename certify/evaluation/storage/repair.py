"""Repair of a run whose files were damaged: what can be read stays, and the rest is set aside."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bounds.errors import InvalidConfiguration
from certify.evaluation.checkpoints import FOLDER, fault_of
from certify.evaluation.storage import chain
from certify.evaluation.storage.durable import write_whole
from certify.evaluation.storage.run_directory import RunDirectory, reported
from certify.evaluation.storage.stored import StoredRecord


def repair(path: Path | str) -> list[str]:
    """Drop the lines that cannot be read, and those whose tensors are lost, so that the run can be continued.

    The files as they were are kept under names that end in ``.damaged``. The manifest says where lines are missing, so
    that the chain of the others can still be checked.

    Returns:
        Sentences on what was done, and on how to go on.

    Raises:
        InvalidConfiguration: there is no run, or another process has it open.
    """
    path = Path(path)
    with reported(f"{path} cannot be repaired"):
        if not (path / "manifest.json").exists() and not (path / "records.jsonl").exists():
            raise InvalidConfiguration(f"{path} holds no run: there is nothing to repair")
        try:
            run = RunDirectory.read(path)
        except InvalidConfiguration:
            return _without_manifest(path)
        with run.held():
            told = _without_votes(run) + _without_lines(run)
            return told or ["nothing is damaged"]


def _without_manifest(path: Path) -> list[str]:
    """Set a manifest aside that cannot be read; the same configuration makes it again."""
    kept = _aside(path / "manifest.json") if (path / "manifest.json").exists() else None
    told = f"manifest.json cannot be read: it is kept as {kept.name}" if kept else "manifest.json is missing"
    if kept:
        (path / "manifest.json").unlink()
    return [f"{told}; continue with the configuration of the run: `certify run CONFIG --output {path}`"]


def _without_votes(run: RunDirectory) -> list[str]:
    """Set votes of units that are under way aside where they cannot be used."""
    told = []
    for file in sorted((run.path / FOLDER).glob("*.json")):
        if fault := fault_of(run, file):
            _aside(file)
            file.unlink()
            told.append(f"{FOLDER}/{file.name} is set aside: {fault}: its votes are counted anew")
    return told


def _without_lines(run: RunDirectory) -> list[str]:
    file = run.path / "records.jsonl"
    content = file.read_bytes() if file.exists() else b""
    lines, kept, told = content.splitlines(keepends=True), [], []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        fault = _fault(line, run)
        if fault:
            told.append(f"line {number} is dropped: {fault}")
        else:
            kept.append(line)
            records.append(msgspec.json.decode(line))
    if not told:
        return []
    copy = _aside(file)
    known = {chain.start_of(run.manifest, run.informative), *(record.get("sha256") for record in records)}
    lost = sorted({record["previous"] for record in records if chain.is_linked(record)} - known)
    note = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "dropped": len(told), "links": lost}
    run.manifest = {**run.manifest, "repairs": [*run.manifest.get("repairs", []), note]}
    run.write_manifest()
    write_whole(file, b"".join(kept))
    told.append(f"records.jsonl as it was is kept as {copy.name}; continue with `certify resume {run.path}`")
    return told


def _fault(line: bytes, run: RunDirectory) -> str:
    """Why a line cannot stay; empty if it can."""
    if not line.endswith(b"\n"):
        return "it is not finished"
    try:
        record = msgspec.json.decode(line)
        msgspec.convert(record, StoredRecord)
    except (ValueError, RecursionError) as error:
        return f"it cannot be read ({error})"
    return "" if run.has_tensors(record) else "its tensors are missing or damaged"


def _aside(file: Path) -> Path:
    """A copy of a file under a name that nothing has."""
    copy = file.with_name(f"{file.name}.damaged")
    number = 1
    while copy.exists():
        number += 1
        copy = file.with_name(f"{file.name}.damaged-{number}")
    shutil.copy2(file, copy)
    return copy
