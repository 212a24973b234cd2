"""Options for many processes and machines, and the command that merges."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from oracles.commands import certify, records, refusal, write

from bounds.errors import InvalidConfiguration
from certify.cli import _exit_code
from certify.command_line.distributing import Placement, device_of, directory_of, engine_for, shard_of
from certify.configuration import sources
from certify.configuration.config import Config
from certify.configuration.keys import ModelSource
from certify.distribution import Processes, Shard
from certify.evaluation.storage.stored import StoredRecord

SLURM = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A configuration of eight quick units."""
    write(tmp_path, model='network = "noise"', data="count = 60")
    text = (tmp_path / "config.toml").read_text().replace("n = 200", "n = 30").replace("steps = 5", "steps = 1")
    requirement = '[[require]]\nmethod = "ibp"\nnorm = "inf"\nradius = 0.0\nat_least = 1.0\n'
    (tmp_path / "config.toml").write_text(f"{text}\n{requirement}")
    return tmp_path


@pytest.mark.slow
def test_tasks_of_an_array_make_the_run_of_one_process(project: Path, monkeypatch: pytest.MonkeyPatch):
    certify("run", "config.toml", "--output", "whole", cwd=project, expect=1)  # the threshold is missed
    for task in ("1", "2"):
        for name, value in (SLURM | {"SLURM_ARRAY_TASK_ID": task}).items():
            monkeypatch.setenv(name, value)
        told = certify("run", "config.toml", "--output", "parts", cwd=project)
        assert f"note: shard {task}/2, from SLURM_ARRAY_TASK_ID; --shard 1/1 runs everything" in told
        assert f"shard {task}/2 is finished: " in told
        assert "missed" not in told
    assert (project / "parts" / "shard-2-of-2" / "records.jsonl").exists()
    told = certify("merge", "merged", "parts", cwd=project, expect=1)
    assert "missed: ibp" in told
    assert records(project / "merged") == records(project / "whole")
    assert (project / "merged" / "report.html").exists()
    drawn = [(project / name / "cross_sections.json").read_bytes() for name in ("whole", "merged")]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 1000
    assert "is there already" in refusal("merge", "merged", "parts", cwd=project)


