"""The store of a run: what is finished survives, and nothing is mixed."""

import os

import pytest
import torch

from bounds import InvalidConfiguration, ManifestMismatch
from certify import RunDirectory

MANIFEST = {"created": "today", "seed": 0, "configuration": {"n": 100, "norms": ["2", "inf"]}}


def test_what_is_appended_comes_back(tmp_path):
    run = RunDirectory.open(tmp_path / "run", MANIFEST)
    run.append({"unit": "a/2/0-3", "rows": [{"counts": [2**40, 0]}]}, {"x": torch.arange(3.0)})
    run.append({"unit": "b", "rows": []})
    again = RunDirectory.read(tmp_path / "run")
    assert list(again.records()) == ["a/2/0-3", "b"]
    assert again.records()["a/2/0-3"]["rows"][0]["counts"] == [2**40, 0]
    assert torch.equal(again.tensors("a/2/0-3")["x"], torch.arange(3.0))
    assert again.tensors("b") == {}


def test_a_line_cut_by_a_kill_is_dropped_and_written_again(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    run.append({"unit": "a", "rows": [1]})
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b'{"unit":"b","rows":[1,2')
    assert list(RunDirectory.read(tmp_path).records()) == ["a"]
    resumed = RunDirectory.open(tmp_path, MANIFEST)
    resumed.append({"unit": "b", "rows": [3]})
    assert [record["rows"] for record in resumed.records().values()] == [[1], [3]]


def test_a_damaged_line_in_the_middle_is_reported_and_not_skipped(tmp_path):
    run = RunDirectory.open(tmp_path, MANIFEST)
    (tmp_path / "records.jsonl").write_bytes(b'{"unit":"a"\n{"unit":"b"}\n')
    with pytest.raises(InvalidConfiguration, match="line 1 is damaged"):
        run.records()


def test_another_manifest_is_refused_in_one_line_that_says_what_differs(tmp_path):
    RunDirectory.open(tmp_path, MANIFEST)
    RunDirectory.open(tmp_path, {**MANIFEST, "created": "tomorrow"})  # told to the reader, not part of the identity
    other = {**MANIFEST, "seed": 1, "configuration": {"n": 200, "norms": ["2", "inf"]}}
    with pytest.raises(ManifestMismatch, match=r"configuration\.n was 100, now 200; seed was 0, now 1$") as caught:
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
