"""Merging: the run of one process from those of shards, and refusal of what does not belong together."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import certify
from bounds.errors import InvalidConfiguration, InvalidInput, ManifestMismatch
from certify.evaluation.units import unit_names
from certify.methods import IntervalBounds, LinearBounds, MinimalPerturbation, Smoothing

OWN = ("seconds", "previous", "sha256")  # of a line: its time, and the links of a chain over such lines
METHODS = [IntervalBounds(), LinearBounds(), Smoothing(n=100), MinimalPerturbation(steps=1, restarts=1)]


def lines(path: Path) -> list[dict[str, Any]]:
    """All records in the order of the file, without what a second computation has otherwise."""
    records = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in OWN} for record in records]


def manifest(path: Path) -> dict[str, Any]:
    found = json.loads((path / "manifest.json").read_text())
    return {key: value for key, value in found.items() if key not in ("created", "shard")}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., certify.Evaluation]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(25, 4, generator=generator)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    labels = model(x).argmax(1)

    def evaluated(path: Path, shard: str | None = None, seed: int = 0, **more: Any) -> certify.Evaluation:
        settings: dict[str, Any] = {"methods": METHODS, "norms": (2, math.inf)} | more
        return certify.evaluate(model, x, labels, output=path, shard=shard, seed=seed, **settings)

    return evaluated


@pytest.fixture(scope="module")
def folder(evaluated: Callable[..., certify.Evaluation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run and its four shards, which no test changes."""
    folder = tmp_path_factory.mktemp("shards")
    evaluated(folder / "whole")
    for index in range(1, 5):
        evaluated(folder / "parts" / str(index), f"{index}/4")
    return folder


@pytest.fixture
def parts(folder: Path, tmp_path: Path) -> Path:
    """A copy of the shards."""
    return Path(shutil.copytree(folder / "parts", tmp_path / "parts"))


def test_merged_shards_are_the_run_of_one_process(folder: Path, tmp_path: Path):
    runs = [folder / "parts" / str(index) for index in (3, 1, 4, 2)]
    merged = certify.merge(tmp_path / "merged", runs)
    assert lines(tmp_path / "merged") == lines(folder / "whole")
    assert manifest(tmp_path / "merged") == manifest(folder / "whole")
    assert merged.unfinished() is None
    whole = certify.Evaluation.load(folder / "whole")
    assert merged.tensors.keys() == whole.tensors.keys()
    for unit, tensors in whole.tensors.items():
        assert all(torch.equal(merged.tensors[unit][name], value) for name, value in tensors.items())
    assert any("adversarial" in tensors for tensors in whole.tensors.values())
    assert not (tmp_path / "merged.merging").exists()


def test_shards_have_one_manifest_and_no_unit_in_common(folder: Path):
    runs = [folder / "parts" / str(index) for index in range(1, 5)]
    assert [manifest(run) for run in runs] == [manifest(folder / "whole")] * 4
    units = [record["unit"] for run in runs for record in lines(run)]
    assert sorted(units) == sorted(record["unit"] for record in lines(folder / "whole"))
    assert unit_names(manifest(folder / "whole")["configuration"]) == [one["unit"] for one in lines(folder / "whole")]


def test_a_run_is_read_in_the_order_of_its_units(folder: Path, tmp_path: Path):
    """Workers finish some units before earlier ones, and a page shows the first witnesses."""
    run = Path(shutil.copytree(folder / "whole", tmp_path / "run"))
    file = run / "records.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    found = certify.Evaluation.load(run).records
    assert [record["unit"] for record in found] == [record["unit"] for record in lines(folder / "whole")]


def test_a_folder_of_shards_is_as_good_as_a_list(folder: Path, tmp_path: Path):
    certify.merge(tmp_path / "merged", folder / "parts")  # type: ignore[arg-type]  # one folder
    assert lines(tmp_path / "merged") == lines(folder / "whole")


def test_missing_and_unfinished_shards_are_named(parts: Path, tmp_path: Path):
    file = parts / "2" / "records.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    shutil.rmtree(parts / "3")
    units = len(lines(parts / "1")), len(lines(parts / "4"))
    with pytest.raises(InvalidConfiguration) as error:
        certify.merge(tmp_path / "merged", [parts])
    message = str(error.value)
    assert f"shard 2/4 in {parts / '2'} is unfinished (1 of " in message
    assert "shard 3/4 is missing" in message
    assert "shard 1/4" not in message
    assert not (tmp_path / "merged").exists()
    merged = certify.merge(tmp_path / "merged", [parts], partial=True)
    assert len(merged.records) == 1 + sum(units)