@pytest.mark.slow
def test_where_the_model_is_not_at_hand_merging_says_how_cross_sections_are_drawn(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for shard in ("1/2", "2/2"):
        certify("run", "config.toml", "--shard", shard, "--output", f"parts/{shard[0]}", cwd=project)

    def gone(*_: object) -> None:
        raise InvalidConfiguration("weights cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(sources, "load_model", gone)
        patch.chdir(project)
        assert _exit_code(["merge", "merged", "parts"]) == 1
    said = capsys.readouterr()
    assert "note: no cross sections: weights cannot be read: `certify resume merged` draws them" in said.err
    assert "missed: ibp" in said.out
    assert (project / "merged" / "report.html").exists()
    assert not (project / "merged" / "cross_sections.json").exists()
    certify("resume", "merged", cwd=project, expect=1)
    assert (project / "merged" / "cross_sections.json").exists()


@pytest.mark.slow
def test_a_run_that_goes_on_reads_its_lines_once(project: Path, monkeypatch: pytest.MonkeyPatch):
    certify("run", "config.toml", "--output", "run", cwd=project, expect=1)
    file = project / "run" / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    read, convert = [], msgspec.convert
    monkeypatch.setattr(
        msgspec, "convert", lambda value, kind, **more: (read.append(kind), convert(value, kind, **more))[1]
    )
    monkeypatch.chdir(project)
    for left in (len(lines), len(lines) - 2):
        file.write_bytes(b"".join(lines[:left]))
        read.clear()
        assert _exit_code(["resume", "run"]) == 1
        assert read.count(StoredRecord) == left
    assert len(file.read_bytes().splitlines()) == len(lines)


@pytest.mark.slow
def test_a_shard_is_resumed_as_that_shard(project: Path):
    certify("run", "config.toml", "--shard", "2/2", "--output", "part", cwd=project)
    before = records(project / "part")
    lines = (project / "part" / "records.jsonl").read_text().splitlines(keepends=True)
    (project / "part" / "records.jsonl").write_text("".join(lines[:-2]))
    assert "shard 2/2 is finished" in certify("resume", "part", cwd=project)
    assert records(project / "part") == before
    assert "shard 1/2 is missing" in refusal("merge", "merged", "part", cwd=project)
    assert "unfinished" in certify("check", "part", cwd=project, expect=1)
    certify("merge", "merged", "part", "--partial", cwd=project, expect=1)
    certify("resume", "merged", cwd=project, expect=1)
    assert "unfinished" not in certify("check", "merged", cwd=project, expect=1)


def test_the_flag_wins_over_the_launcher(capsys: pytest.CaptureFixture[str]):
    assert shard_of("1/1", SLURM) == Shard(1, 1)
    assert capsys.readouterr().err == ""
    assert shard_of(None, SLURM) == Shard(2, 2)
    assert "note: shard 2/2, from SLURM_ARRAY_TASK_ID" in capsys.readouterr().err
    assert shard_of(None, {}) == Shard(1, 1)


def test_only_a_launcher_makes_folders_inside(tmp_path: Path):
    assert directory_of(tmp_path, "2/8", Shard(2, 8)) == tmp_path
    assert directory_of(tmp_path, None, Shard(1, 1)) == tmp_path
    assert directory_of(tmp_path, None, Shard(2, 8)) == tmp_path / "shard-2-of-8"


def on(device: str) -> Config:
    return Config(model=ModelSource(network="ibp"), device=device)


@pytest.mark.parametrize(
    ("device", "rank", "found"),
    [
        ("cuda", None, "cuda"),
        ("cuda", "3", "cuda:3"),
        ("cuda:*", "3", "cuda:3"),
        ("cuda:*", None, "cuda:*"),
        ("cuda:1", "3", "cuda:1"),
        ("cpu", "3", "cpu"),
    ],
)
def test_processes_of_a_launcher_have_a_device_each(device: str, rank: str | None, found: str):
    assert device_of(on(device), {} if rank is None else {"LOCAL_RANK": rank}) == found


def test_engines_are_those_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert engine_for(on("cpu"), Placement()) is None
    assert engine_for(on("cpu"), Placement(workers=1)) is None
    found = engine_for(on("cpu"), Placement(workers=3))
    assert isinstance(found, Processes)
    assert (found.workers, found.devices) == (3, None)
    assert isinstance(engine_for(on("cpu"), Placement(engine="processes")), Processes)
    monkeypatch.setattr("torch.get_device_module", lambda kind: SimpleNamespace(device_count=lambda: 2))
    several = engine_for(on("cuda:*"), Placement(workers=2))
    assert isinstance(several, Processes)
    assert (several.workers, several.devices) == (2, ["cuda:0", "cuda:1"])
    monkeypatch.setattr("torch.get_device_module", lambda kind: SimpleNamespace(device_count=lambda: 1))
    assert engine_for(on("cuda:*"), Placement()) is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert engine_for(on("cuda:*"), Placement()) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "9/8"), "shard must be i/n"),
        (("--address", "auto"), "add --engine ray"),
        (("--engine", "here", "--workers", "2"), "--engine here is one process"),
        (("--workers", "0"), "workers"),
        (("--engine", "spark"), "spark"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: tuple[str, ...], said: str, project: Path):
    assert said in refusal("run", "config.toml", *options, cwd=project)


def test_all_devices_of_a_kind_that_is_not_there_are_refused(project: Path):
    text = (project / "config.toml").read_text()
    for device in ("xpu:*", "cpu:*"):
        (project / "config.toml").write_text(f'device = "{device}"\n{text}')
        assert f"device '{device}' cannot be used on this machine" in refusal("run", "config.toml", cwd=project)
