"""The store of a run: what is finished survives, and nothing is mixed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bounds import InvalidConfiguration, ManifestMismatch
from certify import RunDirectory

MANIFEST = {
    "created": "today",
    "seed": 0,
    "threads": 1,
    "configuration": {"units": 3, "n": 100, "norms": ["2", "inf"]},
    "source": {"model": {"network": "ibp"}, "data": {"file": "/old/data.npz"}, "require": []},
}
ROW = {"index": 0, "label": 1, "base_prediction": 1, "subject": "base", "status": "certified"}


def record(unit: str, **row: object) -> dict:
    return {
        "unit": unit,
        "method": "ibp",
        "kind": "certificate",
        "norm": "inf",
        "seconds": 0.5,
        "rows": [{**ROW, **row}],
    }


def test_what_is_appended_comes_back(tmp_path):
    run = RunDirectory.open(tmp_path / "run", MANIFEST)
    run.append(record("a/2/0-3", counts=[2**40, 0]), {"x": torch.arange(3.0)})
    run.append(record("b"))
    again = RunDirectory.read(tmp_path / "run")
    assert again.records() == {"a/2/0-3": record("a/2/0-3", counts=[2**40, 0]), "b": record("b")}
    assert torch.equal(again.tensors("a/2/0-3")["x"], torch.arange(3.0))
    assert again.tensors("b") == {}


def test_a_line_cut_by_a_kill_is_dropped_and_written_again(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    run.append(record("a", index=1))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b'{"unit":"b","rows":[1,2')
    assert list(RunDirectory.read(tmp_path).records()) == ["a"]
    resumed = RunDirectory.open(tmp_path, MANIFEST)
    resumed.append(record("b", index=3))
    assert [found["rows"][0]["index"] for found in resumed.records().values()] == [1, 3]


def test_a_damaged_line_in_the_middle_is_reported_and_not_skipped(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    (tmp_path / "records.jsonl").write_bytes(b'{"unit":"a"\n{"unit":"b"}\n')
    with pytest.raises(InvalidConfiguration, match="line 1 is damaged"):
        run.records()


def test_another_manifest_is_refused_in_one_line_that_says_what_differs(tmp_path):
    RunDirectory.open(tmp_path, MANIFEST)
    RunDirectory.open(tmp_path, {**MANIFEST, "created": "tomorrow"})  # told to the reader, not part of the identity
    other = {**MANIFEST, "seed": 1, "threads": 2, "configuration": {"units": 3, "n": 200, "norms": ["2", "inf"]}}
    told = r"configuration\.n was 100, now 200; seed was 0, now 1; threads was 1, now 2 \(set OMP_NUM_THREADS=1\)$"
    with pytest.raises(ManifestMismatch, match=told) as caught:
        RunDirectory.open(tmp_path, other)
    assert "\n" not in str(caught.value)


def test_a_directory_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(InvalidConfiguration, match="is not empty and holds no run"):
        RunDirectory.open(tmp_path, MANIFEST)
    with pytest.raises(InvalidConfiguration, match=r"manifest\.json is missing"):
        RunDirectory.read(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfiguration, match="cannot be written"):
        RunDirectory.open(tmp_path / "file" / "run", MANIFEST)


def test_thresholds_and_places_are_not_the_identity_and_those_of_today_are_stored(tmp_path):
    """A finished run used to be refused after its data file was moved or a threshold was changed."""
    RunDirectory.open(tmp_path, MANIFEST)
    required = [{"method": "ibp", "norm": "inf", "radius": 0.1, "at_least": 0.5}]
    source = {**MANIFEST["source"], "data": {"file": "/new/data.npz"}, "require": required}
    assert RunDirectory.open(tmp_path, {**MANIFEST, "created": "later", "source": source}).manifest["source"] == source
    stored = RunDirectory.read(tmp_path).manifest
    assert (stored["source"], stored["created"]) == (source, "today")
    other = {**source, "model": {"network": "pgd"}}
    with pytest.raises(ManifestMismatch, match=r"source\.model\.network was 'ibp', now 'pgd'"):
        RunDirectory.open(tmp_path, {**MANIFEST, "source": other})


def test_tensors_are_those_that_were_stored(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    run.append(record("a/2"), {"x": torch.arange(3.0)})
    file = tmp_path / "tensors/a_2.safetensors"
    content = file.read_bytes()
    for other in (content[:-1] + b"\x7f", content[:20], b""):  # another number in it; cut; empty
        file.write_bytes(other)
        with pytest.raises(InvalidConfiguration, match=r"a_2\.safetensors is not the file that the run stored"):
            RunDirectory.read(tmp_path).tensors("a/2")
    file.unlink()
    file.parent.rmdir()
    with pytest.raises(InvalidConfiguration, match=r"a_2\.safetensors cannot be read: No such file"):
        RunDirectory.read(tmp_path).tensors("a/2")
    file.parent.mkdir()
    file.write_bytes(content)
    assert torch.equal(RunDirectory.read(tmp_path).tensors("a/2")["x"], torch.arange(3.0))


@pytest.mark.parametrize("manifest", ["[]", "{}", "1", '{"source": {}}', '{"configuration": {}}', "{", "\xff"])
def test_a_damaged_manifest_is_refused(manifest: str, tmp_path):
    (tmp_path / "manifest.json").write_text(manifest, encoding="latin-1")
    with pytest.raises(InvalidConfiguration, match=r"manifest\.json is"):
        RunDirectory.read(tmp_path)
    with pytest.raises(InvalidConfiguration, match=r"manifest\.json is"):
        RunDirectory.open(tmp_path, MANIFEST)


@pytest.mark.parametrize(
    "damaged",
    [
        *([], 1, {}, {**record("a"), "rows": []}, {**record("a"), "rows": [1]}, {**record("a"), "norm": "one"}),
        *({key: value for key, value in record("a").items() if key != missing} for missing in record("a")),
        *(record("a", **{key: None}) for key in ROW),
    ],
)
def test_a_damaged_record_is_refused(damaged: object, tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    run.append(record("fine"))
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write(json.dumps(damaged) + "\n")
    with pytest.raises(InvalidConfiguration, match="line 2 is damaged"):
        run.records()


def test_a_directory_in_the_place_of_the_records_is_refused(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    (tmp_path / "records.jsonl").mkdir()
    for use in (run.records, lambda: run.append(record("a")), lambda: RunDirectory.open(tmp_path, MANIFEST)):
        with pytest.raises(InvalidConfiguration, match="Is a directory"):
            use()


def elsewhere(path: Path) -> str:
    """The answer to another process that opens the same run."""
    code = (
        f"import certify\ntry: certify.RunDirectory.open({str(path)!r}, {MANIFEST!r})\nexcept ValueError as e: print(e)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_two_processes_do_not_write_one_run(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    RunDirectory.read(tmp_path)
    assert "is in use by another process" in elsewhere(tmp_path)
    run.close()
    assert elsewhere(tmp_path) == ""
    del run
    RunDirectory.open(tmp_path, MANIFEST)  # dropped at once, and the lock with it
    assert elsewhere(tmp_path) == ""


def test_a_start_that_was_killed_before_the_manifest_is_started_again(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "manifest.json.partial").write_text("{")
    RunDirectory.open(tmp_path, MANIFEST).append(record("a"))
    assert list(RunDirectory.read(tmp_path).records()) == ["a"]