@pytest.mark.slow
def test_a_partial_merge_is_continued_to_the_whole(
    evaluated: Callable[..., certify.Evaluation], folder: Path, parts: Path, tmp_path: Path
):
    shutil.rmtree(parts / "3")
    certify.merge(tmp_path / "merged", [parts], partial=True)
    evaluated(tmp_path / "merged")

    def by_unit(path: Path) -> dict[str, Any]:
        return {record["unit"]: record for record in lines(path)}

    assert by_unit(tmp_path / "merged") == by_unit(folder / "whole")
    assert len(lines(tmp_path / "merged")) == len(lines(folder / "whole"))


def test_the_same_unit_twice_counts_once_and_must_be_the_same(folder: Path, parts: Path, tmp_path: Path):
    shutil.copytree(parts / "2", parts / "again")
    certify.merge(tmp_path / "merged", [parts, folder / "whole"])
    assert lines(tmp_path / "merged") == lines(folder / "whole")
    file = parts / "again" / "records.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()]
    found[1]["rows"][0]["prediction"] ^= 1
    file.write_text("".join(json.dumps(one) + "\n" for one in found))
    with pytest.raises(ManifestMismatch, match=f"different results of unit '{found[1]['unit']}'"):
        certify.merge(tmp_path / "other", [parts])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"low": -1.0}, "configuration.low was 0.0, now -1.0"),
        (
            {"methods": [*METHODS[:2], Smoothing(n=101), METHODS[3]]},
            "configuration.methods.smoothing.n was 100, now 101",
        ),
        ({"on_grid": None, "batch_size": 500}, "configuration.batch_size was 1000, now 500"),
        ({"groups": "label"}, "groups"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_of_different_runs_are_refused_with_the_key(
    evaluated: Callable[..., certify.Evaluation], folder: Path, tmp_path: Path, settings: dict[str, Any], key: str
):
    evaluated(tmp_path / "other", "2/4", **settings)
    with pytest.raises(ManifestMismatch, match="are parts of different runs") as error:
        certify.merge(tmp_path / "merged", [folder / "parts" / "1", tmp_path / "other"])
    assert key in str(error.value)


def test_cuts_into_different_numbers_are_refused(
    evaluated: Callable[..., certify.Evaluation], folder: Path, tmp_path: Path
):
    evaluated(tmp_path / "other", "2/3")
    with pytest.raises(ManifestMismatch, match="cut into 3 and 4 parts"):
        certify.merge(tmp_path / "merged", [folder / "parts", tmp_path / "other"])


def test_a_directory_is_continued_as_its_own_shard_alone(
    evaluated: Callable[..., certify.Evaluation], folder: Path, parts: Path
):
    for shard, said in ((None, "shard was '2/4', now None"), ("3/4", "shard was '2/4', now '3/4'")):
        with pytest.raises(ManifestMismatch, match=said):
            evaluated(parts / "2", shard)
    before = (parts / "2" / "records.jsonl").read_bytes()
    evaluated(parts / "2", "2/4")
    assert (parts / "2" / "records.jsonl").read_bytes() == before


def test_damaged_tensors_do_not_come_into_the_merged_run(parts: Path, tmp_path: Path):
    file = next(file for file in parts.glob("*/tensors/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match="is not the file that the run stored"):
        certify.merge(tmp_path / "merged", [parts])
    assert not (tmp_path / "merged").exists()


def test_what_a_killed_merge_left_is_replaced(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "parts" / "1", tmp_path / "merged.merging")
    certify.merge(tmp_path / "merged", [folder / "parts"])
    assert lines(tmp_path / "merged") == lines(folder / "whole")


def test_nothing_is_overwritten(folder: Path, tmp_path: Path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidConfiguration, match="is there already"):
        certify.merge(tmp_path / "merged", [folder / "parts"])
    with pytest.raises(InvalidConfiguration, match="holds no run"):
        certify.merge(tmp_path / "other", [tmp_path / "merged"])
    with pytest.raises(InvalidConfiguration, match="at least one"):
        certify.merge(tmp_path / "other", [])


def test_more_shards_than_units_leave_some_empty(evaluated: Callable[..., certify.Evaluation], tmp_path: Path):
    for index in (1, 2, 3):
        found = evaluated(tmp_path / "parts" / str(index), f"{index}/3", methods=[IntervalBounds()])
        assert len(found.records) == (index <= 2)
    assert len(certify.merge(tmp_path / "merged", [tmp_path / "parts"]).records) == 2


def test_a_shard_that_is_none_is_refused(evaluated: Callable[..., certify.Evaluation], tmp_path: Path):
    with pytest.raises(InvalidInput, match="shard must be i/n"):
        evaluated(tmp_path / "out", "5/4")
